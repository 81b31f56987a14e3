"""Small random inputs of every role, drawn from a seed; a step, queries and clusters as a method would make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sslkit.memories import Memory
from sslkit.types import Batch, Features, Matches, Pairs, Queries, Regions, Rows, Step, View

DIM = 5  # width of rows


def drawing(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*size: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*size, generator=drawing(seed))


def blank(x: Any) -> Any:
    """A tensor, record or several of them on the meta device, where a run is tried out before it starts."""
    if isinstance(x, Tensor):
        return x.detach().to("meta").requires_grad_(x.requires_grad)
    if is_dataclass(x) and not isinstance(x, type):
        return replace(x, **{field.name: blank(getattr(x, field.name)) for field in fields(x)})
    if isinstance(x, Mapping):
        return {name: blank(value) for name, value in x.items()}
    return tuple(map(blank, x)) if isinstance(x, tuple) else x


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


def images(
    b: int, n: int, d: int, k: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens around a few directions, positions in pixels, and distinct starting tokens."""
    draw = drawing(seed)
    directions = torch.randn(b, 3, d, generator=draw, dtype=dtype)
    which = torch.randint(3, (b, n), generator=draw)
    noise = torch.randn(b, n, d, generator=draw, dtype=dtype)
    tokens = directions.gather(1, which[..., None].expand(-1, -1, d)) + 0.5 * noise
    positions = 100 * torch.rand(b, n, 2, generator=draw, dtype=dtype)
    seeds = torch.rand(b, n, generator=draw).topk(k, dim=1).indices
    return tokens, positions, seeds


def push_of(
    counts: Sequence[int], *, draw: torch.Generator, first_image: int = 0, n_planes: int = 2, dim: int = DIM
) -> Queries:
    """Random rows, alike in all planes, places and chances: `counts[i]` of them for image `first_image + i`."""
    n = sum(counts)
    rows = torch.randn(n, dim, generator=draw) + 0.7 * torch.randn(n_planes, n, dim, generator=draw)
    queries = Queries.of(rows, counts)
    place = 100 * torch.rand(n_planes, n, 2, generator=draw)
    chance = torch.rand(n_planes, n, generator=draw)
    return replace(queries, place=place, chance=chance, images=queries.images + first_image)


def pushed(memory: Memory, *, n_per_image: int = 3) -> Memory:
    """The memory after three pushes of up to three rows an image."""
    draw = drawing(0)
    for i, counts in enumerate(([3, 0, 2], [1, 3], [2, 2])):
        memory.push(push_of([min(n, n_per_image) for n in counts], draw=draw, first_image=10 * i))
    return memory


def step_of(
    *,
    seed: int = 0,
    b: int = 3,
    k: int = 4,
    n_global: int = 2,
    n_local: int = 0,
    sources: tuple[int, ...] | None = None,
    valid: Tensor | None = None,
    accepted: Tensor | None = None,
    static: bool = False,
) -> Step:
    """A step of random rows with student gradients; some regions are invalid, and matches are trusted in part.

    Every view hides one to four patches of each image. `accepted` (views, b * k) is the trust in the matches of all
    clusters, of which invalid ones have none.
    """
    draw = drawing(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw)

    n_views = n_global + n_local
    sources = sources or (0,) * n_views
    own = [v for v in range(n_global) if sources[v] == 0]  # regions are seen in these
    index = 10 + torch.randperm(b, generator=draw)
    valid = torch.rand(b, k, generator=draw) < 0.7 if valid is None else valid
    kept = torch.arange(b * k) if static else valid.flatten().nonzero()[:, 0]
    weight = valid.flatten()[kept].float()

    def features(views: int, *, grad: bool) -> Features:
        images = tuple(normal(b, DIM).requires_grad_(grad) for _ in range(views))
        patches = tuple(normal(b, 4, DIM).requires_grad_(grad) for _ in range(views))
        return Features(images, patches, ((2, 2),) * views, index, sources[:views])

    def rows(*, grad: bool) -> Rows:
        view = torch.tensor(own).repeat_interleave(len(kept))
        item = (kept // k).repeat(len(own))
        drawn = normal(len(own), b * k, DIM)[:, kept].flatten(0, 1).requires_grad_(grad)
        return Rows(drawn, view, item, index[item], weight.repeat(len(own)))

    student, teacher = features(n_views, grad=True), features(n_global, grad=False)
    assignment = held(valid, len(own), seed)
    regions = Regions(
        views=tuple(own),
        labels=assignment.argmax(dim=-1),
        assignment=assignment,
        valid=valid,
        student=rows(grad=True),
        teacher=rows(grad=False),
        cluster=kept % k,
        place=normal(len(own), b * k, 2)[:, kept],
    )
    drawn = torch.randint(3, (len(own), b * k), generator=draw) / 2 if accepted is None else accepted
    matches = Matches(
        index=torch.randint(50, (len(own), b * k), generator=draw)[:, kept],
        weight=drawn[:, kept] * weight,
        rows=normal(len(own), b * k, DIM)[:, kept],
        ids=torch.randint(9, (len(own), b * k), generator=draw)[:, kept],
        place=normal(len(own), b * k, 2)[:, kept],
    )
    of_images = Matches(
        index=torch.randint(50, (n_global, b), generator=draw),
        weight=torch.ones(n_global, b),
        rows=normal(n_global, b, DIM),
        ids=torch.randint(9, (n_global, b), generator=draw),
        place=normal(n_global, b, 2),
        level="image",
    )
    pixels = torch.zeros(b, 3, 1, 1)
    hidden = torch.rand(n_views, b, 4, generator=drawing(seed)) < torch.tensor([0.5, 0.5, 0.5, 1.1])
    views = tuple(
        View(pixels, torch.zeros(b, 4), torch.zeros(b).bool(), torch.zeros(b, 2), source, mask)
        for source, mask in zip(sources, hidden, strict=True)
    )
    return Step(Batch(views, n_global, index), student, teacher, regions, {"objects": matches, "images": of_images})


def held(valid: Tensor, n_views: int, seed: int) -> Tensor:
    """A hard assignment of four patches in each view: valid clusters have one in every view, the others in one only.

    Every non-empty column sums to 1 inside its view.
    """
    b, k = valid.shape
    draw = drawing(seed)
    cluster = torch.zeros(n_views, b, 4, dtype=torch.long)
    for image in range(b):
        seen, rest = valid[image].nonzero()[:, 0], (~valid[image]).nonzero()[:, 0]
        for view in range(n_views):
            own = torch.cat([seen, rest[view : view + 1]])  # one of the others, if there is a further one
            many = own.repeat(4)[: max(4, len(seen))][torch.randperm(4, generator=draw)]
            cluster[view, image] = many
    assignment = torch.nn.functional.one_hot(cluster, k).float()
    return assignment / assignment.sum(dim=2, keepdim=True).clamp(min=1)


def taken(step: Step, order: Tensor) -> Step:
    """The same step with some of its images, in that order."""
    regions = step.regions
    assert regions is not None
    n, new_place = len(regions), torch.zeros(len(step.batch.index), dtype=torch.long)
    new_place[order] = torch.arange(len(order))
    item = regions.student.item[:n]
    chosen = torch.cat([(item == image).nonzero()[:, 0] for image in order])
    every = torch.cat([v * n + chosen for v in range(regions.n_views)])

    def rows(x: Rows) -> Rows:
        return Rows(x.rows[every], x.view[every], new_place[x.item[every]], x.ids[every], x.weight[every])

    def features(x: Features) -> Features:
        images, patches = (tuple(i[order] for i in rows) for rows in (x.images, x.patches))
        return replace(x, images=images, patches=patches, index=x.index[order])

    def matches(x: Matches, chosen: Tensor) -> Matches:
        parts = {name: getattr(x, name)[:, chosen] for name in ("index", "weight", "rows", "ids", "place")}
        return replace(x, **parts)

    masks = [None if v.mask is None else v.mask[order] for v in step.batch.views]
    views = tuple(replace(v, mask=mask) for v, mask in zip(step.batch.views, masks, strict=True))
    return replace(
        step,
        batch=replace(step.batch, views=views, index=step.batch.index[order]),
        student=features(step.student),
        teacher=features(step.teacher),
        regions=replace(
            regions,
            labels=regions.labels[:, order],
            assignment=regions.assignment[:, order],
            valid=regions.valid[order],
            student=rows(regions.student),
            teacher=rows(regions.teacher),
            cluster=regions.cluster[chosen],
        ),
        matches={
            "objects": matches(step.matches["objects"], chosen),
            "images": matches(step.matches["images"], order),
        },
    )


Meaning = dict[tuple[tuple[float, ...], tuple[float, ...], int], float]


def meaning(pairs: Pairs) -> Meaning:
    """Weight of each (prediction row, target row, owner), whatever numbers the rows have, without pairs of weight 0."""
    found: Meaning = {}
    for i, j, w in zip(pairs.i.tolist(), pairs.j.tolist(), pairs.weight.tolist(), strict=True):
        if w:
            here, there = pairs.prediction.rows[i], pairs.target.rows[j]
            key = tuple(here.tolist()), tuple(there.tolist()), int(pairs.target.ids[j])
            found[key] = found.get(key, 0) + w
    return found
