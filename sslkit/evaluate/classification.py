"""What protocols share that classify images by the vectors of a frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sslkit.evaluate.base import Backbone, Evaluation, evaluating, outputs_at, refuse_not_finite
from sslkit.evaluate.pixels import normalised, to_levels
from sslkit.evaluate.samples import Samples, Subset, drawn
from sslkit.types import Sample


class Classification(Evaluation):
    """Labelled images to learn from and others to be tested on.

    Args:
        use: what the images are for, in words; part of what their draw is keyed by.

    Raises:
        ValueError: there are too few images, or the square is larger than the resized image.
    """

    headline = "accuracy"

    def __init__(
        self,
        use: str,
        *,
        train: Samples,
        val: Samples,
        image_size: int,
        resize: int | None,
        n_train: int | None,
        n_val: int | None,
        batch_size: int,
        n_workers: int,
        seed: int,
    ):
        if resize is not None and resize < image_size:
            raise ValueError(f"resize={resize}, but a square of image_size={image_size} is to be cut out")
        self.train = drawn("train", train, n_train, seed=seed, use=use)
        self.val = drawn("val", val, n_val, seed=seed, use=use)
        self.use, self.image_size, self.resize = use, image_size, resize
        self.batch_size, self.n_workers, self.seed = batch_size, n_workers, seed

    def check(self, backbone: Backbone) -> None:
        """Look at what can be known from one image of each set.

        Raises:
            ValueError: the backbone does not take images of this size, an image has no label, or a label is another
                class in `val` than in `train`.
        """
        outputs_at(backbone, self.image_size)
        for chosen in (self.train, self.val):
            label_of(chosen[0], chosen.place(0))
        known, asked = _classes(self.train), _classes(self.val)
        if known is None or asked is None:
            return
        for label, name in enumerate(asked):
            if name not in known[label : label + 1]:
                other = f"{known[label]!r} in train" if label < len(known) else f"train has {len(known)} classes"
                raise ValueError(f"the label {label} is {name!r} in val, but {other}")

    def batches(
        self, chosen: Subset, what: str
    ) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Int[Tensor, " b"], Int[Tensor, " b"]]]:
        """Levels from 0 to 1, numbers in the data set and labels of the images, on the host; the bar says `what`."""
        # a generator of its own: a loader without one draws from torch's, and a run would differ by being evaluated
        loader = DataLoader(
            _Prepared(chosen, self.image_size, self.resize),
            batch_size=self.batch_size,
            num_workers=self.n_workers,
            generator=torch.Generator(),
        )
        yield from tqdm(loader, desc=f"{what}, {chosen.name}", leave=False, disable=None)

    @torch.no_grad()
    def vectors(
        self, chosen: Subset, backbone: Backbone, device: torch.device | str
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Image vectors on the device, in float32, and their labels on the host.

        Raises:
            NotFinite: one of them has NaN or infinity.
        """
        rows, labels = [], []
        with evaluating(backbone):
            for levels, index, label in self.batches(chosen, self.use):
                image, _, _ = backbone(normalised(levels.to(device)))
                refuse_not_finite(image, chosen.name, index)
                rows.append(image.float())
                labels.append(label)
        return torch.cat(rows), torch.cat(labels)

    def truth(self, labels: Int[Tensor, " n"], images: Sequence[int], classes: Int[Tensor, " c"]) -> Int[Tensor, " n"]:
        """The place of each validation label among the classes of `train`; their number for a label that is not there.

        Args:
            images: the numbers of the images in `val`.

        Raises:
            ValueError: one is not there although `train` was used whole and has no `classes` that would explain it.
        """
        truth = numbers_of(labels, classes)
        lost = (truth == len(classes)).nonzero()[:, 0].tolist()
        if lost and len(self.train) == len(self.train.samples) and _classes(self.train) is None:
            label = int(labels[lost[0]])
            raise ValueError(f"val[{images[lost[0]]}] has the label {label}, but no image of train has it")
        return truth


def numbers_of(labels: Int[Tensor, " n"], classes: Int[Tensor, " c"]) -> Int[Tensor, " n"]:
    """The place of each label among the classes, which rise; their number for a label that is not there."""
    return torch.where(torch.isin(labels, classes), torch.searchsorted(classes, labels), len(classes))


def label_of(sample: Sample, place: str) -> int:
    """The label of a sample.

    Raises:
        ValueError: it has none.
    """
    if sample.label is None:
        raise ValueError(f"{place} has no label, which a classification needs")
    return int(sample.label)


def _classes(chosen: Subset) -> tuple[str, ...] | None:
    """The names of the labels, where the data set has them."""
    names = getattr(chosen.samples, "classes", None)
    return tuple(names) if isinstance(names, (list, tuple)) else None


class _Prepared(Dataset[tuple[Tensor, int, int]]):
    """Levels, number in the data set and label of each sample."""

    def __init__(self, chosen: Subset, image_size: int, resize: int | None):
        self.chosen, self.image_size, self.resize = chosen, image_size, resize

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        sample = self.chosen[i]
        levels = to_levels(sample.image, self.image_size, resize=self.resize)
        return levels, self.chosen.indices[i], label_of(sample, self.chosen.place(i))
