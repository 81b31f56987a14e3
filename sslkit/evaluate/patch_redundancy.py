"""How alike the patches of one image are, and how much of what the image shows one of them tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit import draws, ops
from sslkit.evaluate.base import Backbone, evaluating, outputs_at, refuse_not_finite
from sslkit.evaluate.classification import Classification
from sslkit.evaluate.pixels import normalised
from sslkit.evaluate.ridge import Ridge, Sums, fitted
from sslkit.evaluate.samples import Samples, Subset
from sslkit.parameters import Count, Natural, Seed
from sslkit.registry import register

USE = "patch redundancy"
HELD_OUT = 5  # one training image in so many chooses the penalty
RESOLUTION = 1e-6  # of its length: what is left of a patch beside the mean patch and shorter is rounding


@register("evaluate")
class PatchRedundancy(Classification):
    """How alike the patches of an image are, and how often one patch alone tells the label of its image.

    Of the patches p_1 ... p_n of each validation image, averaged over images:

        cosine_within    mean of cos(p_i, p_j), i != j
        cosine_between   the same of all pairs of patches of two images: the reference
        cosine_to_mean   mean of cos(p_i, p_1 + ... + p_n)
        rank_within      effective rank of p_1 ... p_n
        rank_between     the same of n patches of different images: the reference
        rank_all         effective rank of all patches

    Cosines are given raw, and as `centred_...` after the mean patch of the training images is taken off, as it is for
    ranks. They are exact, from sums: no pair is left out, and no row is kept but those of `rank_between`, which takes
    one patch of every image at a position drawn by `seed`, or as many as fill one group of n, and averages over groups.
    A rank within cannot exceed n nor the width, which is why it has a reference of as many rows.

    A ridge regression onto one-hot labels is fitted to all patches of the training images, each with the label of its
    image, and a second one to the image vectors; the largest score is the prediction, of equal ones the lowest label:

        accuracy_patch   from one patch, mean over `accuracy_by_position`
        accuracy_vote    by the votes of all patches of an image, one each
        accuracy_image   from the image vector

    It is solved in closed form, in float64, from sums over rows. The factor of squared weights, beside the mean squared
    error, is the one of 1e-6 ... 1e2 times the mean variance of a feature whose error is least on a fifth of the
    training images, drawn by `seed`; the regression is then fitted to all. A validation image whose class has no
    training image counts as wrong.

    Args:
        train, val: data sets whose samples have labels. Where both have `classes`, their names must agree.
        image_size: side of the square input in pixels.
        resize: bring the shorter side to so many pixels and cut the square out of the middle; None squeezes the whole
            image into the square.
        n_train, n_val: use so many images, drawn by `seed`; a smaller draw is part of a larger one. None = all.
        n_workers: processes that read images.

    Raises:
        ValueError: an argument is out of its range, a set has fewer than 2 images, or the square is larger than the
            resized image; on calling, the backbone makes one patch only, a sample has no label, or one that no image of
            `train` has, where `train` was used whole and has no `classes` that would explain it.
        NotFinite: on calling, a feature is NaN or infinite.

    Source: CO-SSL (arXiv:2501.02860) finds its local representations highly redundant; how it measures that is not
    known to us, so the form is ours. Effective rank: Roy and Vetterli 2007.

    Example:
        >>> from sslkit.datasets import Scenes
        >>> train, val = (Scenes(n_images=8, size=32, objects=(1, 1), split=split) for split in ("train", "val"))
        >>> def backbone(pixels):
        ...     patches = pixels.unfold(2, 16, 16).unfold(3, 16, 16).mean(dim=(4, 5))
        ...     return patches.mean(dim=(2, 3)), patches.flatten(2).mT, tuple(patches.shape[2:])
        >>> found = PatchRedundancy(train=train, val=val, image_size=32)(backbone, "cpu")
        >>> found["grid"], len(found["accuracy_by_position"])
        ([2, 2], 4)
    """

    headline = "centred_cosine_within"

    def __init__(
        self,
        *,
        train: Samples,
        val: Samples,
        image_size: Count = 224,
        resize: Count | None = None,
        n_train: Count | None = None,
        n_val: Count | None = None,
        batch_size: Count = 64,
        n_workers: Natural = 0,
        seed: Seed = 0,
    ):
        super().__init__(
            USE,
            train=train,
            val=val,
            image_size=image_size,
            resize=resize,
            n_train=n_train,
            n_val=n_val,
            batch_size=batch_size,
            n_workers=n_workers,
            seed=seed,
        )
        if len(self.train) < 2:
            raise ValueError("train has 1 image to use, but one is to be held out and one fitted to")
        if len(self.val) < 2:
            raise ValueError("val has 1 image to use, but patches are to be compared with those of another")

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, float | int | list[Any]]:
        """The numbers named above, the penalties chosen, the `grid` of patches, and how much was looked at.

        `accuracy_by_position` is row-major over the grid. The backbone is on `device` already. A module is put in
        evaluation mode and back again.
        """
        device = torch.device(device)
        with evaluating(backbone), torch.no_grad():
            patch, image = self._fitted(backbone, device)
            return self._measured(patch, image, backbone, device)

    def check(self, backbone: Backbone) -> None:
        """Look at what can be known from one image of each set.

        Raises:
            ValueError: the backbone does not take images of this size, or makes one patch of them, an image has no
                label, or a label is another class in `val` than in `train`.
        """
        super().check(backbone)
        _refuse_single(outputs_at(backbone, self.image_size)[1], self.image_size)

    def _fitted(self, backbone: Backbone, device: torch.device) -> tuple[Ridge, Ridge]:
        """Regressions from single patches and from image vectors."""
        indices = torch.tensor(self.train.indices)
        order = draws.uniform(self.seed, 0, indices, 1, f"{USE} held out")[:, 0].argsort(stable=True)
        held_out = indices[order[: max(1, len(indices) // HELD_OUT)]]
        sums: dict[tuple[str, bool], Sums] = {}
        for images, patches, _, labels, index in self._features(self.train, backbone, device):
            is_out = torch.isin(index, held_out)
            for out in (False, True):
                chosen = is_out == out
                for name, rows in (("patch", patches), ("image", images[:, None])):
                    here = Sums.of(rows[chosen.to(device)], labels[chosen])
                    sums[name, out] = sums[name, out] + here if (name, out) in sums else here
        return fitted(sums["patch", False], sums["patch", True]), fitted(sums["image", False], sums["image", True])

    def _measured(
        self, patch: Ridge, image: Ridge, backbone: Backbone, device: torch.device
    ) -> dict[str, float | int | list[Any]]:
        """What validation images say, beside what was learnt from the training images."""
        alike, right = _Alike(patch.mean, len(self.val), self.seed), _Right(patch, image)
        for images, patches, grid, labels, index in self._features(self.val, backbone, device):
            alike.add(patches, index)
            right.add(images, patches, grid, self.truth(labels, index.tolist(), patch.classes))
        return {
            **alike.numbers(),
            **right.numbers(),
            "penalty_patch": patch.penalty,
            "penalty_image": image.penalty,
            "dim": len(patch.mean),
            "n_classes": len(patch.classes),
            "n_train": len(self.train),
            "n_val": len(self.val),
        }

    def _features(
        self, chosen: Subset, backbone: Backbone, device: torch.device
    ) -> Iterator[
        tuple[Float[Tensor, "b e"], Float[Tensor, "b n d"], tuple[int, int], Int[Tensor, " b"], Int[Tensor, " b"]]
    ]:
        """Image vectors and patches in float64 on the device, the grid, and labels and places on the host."""
        for levels, index, labels in self.batches(chosen, USE):
            images, patches, grid = backbone(normalised(levels.to(device)))
            _refuse_single(patches, self.image_size)
            for features in (images, patches):
                refuse_not_finite(features, chosen.name, index)
            yield images.double(), patches.double(), grid, labels, index


def _refuse_single(patches: Float[Tensor, "b n d"], image_size: int) -> None:
    if patches.shape[1] < 2:
        raise ValueError(f"image_size={image_size}, but then the backbone makes 1 patch, and a pair takes 2")


class _Alike:
    """Cosines and ranks of the patches of `n_images`, raw and with the mean patch taken off."""

    def __init__(self, mean: Float[Tensor, " d"], n_images: int, seed: int):
        self.mean, self.n_images, self.seed = mean, n_images, seed
        self.cosines = {"": _Cosines(), "centred_": _Cosines()}
        self.scatter = torch.outer(mean, mean).zero_()
        self.ranks: list[Float[Tensor, " b"]] = []
        self.some: list[Float[Tensor, "b k d"]] = []  # patches that are grouped with those of other images
        self.order: list[Float[Tensor, " b"]] = []
        self.n_patches = 0

    def add(self, patches: Float[Tensor, "b n d"], index: Int[Tensor, " b"]) -> None:
        self.n_patches = n = patches.shape[1]
        left = patches - self.mean
        is_rounding = left.norm(dim=-1, keepdim=True) <= RESOLUTION * patches.norm(dim=-1, keepdim=True)
        left = left.masked_fill(is_rounding, 0.0)
        self.cosines[""].add(patches)
        self.cosines["centred_"].add(left)
        self.scatter += left.flatten(0, 1).mT @ left.flatten(0, 1)
        self.ranks.append(ops.effective_rank(ops.gram(left)))
        n_each = -(-n // self.n_images)
        places = draws.distinct(self.seed, 0, index, n, n_each, f"{USE} positions").to(left.device)
        self.some.append(left.gather(1, places[..., None].expand(-1, -1, left.shape[2])).float())
        self.order.append(draws.uniform(self.seed, 0, index, 1, f"{USE} groups")[:, 0])

    def numbers(self) -> dict[str, float]:
        n, order = self.n_patches, torch.cat(self.order).argsort(stable=True)
        mixed = torch.cat(self.some)[order.to(self.mean.device)].transpose(0, 1).flatten(0, 1)
        groups = mixed.split(n)[: len(mixed) // n]  # those of n patches
        return {
            **{f"{prefix}{name}": mean for prefix, cos in self.cosines.items() for name, mean in cos.means().items()},
            "rank_within": torch.cat(self.ranks).mean().item(),
            "rank_between": torch.stack([ops.effective_rank(ops.gram(group)) for group in groups]).mean().item(),
            "rank_all": ops.effective_rank(self.scatter).item(),
        }


class _Cosines:
    """Sums over the patches of each image, from which the mean over all pairs of patches follows.

    The cosines of all pairs of rows add up to the squared length of the sum of the unit rows.
    """

    def __init__(self) -> None:
        self.within: list[Float[Tensor, " b"]] = []
        self.to_mean: list[Float[Tensor, " b"]] = []
        self.squared: list[Float[Tensor, " b"]] = []  # length of the sum of each image
        self.total: list[Float[Tensor, " d"]] = []  # sum of each batch
        self.n_patches = 0

    def add(self, patches: Float[Tensor, "b n d"]) -> None:
        self.n_patches = n = patches.shape[1]
        unit = F.normalize(patches, dim=-1)
        of_image = unit.sum(dim=1)
        squared, own = of_image.square().sum(dim=1), unit.square().sum(dim=(1, 2))
        self.within.append((squared - own) / (n * (n - 1)))
        self.to_mean.append((of_image * F.normalize(patches.sum(dim=1), dim=-1)).sum(dim=1) / n)
        self.squared.append(squared)
        self.total.append(of_image.sum(dim=0))

    def means(self) -> dict[str, float]:
        """Over images, and over pairs of patches of different ones."""
        within, to_mean, squared = torch.cat(self.within), torch.cat(self.to_mean), torch.cat(self.squared)
        between = torch.stack(self.total).sum(dim=0).square().sum() - squared.sum()
        n_pairs = len(squared) * (len(squared) - 1) * self.n_patches**2
        return {
            "cosine_within": within.mean().item(),
            "cosine_between": (between / n_pairs).item(),
            "cosine_to_mean": to_mean.mean().item(),
        }


class _Right:
    """How often single patches, their votes and image vectors tell the label."""

    def __init__(self, patch: Ridge, image: Ridge):
        self.patch, self.image = patch, image
        self.by_patch: list[Bool[Tensor, "b n"]] = []
        self.by_vote: list[Bool[Tensor, " b"]] = []
        self.by_image: list[Bool[Tensor, " b"]] = []
        self.grid = (0, 0)

    def add(
        self,
        images: Float[Tensor, "b e"],
        patches: Float[Tensor, "b n d"],
        grid: tuple[int, int],
        truth: Int[Tensor, " b"],
    ) -> None:
        said, truth = self.patch.says(patches), truth.to(patches.device)
        votes = said.new_zeros(len(said), len(self.patch.classes)).scatter_add_(1, said, torch.ones_like(said))
        self.by_patch.append(said == truth[:, None])
        self.by_vote.append(votes.argmax(dim=1) == truth)  # of classes with as many votes the lowest
        self.by_image.append(self.image.says(images) == truth)
        self.grid = grid

    def numbers(self) -> dict[str, float | list[Any]]:
        patch, vote, image = (torch.cat(x).double().mean(dim=0) for x in (self.by_patch, self.by_vote, self.by_image))
        return {
            "accuracy_patch": patch.mean().item(),
            "accuracy_vote": vote.item(),
            "accuracy_image": image.item(),
            "accuracy_by_position": patch.tolist(),
            "grid": list(self.grid),
        }
