"""Labelled images as protocols on whole images read them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sslkit.evaluate.pixels import to_pixels
from sslkit.evaluate.samples import Subset
from sslkit.types import Sample


def labelled(
    chosen: Subset, *, image_size: int, resize: int | None, batch_size: int, n_workers: int
) -> DataLoader[tuple[Tensor, int, int]]:
    """Batches of pixels, labels and places in the data set, in its order.

    Args:
        image_size, resize: as `to_pixels` takes them.
    """
    # a generator of its own: a loader without one draws from torch's, and a run would differ by being evaluated
    prepared = _Prepared(chosen, image_size, resize)
    return DataLoader(prepared, batch_size=batch_size, num_workers=n_workers, generator=torch.Generator())


def _label_of(sample: Sample, place: str) -> int:
    """The label of a sample.

    Raises:
        ValueError: it has none.
    """
    if sample.label is None:
        raise ValueError(f"{place} has no label, which this protocol needs")
    return int(sample.label)


def numbers_of(labels: Int[Tensor, " n"], classes: Int[Tensor, " c"]) -> Int[Tensor, " n"]:
    """The place of each label among the classes, which rise; their number for a label that is not there."""
    return torch.where(torch.isin(labels, classes), torch.searchsorted(classes, labels), len(classes))


def _names_of(chosen: Subset) -> tuple[str, ...] | None:
    """The names of the labels, where the data set has them."""
    names = getattr(chosen.samples, "classes", None)
    return tuple(names) if isinstance(names, (list, tuple)) else None


def refuse_unlike_labels(train: Subset, val: Subset) -> None:
    """Look at what can be known of the labels from one image of each set.

    Raises:
        ValueError: an image has no label, or a label is another class in `val` than in `train`.
    """
    for chosen in (train, val):
        _label_of(chosen[0], chosen.place(0))
    known, asked = _names_of(train), _names_of(val)
    if known is None or asked is None:
        return
    for label, name in enumerate(asked):
        if name not in known[label : label + 1]:
            other = f"{known[label]!r} in train" if label < len(known) else f"train has {len(known)} classes"
            raise ValueError(f"the label {label} is {name!r} in val, but {other}")


def refuse_unknown(train: Subset, val: Subset, asked: Int[Tensor, " n"], classes: Int[Tensor, " c"]) -> None:
    """Refuse labels of `val` that no image of `train` has, unless a draw or the names of the classes explain it.

    Raises:
        ValueError: naming the first such image.
    """
    lost = (~torch.isin(asked, classes)).nonzero()[:, 0].tolist()
    if lost and len(train) == len(train.samples) and _names_of(train) is None:
        raise ValueError(f"{val.place(lost[0])} has the label {int(asked[lost[0]])}, but no image of train has it")


class _Prepared(Dataset[tuple[Tensor, int, int]]):
    """Pixels as the backbone wants them, label and place of each sample."""

    def __init__(self, chosen: Subset, image_size: int, resize: int | None):
        self.chosen, self.image_size, self.resize = chosen, image_size, resize

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        sample = self.chosen[i]
        pixels = to_pixels(sample.image, self.image_size, resize=self.resize)
        return pixels, _label_of(sample, self.chosen.place(i)), self.chosen.indices[i]
