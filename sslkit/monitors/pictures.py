"""Pictures of what a run does: its clusters, its matches, its curves, its features. Each function writes one file."""

from __future__ import annotations

import colorsys
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit.backbones.weights import IMAGENET
from sslkit.evaluate.base import evaluating
from sslkit.monitors.style import (
    ACCENT,
    BOX_COLORS,
    INK,
    QUIET,
    Array,
    blank,
    literal,
    message,
    quiet,
    save,
    sheet,
    show,
)
from sslkit.types import Batch, Matches, Regions, Sample, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = 0.55
MANY = 2**63  # steps
LARGEST = sys.float_info.max
SIDE = 224  # pixels on which a view is drawn


@runtime_checkable
class Samples(Protocol):
    """A data set that is asked for an image by its index."""

    def __getitem__(self, index: int, /) -> Sample: ...


def clusters(
    batch: Batch, regions: Regions, grids: Sequence[tuple[int, int]], path: str | Path, *, n_images: int = 6
) -> None:
    """A row per image: where its crops lie, then every view with regions, plain and with its clusters drawn over it.

    A region has the same colour in all views. Grey stripes are clusters without a token in some view. The first column
    puts the views back where they were cut; what no view shows stays blank.
    """
    views = [batch.views[view] for view in regions.views]
    n = min(n_images, len(batch.index))
    figure, axes = sheet(n, 1 + 2 * len(views), "Clusters, one colour per region in all views")
    for row, item in zip(axes, range(n), strict=True):
        show(row[0], _canvas(views, item), f"image {int(batch.index[item])}")
        row[0].set_anchor("C")
        for v, view in enumerate(views):
            _outline(row[0], view, item, BOX_COLORS[v % len(BOX_COLORS)])
        valid = regions.valid[item].cpu()
        n_valid = int(valid.sum())
        for v, view in enumerate(views):
            labels = regions.labels[v, item].cpu().view(grids[regions.views[v]])
            plain, drawn = _enlarged(view, item), overlay(_enlarged(view, item), labels, valid)
            show(row[1 + 2 * v], plain, f"view {regions.views[v] + 1}", BOX_COLORS[v % len(BOX_COLORS)])
            show(row[2 + 2 * v], drawn, f"{n_valid} regions" if v == 0 else "")
    save(figure, path)


def matches(
    batch: Batch,
    regions: Regions,
    grids: Sequence[tuple[int, int]],
    found: Matches,
    dataset: Samples,
    path: str | Path,
    *,
    n_matches: int = 12,
) -> None:
    """Accepted matches: a region in its view, and beside it the image of its neighbour, with a ring where that lies.

    Queries are the rows of `regions`; plane `p` of the matches is the view `regions.views[p]`. Shown are regions of as
    many images as possible, large ones first. Where nothing was accepted the picture says so.
    """
    if found.index.shape[1] != len(regions):
        raise ValueError(f"found has {found.index.shape[1]} queries, but they should be the {len(regions)} regions")
    accepted = ((found.weight > 0) & (found.ids >= 0)).cpu()
    chosen = _spread(accepted, regions, n_matches)
    share = f"{int(accepted.sum())} of {accepted.numel()} accepted"
    if not chosen:
        return message(path, "No match to show", f"{share}: the memory is still filling, or no match was trusted")
    rows = math.ceil(len(chosen) / 2)
    figure, axes = sheet(rows, 4 if len(chosen) > 1 else 2, f"Regions and their matches in other images ({share})")
    cells = axes.reshape(-1, 2)
    for (here, there), (plane, q) in zip(cells, chosen, strict=False):
        item, cluster = int(regions.teacher.item[q]), int(regions.cluster[q])
        view = regions.views[plane]
        labels = regions.labels[plane, item].cpu().view(grids[view])
        pixels = _enlarged(batch.views[view], item)
        show(here, spotlight(pixels, labels == cluster), f"image {int(batch.index[item])}, view {view + 1}")
        neighbour, (x, y) = int(found.ids[plane, q]), found.place[plane, q].tolist()
        image = dataset[neighbour].image
        show(there, np.asarray(image.convert("RGB")), f"→ image {neighbour}")
        for color, width in (("white", 5), (ACCENT, 2.5)):
            there.plot(x, y, "o", markersize=15, markerfacecolor="none", markeredgecolor=color, markeredgewidth=width)
        there.set(xlim=(-0.5, image.width - 0.5), ylim=(image.height - 0.5, -0.5))
    save(figure, path)


def partners(
    images: Int[Tensor, " m"],
    neighbours: Int[Tensor, "m k"],
    similarity: Float[Tensor, "m k"],
    partner: Int[Tensor, " m"],
    dataset: Samples,
    path: str | Path,
    *,
    title: str = "",
) -> None:
    """A row for each image: itself, its partner, and its nearest neighbours with their similarity.

    The image itself and its partner have colours of their own among the neighbours.
    """
    figure, axes = sheet(len(images), 2 + neighbours.shape[1], title)
    for row, image, found, scores, other in zip(
        axes, images.tolist(), neighbours.tolist(), similarity.tolist(), partner.tolist(), strict=True
    ):
        show(row[0], np.asarray(dataset[image].image.convert("RGB")), f"image {image}", BOX_COLORS[0])
        said = f"partner {other}" if other != image else "its own partner"
        show(row[1], np.asarray(dataset[other].image.convert("RGB")), said, BOX_COLORS[1])
        for axis, index, score in zip(row[2:], found, scores, strict=True):
            if index < 0:
                continue
            color = {other: BOX_COLORS[1], image: BOX_COLORS[0]}.get(index, QUIET)
            show(axis, np.asarray(dataset[index].image.convert("RGB")), f"{index}: {score:.3f}", color)
    save(figure, path)


def curves(metrics: str | Path, path: str | Path) -> None:
    """A panel per group of numbers over the steps: `loss/image` and `loss/region` share the panel `loss`.

    `metrics` has one JSON object per line; its number `step` is the abscissa, and every other number whose key has a
    `/` is a curve. A step written twice (a resumed run) counts as it was last. Long curves are smoothed, over their
    raw values drawn faintly.
    """
    panels = _read_curves(Path(metrics))
    if not panels:
        return message(path, "No curve to show", f"{metrics} has no numbers such as loss/image yet")
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = blank(4.6 * columns, 3.2 * rows + 0.2, dpi=120)
    axes = np.atleast_1d(figure.subplots(rows, columns)).flatten()
    for axis, (group, lines) in zip(axes, panels.items(), strict=False):
        for i, (name, points) in enumerate(lines.items()):
            color = _line_color(i)
            x, y = (np.array(column, dtype=float) for column in zip(*sorted(points.items()), strict=True))
            width = len(y) // 100
            if width > 1:
                axis.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
            marker = "o" if len(y) < 30 else None
            style = dict(linewidth=1.8, marker=marker, markersize=3.5, label=literal(name))
            axis.plot(x, _smoothed(y, width), color=color, **style)
        axis.set_title(literal(group), loc="left", fontsize=11, fontweight="bold", color=INK)
        axis.set_xlabel("step", fontsize=9, color=QUIET)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 2} if len(lines) > 2 else {}
        axis.legend(fontsize=8, frameon=False, labelcolor=INK, **below)  # many names would lie across the lines
        quiet(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    save(figure, path)


def pca(
    backbone: Callable[[Tensor], tuple[Tensor, Tensor, tuple[int, int]]],
    pixels: Float[Tensor, "b 3 h w"],
    path: str | Path,
    *,
    n_images: int = 8,
) -> None:
    """Images beside the first three principal components of their patch features, shown as red, green and blue.

    The components are those of all images together, so a colour means the same in each. `pixels` are normalised as the
    backbone wants them and on its device.
    """
    with evaluating(backbone), torch.no_grad():
        _, patches, grid = backbone(pixels[:n_images])
    colors = components(patches).view(len(patches), *grid, 3).cpu().numpy()
    rows = math.ceil(len(colors) / 2)
    figure, axes = sheet(rows, 4 if len(colors) > 1 else 2, "Patch features, first three principal components as RGB")
    for (here, there), image, color in zip(axes.reshape(-1, 2), to_rgb(pixels), colors, strict=False):
        show(here, image)
        show(there, color)
    save(figure, path)


def to_rgb(pixels: Float[Tensor, "*b 3 h w"]) -> Array:
    """Values 0 to 1, channels last, of pixels normalised with ImageNet's mean and deviation."""
    mean, std = (torch.tensor(IMAGENET[name])[:, None, None] for name in ("mean", "std"))
    rgb: Array = (pixels.detach().float().cpu() * std + mean).clamp(0, 1).movedim(-3, -1).numpy()
    return rgb


def region_colors(valid: Bool[Tensor, " k"]) -> Float[Tensor, "k 3"]:
    """A colour for each cluster of one image, invalid ones grey; neighbours in the order differ most."""
    golden = (math.sqrt(5) - 1) / 2
    rank = valid.cumsum(dim=0) - 1
    table = torch.tensor(
        [
            colorsys.hls_to_rgb((0.02 + i * golden) % 1, (0.55, 0.40, 0.70)[i % 3], (0.95, 0.85, 0.75)[i // 3 % 3])
            for i in range(len(valid))
        ]
    )
    return torch.where(valid[:, None], table[rank.clamp(min=0)], torch.tensor(GREY))


def overlay(image: Array, labels: Int[Tensor, "h w"], valid: Bool[Tensor, " k"]) -> Array:
    """The image under the colours of its clusters, with white borders between them and stripes over invalid ones."""
    y, x = _patch_of_pixel(image.shape[0], labels.shape[0]), _patch_of_pixel(image.shape[1], labels.shape[1])
    label = labels.numpy()[y][:, x]
    color, known = region_colors(valid).numpy()[label], valid.numpy()[label][..., None]
    grey = image.mean(axis=2, keepdims=True)
    stripe = ((np.add.outer(np.arange(len(y)), np.arange(len(x))) // 4) % 3 == 0)[..., None]
    hatched = np.where(stripe, 0.25 * grey + 0.75 * 0.35, 0.5 * grey + 0.5 * 0.8)
    drawn = np.where(known, 0.42 * image + 0.58 * color, hatched)
    return np.where(_borders(label)[..., None], 1.0, drawn)


def spotlight(image: Array, region: Bool[Tensor, "h w"]) -> Array:
    """The image with everything outside the region dim and grey, and a line around it."""
    y, x = _patch_of_pixel(image.shape[0], region.shape[0]), _patch_of_pixel(image.shape[1], region.shape[1])
    inside = region.numpy()[y][:, x]
    dim = 0.35 * image.mean(axis=2, keepdims=True) + 0.45
    return np.where(_borders(inside)[..., None], ACCENT, np.where(inside[..., None], image, dim))


@torch.no_grad()
def components(patches: Float[Tensor, "b n d"], n: int = 3) -> Float[Tensor, "b n c"]:
    """The first `n` principal components of all patches, each spread over 0 to 1 between its 2 % and 98 % quantiles.

    Signs are fixed: the largest weight of a component is positive. Where there are fewer dimensions the rest is 0.5.
    """
    rows = patches.flatten(0, 1).double().cpu()
    centred = rows - rows.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.mT @ centred)  # by rising variance
    axes = axes.flip(1)[:, :n]
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    value = centred @ axes
    low, high = (torch.from_numpy(np.quantile(value.numpy(), q, axis=0)) for q in (0.02, 0.98))
    spread = ((value - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    missing = torch.full((len(rows), n - spread.shape[1]), 0.5, dtype=spread.dtype)
    return torch.cat([spread, missing], dim=1).float().view(*patches.shape[:2], n)


def _patch_of_pixel(side: int, parts: int) -> Array:
    return np.arange(side) * parts // side


def _borders(label: Array) -> Array:
    """Pixels beside another label, a line of two."""
    edge = np.zeros(label.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(label, axis=axis) != 0
        edge |= np.pad(differs, [(0, int(axis == a)) for a in (0, 1)])
        edge |= np.pad(differs, [(int(axis == a), 0) for a in (0, 1)])
    return edge


def _enlarged(view: View, item: int) -> Array:
    """Pixels of one view on at least `SIDE` pixels, so that borders stay fine."""
    pixels = view.pixels[item]
    factor = max(1, math.ceil(SIDE / pixels.shape[-1]))
    return np.kron(to_rgb(pixels), np.ones((factor, factor, 1)))


def _canvas(views: Sequence[View], item: int) -> Array:
    """The source of the views as far as they show it, longest side `SIDE`."""
    width, height = views[0].size[item].tolist()
    scale = SIDE / max(width, height)
    canvas = np.ones((max(1, round(height * scale)), max(1, round(width * scale)), 3)) * 0.93
    for view in views:
        left, top, w, h = (scale * x for x in view.box[item].tolist())
        rows = np.arange(max(0, math.ceil(top - 0.5)), min(canvas.shape[0], math.ceil(top + h - 0.5)))
        columns = np.arange(max(0, math.ceil(left - 0.5)), min(canvas.shape[1], math.ceil(left + w - 0.5)))
        image = to_rgb(view.pixels[item])
        image = image[:, ::-1] if bool(view.flip[item]) else image
        y = ((rows + 0.5 - top) / h * image.shape[0]).astype(int).clip(0, image.shape[0] - 1)
        x = ((columns + 0.5 - left) / w * image.shape[1]).astype(int).clip(0, image.shape[1] - 1)
        canvas[np.ix_(rows, columns)] = image[np.ix_(y, x)]
    return canvas


def _outline(axis: Axes, view: View, item: int, color: tuple[float, float, float]) -> None:
    """The crop box of a view on the canvas of its source."""
    from matplotlib.patches import Rectangle

    scale = SIDE / float(view.size[item].max())
    left, top, w, h = (scale * x for x in view.box[item].tolist())
    box = Rectangle((left - 0.5, top - 0.5), w, h, fill=False, edgecolor=color, linewidth=2.2, clip_on=False)
    axis.add_patch(box)


def _spread(accepted: Bool[Tensor, "p q"], regions: Regions, n: int) -> list[tuple[int, int]]:
    """(plane, query) of the matches to show: each image's largest region, then its second, until there are `n`."""
    size = (regions.assignment > 0).sum(dim=2).cpu()  # v b k
    per_image: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for plane, q in accepted.nonzero().tolist():
        item, cluster = int(regions.teacher.item[q]), int(regions.cluster[q])
        per_image[item].append((-int(size[plane, item, cluster]), plane, q))
    ranked = [(place, *match) for found in per_image.values() for place, match in enumerate(sorted(found))]
    return [(plane, q) for _, _, plane, q in sorted(ranked)[:n]]


def _read_curves(metrics: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Group, curve, then step: value; a last line that a killed run left unfinished is passed over."""
    panels: dict[str, dict[str, dict[int, float]]] = {}
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    for i, line in enumerate(lines):
        try:
            record = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError:
            if i + 1 == len(lines):
                break
            raise
        step = record.get("step") if isinstance(record, dict) else None
        if not isinstance(step, int) or abs(step) >= MANY:
            continue
        for key, value in record.items():
            group, _, name = key.partition("/")
            if name and isinstance(value, int | float) and abs(value) < LARGEST:
                panels.setdefault(group, {}).setdefault(name, {})[step] = float(value)
    return panels


def _smoothed(y: Array, width: int) -> Array:
    """Running mean over `width` values on either side, fewer at the ends."""
    if width < 2:
        return y
    total = np.concatenate([[0.0], y.cumsum()])
    first, last = (np.arange(len(y)) - width).clip(0), (np.arange(len(y)) + width + 1).clip(max=len(y))
    mean: Array = (total[last] - total[first]) / (last - first)
    return mean


def _line_color(i: int) -> tuple[float, float, float]:
    return (*BOX_COLORS, ACCENT)[i] if i < 5 else colorsys.hls_to_rgb(i * 0.618 % 1, 0.42, 0.6)
