"""The records that components hand to one another. Values move one way, in these and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Key:
    """Names one random draw: the same key draws the same numbers on any worker, rank or restart."""

    seed: int
    epoch: int
    index: int


@dataclass(frozen=True)
class Sample:
    """One item of a data set: an RGB image and, where the set has them, its labels."""

    image: Image
    index: int
    label: int | None = None
    mask: Int[Tensor, "h w"] | None = None  # class of every pixel
    instances: Int[Tensor, "h w"] | None = None  # object of every pixel, 0 where there is none


@dataclass(frozen=True)
class View:
    """One augmented version of an image and the numbers that say where its pixels come from.

    `box` is (left, top, width, height) in source pixels, taken before the flip; `size` is (width, height) of the
    source. `mask` says which patches are hidden from the student, row-major over the patch grid; None if the view is
    of a kind that hides none. Augmenters make single views (no batch axis), a loader stacks them along a leading one.
    """

    pixels: Float[Tensor, "*b 3 h w"]
    box: Float[Tensor, "*b 4"]
    flip: Bool[Tensor, "*b"]
    size: Float[Tensor, "*b 2"]
    source: int = 0  # 0 = the query image, 1 = its partner, ...
    mask: Bool[Tensor, "*b n"] | None = None

    @staticmethod
    def stack(views: Sequence[View]) -> View:
        """One batched view out of single ones of the same kind.

        Raises:
            ValueError: some have a mask and others none.
        """
        masks = [v.mask for v in views if v.mask is not None]
        if len(masks) not in (0, len(views)):
            raise ValueError(
                f"{len(masks)} of {len(views)} views have a mask, but all views of one kind do or none does"
            )
        return View(
            pixels=torch.stack([v.pixels for v in views]),
            box=torch.stack([v.box for v in views]),
            flip=torch.stack([v.flip for v in views]),
            size=torch.stack([v.size for v in views]),
            source=views[0].source,
            mask=torch.stack(masks) if masks else None,
        )

    def to(self, device: torch.device | str) -> View:
        return replace(self, **{name: x.to(device, non_blocking=True) for name, x in self._tensors().items()})

    def pin_memory(self) -> View:
        return replace(self, **{name: x.pin_memory() for name, x in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}


@dataclass(frozen=True)
class Batch:
    """What one step trains on: views (globals first), and which images of which epoch they show."""

    views: tuple[View, ...]
    n_global: int
    index: Int[Tensor, " b"]
    epoch: int = 0
    seed: int = 0
    partner: Int[Tensor, " b"] | None = None  # image that views of source 1 show, where a method draws partners
    label: Int[Tensor, " b"] | None = None  # -1 where an image has none; watched only, never trained on

    @property
    def global_views(self) -> tuple[View, ...]:
        return self.views[: self.n_global]

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda x: x.to(device, non_blocking=True), tuple(v.to(device) for v in self.views))

    def pin_memory(self) -> Batch:
        return self._each(Tensor.pin_memory, tuple(v.pin_memory() for v in self.views))

    def _each(self, change: Callable[[Tensor], Tensor], views: tuple[View, ...]) -> Batch:
        partner = None if self.partner is None else change(self.partner)
        label = None if self.label is None else change(self.label)
        return replace(self, views=views, index=change(self.index), partner=partner, label=label)


@dataclass(frozen=True, eq=False)
class Rows:
    """Vectors together with where each comes from: its view, its place in the batch, the image that it shows."""

    rows: Float[Tensor, "n d"]
    view: Int[Tensor, " n"]
    item: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]  # 0 for rows that only keep a shape static

    def __len__(self) -> int:
        return self.rows.shape[0]

    @staticmethod
    def of(rows: Float[Tensor, "n d"]) -> Rows:
        """Plain rows, each the one view of an image of its own."""
        place = torch.arange(len(rows), device=rows.device)
        return Rows(rows, torch.zeros_like(place), place, place, rows.new_ones(len(rows)))

    def at(self, index: Int[Tensor, " m"]) -> Rows:
        """Some of the rows."""
        return Rows(self.rows[index], self.view[index], self.item[index], self.ids[index], self.weight[index])


@dataclass(frozen=True, eq=False)
class Features:
    """Outputs of one network's backbone: per view an image vector and the patch tokens on their grid."""

    images: tuple[Float[Tensor, "b d"], ...]
    patches: tuple[Float[Tensor, "b n d"], ...]
    grids: tuple[tuple[int, int], ...]
    index: Int[Tensor, " b"]
    sources: tuple[int, ...]
    partner: Int[Tensor, " b"] | None = None  # image that views of source 1 show

    @cached_property
    def image(self) -> Rows:
        """All image vectors, view-major."""
        return self._rows([x[:, None] for x in self.images])

    @cached_property
    def patch(self) -> Rows:
        """All patch tokens, view-major, then image, then row-major over the grid."""
        return self._rows(self.patches)

    def _shown(self, source: int) -> Int[Tensor, " b"]:
        return self.index if source == 0 or self.partner is None else self.partner

    def _rows(self, views: Sequence[Float[Tensor, "b n d"]]) -> Rows:
        device = self.index.device
        b, sizes = self.index.shape[0], [x.shape[1] for x in views]
        item = [torch.arange(b, device=device).repeat_interleave(n) for n in sizes]
        rows = torch.cat([x.flatten(0, 1) for x in views])
        return Rows(
            rows=rows,
            view=torch.cat([torch.full((b * n,), v, device=device) for v, n in enumerate(sizes)]),
            item=torch.cat(item),
            ids=torch.cat([self._shown(source)[i] for i, source in zip(item, self.sources, strict=True)]),
            weight=torch.ones(rows.shape[0], device=device),
        )


@dataclass(frozen=True, eq=False)
class Regions:
    """The parts of each image as seen in `v` of its global views: those that show the image and not its partner.

    Region `i` of the `r` in the view `views[v]` stands at row `v * r + i` in `student` and `teacher`, and is the same
    cluster of the same image in every view; regions are image-major, then by cluster. `valid` says which clusters have
    a token in every one of these views.
    """

    views: tuple[int, ...]
    labels: Int[Tensor, "v b n"]  # the cluster to which most of each token belongs
    assignment: Float[Tensor, "v b n k"]  # every non-empty column sums to 1 inside its view
    valid: Bool[Tensor, "b k"]
    student: Rows
    teacher: Rows
    cluster: Int[Tensor, " r"]
    place: Float[Tensor, "v r 2"]  # mean (x, y) of the region in source pixels

    @property
    def n_views(self) -> int:
        return self.assignment.shape[0]

    def __len__(self) -> int:
        """Regions per view."""
        return self.cluster.shape[0]

    def of_patches(self) -> tuple[Int[Tensor, "v b n"], Float[Tensor, "v b n"]]:
        """Number of the region that holds each patch, and the patch's share in it; share 0 where the region is idle."""
        cluster = self.labels
        share = self.assignment.gather(-1, cluster[..., None])[..., 0]
        b, k = self.valid.shape
        item = self.teacher.item[: len(self)]
        number = torch.zeros(b * k, dtype=torch.long, device=cluster.device)
        number[item * k + self.cluster] = torch.arange(len(self), device=cluster.device)
        of = torch.arange(b, device=cluster.device)[:, None] * k + cluster
        return number[of], share * self.valid.flatten()[of]


@dataclass(frozen=True, eq=False)
class Queries:
    """Rows that look for their like in a memory, in aligned planes: row `q` of every plane is the same thing."""

    rows: Float[Tensor, "p q d"]
    item: Int[Tensor, " q"]  # place of each query's image in `images`; never falls
    images: Int[Tensor, " b"]  # the images that were asked, also those without a query
    place: Float[Tensor, "p q 2"]  # mean (x, y) in source pixels
    weight: Float[Tensor, " q"]  # 0 for rows that only keep a shape static
    chance: Float[Tensor, "p q"]  # uniform in [0, 1), for matchers that draw

    @staticmethod
    def of(
        rows: Float[Tensor, "p q d"],
        counts: Sequence[int] | None = None,
        *,
        images: Int[Tensor, " b"] | None = None,
        chance: Float[Tensor, "p q"] | None = None,
    ) -> Queries:
        """Plain rows, one for each image, or `counts[i]` of them for image i.

        Args:
            images: their numbers in the data set; 0, 1, 2, ... if left out.
            chance: by which matchers draw; 0 everywhere if left out, so that they always draw alike.
        """
        planes, n, _ = rows.shape
        counts_ = torch.tensor([1] * n if counts is None else list(counts), device=rows.device)
        item = torch.arange(len(counts_), device=rows.device)
        return Queries(
            rows=rows,
            item=item.repeat_interleave(counts_),
            images=item if images is None else images,
            place=rows.new_zeros(planes, n, 2),
            weight=rows.new_ones(n),
            chance=rows.new_zeros(planes, n) if chance is None else chance,
        )

    @staticmethod
    def of_images(batch: Batch, features: Features) -> Queries:
        """The vector of every image, a plane for each view."""
        rows = torch.stack(features.images)
        centre = torch.stack([v.box[:, :2] + v.box[:, 2:] / 2 for v in batch.views[: len(rows)]])
        item = torch.arange(len(batch.index), device=batch.index.device)
        return Queries(rows, item, batch.index, centre, rows.new_ones(len(item)), rows.new_zeros(rows.shape[:2]))

    @staticmethod
    def joined(parts: Sequence[Queries]) -> Queries:
        """The queries of several batches as those of one."""
        first = torch.tensor([0, *(len(part.images) for part in parts[:-1])]).cumsum(dim=0).tolist()
        return Queries(
            rows=torch.cat([part.rows for part in parts], dim=1),
            item=torch.cat([part.item + n for part, n in zip(parts, first, strict=True)]),
            images=torch.cat([part.images for part in parts]),
            place=torch.cat([part.place for part in parts], dim=1),
            weight=torch.cat([part.weight for part in parts]),
            chance=torch.cat([part.chance for part in parts], dim=1),
        )

    def dropping_idle(self) -> Queries:
        """The same queries without those of weight 0."""
        keep = self.weight != 0
        return replace(
            self,
            rows=self.rows[:, keep],
            item=self.item[keep],
            place=self.place[:, keep],
            weight=self.weight[keep],
            chance=self.chance[:, keep],
        )


@dataclass(frozen=True, eq=False)
class Matches:
    """For each plane and query: an entry of the memory, how far to trust it, and the row found in that plane."""

    index: Int[Tensor, "p q"]
    weight: Float[Tensor, "p q"]
    rows: Float[Tensor, "p q d"]
    ids: Int[Tensor, "p q"]  # image of each entry found, -1 where the memory was empty
    place: Float[Tensor, "p q 2"]
    level: Literal["region", "image"] = "region"  # what the queries are
    output: str | None = None  # of the teacher's heads, where rows are embeddings from it; None: of the backbone

    @cached_property
    def _flat(self) -> Float[Tensor, "p*q d"]:
        """One tensor, whoever asks: a head sees each row once."""
        return self.rows.flatten(0, 1)

    def found(self, queries: Rows) -> Rows:
        """The rows that were found, plane-major, as targets of those who asked: theirs are the view and the item."""
        return Rows(self._flat, queries.view, queries.item, self.ids.flatten(), queries.weight)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Row `i[n]` of `prediction` should look like row `j[n]` of `target`, as much as `weight[n]` says.

    Weights are final: a loss is their weighted sum. Rows are distinct, so a head sees each of them once.
    """

    prediction: Rows
    target: Rows  # views and images of the rows tell contrastive losses which are negatives
    i: Int[Tensor, " n"]
    j: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]
    output: str | None = None  # of the teacher's heads, where target rows are embeddings from it already

    @staticmethod
    def diagonal(n: int, weight: Sequence[float] | None = None) -> Pairs:
        """Row `i` against row `i`, of equal weight unless given: for tests, and for rows that are aligned already."""
        rows, index = Rows.of(torch.zeros(n, 0)), torch.arange(n)
        final = torch.full((n,), 1 / n) if weight is None else torch.tensor(weight)
        return Pairs(rows, rows, index, index, final)


@dataclass(frozen=True, eq=False)
class Step:
    """Everything computed for one batch before its losses; what aligners choose from."""

    batch: Batch
    student: Features
    teacher: Features
    regions: Regions | None
    matches: Mapping[str, Matches]
    queries: Mapping[str, Queries] = field(default_factory=dict)  # what each search asked; memories take them in


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one batch came to: a loss per term, and what `update` needs to move the state."""

    losses: Mapping[str, Tensor]
    step: Step
    targets: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # per head: own raw logits, row weights
    offsets: Mapping[str, Tensor] = field(default_factory=dict)  # per head: what was taken off its logits

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.losses.values())).sum()
