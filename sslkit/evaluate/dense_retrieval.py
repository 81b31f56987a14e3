"""Segmentation without training: every patch is labelled by its nearest neighbours among labelled patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sslkit import draws
from sslkit.evaluate.base import Backbone, Evaluation, evaluating, outputs_at, refuse_not_finite
from sslkit.evaluate.pixels import to_pixels
from sslkit.evaluate.samples import Samples, Subset, drawn
from sslkit.evaluate.search import nearest
from sslkit.parameters import Count, Natural, Positive, Seed, Within
from sslkit.registry import register


@register("evaluate")
class DenseRetrieval(Evaluation):
    """mIoU of dense nearest-neighbour retrieval: soft labels of like training patches, averaged, then upsampled.

        p(c) = sum_k  softmax_k(cos_k / temperature)  label_k(c)      over the nearest patches k of the memory

    The memory holds l2-normalised patches of the training images with the class histogram of their pixels. The map of
    a validation image is upsampled (bilinear, align_corners=False) to its mask, and its argmax is counted in one
    confusion matrix for the whole set. Images are resized to the square input; masks keep their own resolution. Search
    is exact, in float32, over chunks of queries and memory. Validation images pass one batch at a time.

    The mean runs over the classes that occur in the ground truth or the prediction. The evaluator below gives a class
    that occurs in neither an IoU of 0 instead; wherever all classes occur the numbers are the same.

    Args:
        train, val: data sets whose samples have masks.
        n_classes: labels are 0 to `n_classes` - 1, besides `ignore_index`.
        image_size: side of the square input in pixels; None leaves images as they are.
        ignore_index: the void label, never scored (255 in VOC and ADE20K, 11 in CamVid).
        void_as_class_zero: count void pixels of the memory as class 0, as the evaluator below does; otherwise they are
            left out of the histogram, and a patch of nothing else out of the memory.
        memory_size: about how many patches to keep, the same number of each image, rare classes first; None = all.
        n_train, n_val: use so many images, drawn by `seed`; a smaller draw is part of a larger one. None = all.
        n_workers: processes that read images.

    Raises:
        ValueError: an argument is out of its range; on calling, a mask is missing or has another label, or the memory
            holds fewer than `n_neighbours` patches.
        NotFinite: on calling, a feature is NaN or infinite.

    Source: Towards In-Context Scene Understanding (arXiv:2306.01667) as defined by
    https://github.com/vpariza/open-hummingbird-eval. Differences: no augmentation of the memory, masks at full
    resolution, void left out, absent classes left out, the usual constant 0.225 for the deviation of blue.
    """

    headline = "miou"

    def __init__(
        self,
        *,
        train: Samples,
        val: Samples,
        n_classes: Annotated[int, Within(least=2)],
        n_neighbours: Count = 30,
        temperature: Positive = 0.02,
        image_size: Count | None = 512,
        ignore_index: int = 255,
        void_as_class_zero: bool = False,
        memory_size: Count | None = None,
        n_train: Count | None = None,
        n_val: Count | None = None,
        batch_size: Count = 16,
        n_workers: Natural = 0,
        seed: Seed = 0,
    ):
        if 0 <= ignore_index < n_classes:
            raise ValueError(f"ignore_index={ignore_index}, but it is one of the n_classes={n_classes} that are scored")
        self.train = drawn("train", train, n_train, seed=seed, use="dense retrieval")
        self.val = drawn("val", val, n_val, seed=seed, use="dense retrieval")
        if memory_size is not None and memory_size < len(self.train):
            raise ValueError(f"memory_size={memory_size}, but it must hold a patch of each of {len(self.train)} images")
        self.n_classes, self.n_neighbours, self.temperature = n_classes, n_neighbours, temperature
        self.image_size, self.ignore_index, self.void_as_class_zero = image_size, ignore_index, void_as_class_zero
        self.memory_size, self.batch_size, self.n_workers, self.seed = memory_size, batch_size, n_workers, seed

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, float | int | list[float | None]]:
        """`miou`, `iou` per class (None where it does not occur), pixel `accuracy`, and how much was looked at.

        The backbone is on `device` already. A module is put in evaluation mode and back again.
        """
        device = torch.device(device)
        counts = torch.zeros(self.n_classes, self.n_classes, dtype=torch.long, device=device)
        with evaluating(backbone), torch.no_grad():
            memory, labels = self.remember(backbone, device)
            for patches, grid, masks, _ in self._features("val", self.val, backbone, device):
                soft = retrieve(patches.flatten(0, 1), memory, labels, self.n_neighbours, self.temperature)
                for image, mask in zip(soft.view(*patches.shape[:2], -1), masks, strict=True):
                    prediction = upsample(image, grid, mask.shape).argmax(dim=0)
                    counts += confusion(prediction, mask, self.n_classes, self.ignore_index)
        iou = intersection_over_union(counts)
        return {
            "miou": iou.nanmean().item(),
            "iou": [None if np.isnan(x) else x for x in iou.tolist()],
            "accuracy": (counts.diag().sum() / counts.sum()).item(),
            "n_memory": len(memory),
            "n_train": len(self.train),
            "n_val": len(self.val),
        }

    def check(self, backbone: Backbone) -> None:
        """Look at what can be known without reading an image.

        Raises:
            ValueError: the backbone does not take images of this size, or the memory cannot hold enough patches.
        """
        if self.image_size is None:
            return
        _, patches, _ = outputs_at(backbone, self.image_size)
        per_image = patches.shape[1] if self.memory_size is None else self.memory_size // len(self.train)
        most = min(per_image, patches.shape[1]) * len(self.train)
        if most < self.n_neighbours:
            raise ValueError(f"n_neighbours={self.n_neighbours}, but the memory holds {most} patches at most")

    @torch.no_grad()
    def remember(self, backbone: Backbone, device: torch.device) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m c"]]:
        """Patches of the training images, l2-normalised, and their soft labels."""
        rows, labels = [], []
        void = 0 if self.void_as_class_zero else None
        for patches, grid, masks, index in self._features("train", self.train, backbone, device):
            noise = draws.uniform(self.seed, 0, index, patches.shape[1], "dense retrieval memory")
            for image, mask, chance in zip(patches, masks, noise, strict=True):
                label = patch_labels(mask, grid, self.n_classes, self.ignore_index, void_as=void)
                n_keep = len(label) if self.memory_size is None else self.memory_size // len(self.train)
                kept = choose(label, n_keep, chance)
                rows.append(image[kept])
                labels.append(label[kept])
        if sum(map(len, rows)) < self.n_neighbours:
            raise ValueError(f"n_neighbours={self.n_neighbours}, but the memory holds {sum(map(len, rows))} patches")
        return torch.cat(rows), torch.cat(labels)

    def _features(
        self, name: str, chosen: Subset, backbone: Backbone, device: torch.device
    ) -> Iterator[tuple[Float[Tensor, "b n d"], tuple[int, int], list[Int[Tensor, "h w"]], Int[Tensor, " b"]]]:
        """Normalised patches, grid, masks and indices of the images, in batches of one size of image."""
        batch: list[tuple[Tensor, Tensor, int]] = []

        def passed() -> tuple[Tensor, tuple[int, int], list[Tensor], Tensor]:
            pixels, masks, index = zip(*batch, strict=True)
            _, patches, grid = backbone(torch.stack(pixels).to(device))
            refuse_not_finite(patches, name, torch.tensor(index))
            placed = [mask.to(device) for mask in masks]
            return F.normalize(patches.float(), dim=-1), grid, placed, torch.tensor(index, device=device)

        # a generator of its own: a loader without one draws from torch's, and a run would differ by being evaluated
        prepared = _Prepared(chosen, self.image_size, self.n_classes, self.ignore_index)
        loader = DataLoader(prepared, batch_size=None, num_workers=self.n_workers, generator=torch.Generator())
        for item in tqdm(loader, desc=f"dense retrieval, {name}", leave=False, disable=None):
            if batch and (len(batch) == self.batch_size or item[0].shape != batch[0][0].shape):
                yield passed()
                batch = []
            batch.append(item)
        yield passed()


def patch_labels(
    mask: Int[Tensor, "h w"], grid: tuple[int, int], n_classes: int, ignore_index: int, *, void_as: int | None = None
) -> Float[Tensor, "n c"]:
    """Share of each class among the pixels of each patch, row-major over `grid`; all zero where all are void.

    A mask whose sides the grid does not divide is first enlarged, by nearest pixels, to the next multiples.

    Args:
        void_as: the class to count void pixels as; None leaves them out.
    """
    rows, columns = (_stretch(side, parts).to(mask.device) for side, parts in zip(mask.shape, grid, strict=True))
    cells = mask[rows][:, columns].long().view(grid[0], len(rows) // grid[0], grid[1], -1)
    cells = cells.transpose(1, 2).flatten(2).flatten(0, 1)
    cells = cells.where(cells != ignore_index, n_classes if void_as is None else void_as)
    counts = torch.zeros(len(cells), n_classes + 1, device=mask.device)
    counts = counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=counts.dtype))[:, :n_classes]
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1)


def _stretch(n: int, parts: int) -> Int[Tensor, " m"]:
    """For each place of the next multiple of `parts`, the one of `n` places that is nearest."""
    m = -(-n // parts) * parts
    return (2 * torch.arange(m) + 1) * n // (2 * m)


def choose(labels: Float[Tensor, "n c"], n_keep: int, noise: Float[Tensor, " n"]) -> Int[Tensor, " k"]:
    """Indices, ascending, of at most `n_keep` patches of one image, those of rare classes first; none that is void.

        score = noise  sum over the classes in the patch of how many patches of the image have the class

    The smallest scores are kept.
    """
    known = labels.any(dim=1)
    present = (labels > 0).to(labels.dtype)
    score = (present @ present.sum(dim=0) * noise).masked_fill(~known, torch.inf)
    return score.argsort(stable=True)[: min(n_keep, int(known.sum()))].sort().values


def vote(similarity: Float[Tensor, "q k"], labels: Float[Tensor, "q k c"], temperature: float) -> Float[Tensor, "q c"]:
    """Mean of the neighbours' labels, weighted by the softmax of similarity over temperature."""
    weight = (similarity / temperature).softmax(dim=1)
    return (weight[..., None] * labels).sum(dim=1)


def retrieve(
    queries: Float[Tensor, "q d"],
    memory: Float[Tensor, "m d"],
    labels: Float[Tensor, "m c"],
    k: int,
    temperature: float,
    *,
    query_chunk: int = 1024,
    memory_chunk: int = 16384,
) -> Float[Tensor, "q c"]:
    """Soft label of each query, voted by its `k` nearest in the memory; chunks bound the space, not the result."""
    found = []
    for start in range(0, len(queries), query_chunk):
        similarity, index = nearest(queries[start : start + query_chunk], memory, k, chunk=memory_chunk)
        found.append(vote(similarity, labels[index], temperature))
    return torch.cat(found)


def upsample(soft: Float[Tensor, "n c"], grid: tuple[int, int], size: Sequence[int]) -> Float[Tensor, "c h w"]:
    """Soft labels of the patches of one image, interpolated bilinearly to (height, width)."""
    image = soft.mT.reshape(1, -1, *grid)
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)[0]


def confusion(
    prediction: Int[Tensor, "*s"], truth: Int[Tensor, "*s"], n_classes: int, ignore_index: int
) -> Int[Tensor, "c c"]:
    """Counts of pixels by true class (row) and predicted class (column), void ones left out."""
    known = truth != ignore_index
    cell = truth[known].long() * n_classes + prediction[known]
    return cell.bincount(minlength=n_classes**2).view(n_classes, n_classes)


def intersection_over_union(counts: Int[Tensor, "c c"]) -> Float[Tensor, " c"]:
    """IoU of each class, NaN for one that occurs neither in the truth nor in the prediction; in float64."""
    both = counts.diag()
    return both.double() / (counts.sum(dim=0) + counts.sum(dim=1) - both)


class _Prepared(Dataset[tuple[Tensor, Tensor, int]]):
    """Pixels as the backbone wants them, mask and index of each sample."""

    def __init__(self, chosen: Subset, image_size: int | None, n_classes: int, ignore_index: int):
        self.chosen, self.image_size, self.n_classes, self.ignore_index = chosen, image_size, n_classes, ignore_index

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        sample, place = self.chosen[i], self.chosen.place(i)
        if sample.mask is None:
            raise ValueError(f"{place} has no mask, which dense retrieval needs")
        other = sample.mask[(sample.mask != self.ignore_index) & ((sample.mask < 0) | (sample.mask >= self.n_classes))]
        if len(other):
            raise ValueError(
                f"the mask of {place} has the label {int(other[0])}, but n_classes={self.n_classes} and "
                f"ignore_index={self.ignore_index}"
            )
        return to_pixels(sample.image, self.image_size), sample.mask, sample.index
