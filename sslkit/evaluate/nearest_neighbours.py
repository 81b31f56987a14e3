"""Classification without training: every image is labelled by its nearest neighbours among labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from sslkit.evaluate.base import Backbone, Evaluation, evaluating, outputs_at
from sslkit.evaluate.labelled import labelled, numbers_of, refuse_unknown, refuse_unlike_labels
from sslkit.evaluate.samples import Samples, Subset, drawn
from sslkit.evaluate.search import nearest
from sslkit.parameters import Count, Natural, Positive, Seed
from sslkit.registry import register

QUERIES = 1024  # searched for at a time


@register("evaluate")
class NearestNeighbours(Evaluation):
    """Accuracy of weighted nearest-neighbour classification with frozen image vectors.

        votes(c) = sum_k  exp(cos_k / temperature)  [label_k = c]      over the nearest training images k

    Vectors are l2-normalised, and the class of most votes is predicted; of classes with as many, the lowest label.
    Search is exact, in float32, over chunks of queries and memory. A validation image whose class has no image in the
    memory counts as wrong.

    Args:
        train, val: data sets whose samples have labels. Where both have `classes`, their names must agree.
        n_neighbours: how many neighbours vote, each number for itself; the first is the one of the headline.
        image_size: side of the square input in pixels.
        resize: bring the shorter side to so many pixels and cut the square out of the middle; None squeezes the whole
            image into the square.
        n_train, n_val: use so many images, drawn by `seed`; a smaller draw is part of a larger one. None = all.
        n_workers: processes that read images.

    Raises:
        ValueError: an argument is out of its range, there are fewer training images than neighbours, or the square is
            larger than the resized image; on calling, a sample has no label, or one that no image of `train` has,
            where `train` was used whole and has no `classes` that would explain it.

    Source: instance discrimination (arXiv:1805.01978) with the settings of DINO (arXiv:2104.14294), whose images are
    resized to 256 and cut to 224 pixels. Difference: a class without a vote is not among the five of `top5`.

    Example:
        >>> from sslkit.datasets import Scenes
        >>> train, val = (Scenes(n_images=8, size=32, objects=(1, 1), split=split) for split in ("train", "val"))
        >>> def backbone(pixels):
        ...     return pixels.mean(dim=(2, 3)), pixels.flatten(2).mT, tuple(pixels.shape[2:])
        >>> found = NearestNeighbours(train=train, val=val, n_neighbours=(3, 5), image_size=32)(backbone, "cpu")
        >>> [name for name in found if name.startswith("accuracy")]
        ['accuracy', 'accuracy@3', 'accuracy@5']
    """

    headline = "accuracy"

    def __init__(
        self,
        *,
        train: Samples,
        val: Samples,
        n_neighbours: Sequence[Count] = (10, 20),
        temperature: Positive = 0.07,
        image_size: Count = 224,
        resize: Count | None = None,
        n_train: Count | None = None,
        n_val: Count | None = None,
        batch_size: Count = 64,
        n_workers: Natural = 0,
        seed: Seed = 0,
    ):
        if not n_neighbours:
            raise ValueError(f"n_neighbours={n_neighbours}, but it must have a number")
        if resize is not None and resize < image_size:
            raise ValueError(f"resize={resize}, but a square of image_size={image_size} is to be cut out")
        self.train = drawn("train", train, n_train, seed=seed, use="nearest neighbours")
        self.val = drawn("val", val, n_val, seed=seed, use="nearest neighbours")
        if max(n_neighbours) > len(self.train):
            raise ValueError(f"n_neighbours={n_neighbours}, but there are {len(self.train)} training images")
        self.n_neighbours, self.temperature = tuple(n_neighbours), temperature
        self.image_size, self.resize = image_size, resize
        self.batch_size, self.n_workers = batch_size, n_workers

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, float | int]:
        """`accuracy` and `accuracy@K` for each number of neighbours, `top5`, and how much was looked at.

        `top5` is for the first number, and left out of fewer than 5 classes; `nearest_agreement` is the share of
        validation images whose nearest neighbour has their label. The backbone is on `device` already. A module is put
        in evaluation mode and back again.
        """
        device = torch.device(device)
        memory, known = self._vectors(self.train, backbone, device)
        queries, asked = self._vectors(self.val, backbone, device)
        classes = known.unique()
        labels, truth = numbers_of(known, classes), numbers_of(asked, classes)
        refuse_unknown(self.train, self.val, asked, classes)
        found, agrees = [], []
        parts = list(zip(queries.split(QUERIES), truth.split(QUERIES), strict=True))
        for rows, true in tqdm(parts, desc="nearest neighbours, search", leave=False, disable=None):
            similarity, index = (x.cpu() for x in nearest(rows, memory, max(self.n_neighbours)))
            found.append(places(similarity, labels[index], true, self.n_neighbours, len(classes), self.temperature))
            agrees.append(labels[index[:, 0]] == true)
        place_of_truth = torch.cat(found, dim=1)
        accuracy = _shares(place_of_truth < 1)
        return {
            "accuracy": accuracy[0],
            **{f"accuracy@{k}": share for k, share in zip(self.n_neighbours, accuracy, strict=True)},
            **({"top5": _shares(place_of_truth < 5)[0]} if len(classes) >= 5 else {}),
            "nearest_agreement": _shares(torch.cat(agrees)[None])[0],
            "n_classes": len(classes),
            "n_train": len(self.train),
            "n_val": len(self.val),
        }

    def check(self, backbone: Backbone) -> None:
        """Look at what can be known from one image of each set.

        Raises:
            ValueError: the backbone does not take images of this size, an image has no label, or a label is another
                class in `val` than in `train`.
        """
        outputs_at(backbone, self.image_size)
        refuse_unlike_labels(self.train, self.val)

    @torch.no_grad()
    def _vectors(
        self, chosen: Subset, backbone: Backbone, device: torch.device
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Image vectors on the device, l2-normalised, and their labels on the host."""
        rows, labels = [], []
        loader = labelled(
            chosen,
            image_size=self.image_size,
            resize=self.resize,
            batch_size=self.batch_size,
            n_workers=self.n_workers,
        )
        with evaluating(backbone):
            for pixels, label, _ in tqdm(loader, desc=f"nearest neighbours, {chosen.name}", leave=False, disable=None):
                image, _, _ = backbone(pixels.to(device))
                rows.append(F.normalize(image.float(), dim=-1))
                labels.append(label)
        return torch.cat(rows), torch.cat(labels)


def places(
    similarity: Float[Tensor, "q k"],
    labels: Int[Tensor, "q k"],
    truth: Int[Tensor, " q"],
    n_neighbours: Sequence[int],
    n_classes: int,
    temperature: float,
) -> Int[Tensor, "n q"]:
    """How many classes come before the true one, a row for each number of neighbours; all, where nobody votes for it.

    Classes come by their votes, falling, then by their number. Neighbours come by their similarity, falling. A true
    class of `n_classes` is one that no neighbour can have.
    """
    weight = ((similarity - similarity[:, :1]).double() / temperature).exp()  # a common factor changes no order
    votes = weight.new_zeros(len(truth), n_classes + 1)
    true = truth[:, None]
    found = {}
    for k in range(max(n_neighbours)):
        votes.scatter_add_(1, labels[:, k, None], weight[:, k, None])
        if k + 1 in n_neighbours:
            own = votes.gather(1, true)
            before = (votes > own) | ((votes == own) & (torch.arange(n_classes + 1, device=true.device) < true))
            found[k + 1] = before.sum(dim=1).where(own[:, 0] > 0, n_classes)
    return torch.stack([found[k] for k in n_neighbours])


def _shares(is_so: Bool[Tensor, "k n"]) -> list[float]:
    return is_so.double().mean(dim=1).tolist()
