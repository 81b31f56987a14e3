"""Classification without training: every image is labelled by its nearest neighbours among labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from sslkit.evaluate.base import Backbone
from sslkit.evaluate.classification import Classification, numbers_of
from sslkit.evaluate.samples import Samples
from sslkit.evaluate.search import nearest
from sslkit.parameters import Count, Natural, Positive, Seed
from sslkit.registry import register

QUERIES = 1024  # searched for at a time


@register("evaluate")
class NearestNeighbours(Classification):
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
        NotFinite: on calling, a feature is NaN or infinite.

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
        super().__init__(
            "nearest neighbours",
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
        if max(n_neighbours) > len(self.train):
            raise ValueError(f"n_neighbours={n_neighbours}, but there are {len(self.train)} training images")
        self.n_neighbours, self.temperature = tuple(n_neighbours), temperature

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, float | int]:
        """`accuracy` and `accuracy@K` for each number of neighbours, `top5`, and how much was looked at.

        `top5` is for the first number, and left out of fewer than 5 classes; `nearest_agreement` is the share of
        validation images whose nearest neighbour has their label. The backbone is on `device` already. A module is put
        in evaluation mode and back again.
        """
        device = torch.device(device)
        memory, known = self.vectors(self.train, backbone, device)
        queries, asked = self.vectors(self.val, backbone, device)
        memory, queries = F.normalize(memory, dim=-1), F.normalize(queries, dim=-1)
        classes = known.unique()
        labels, truth = numbers_of(known, classes), self.truth(asked, self.val.indices, classes)
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
