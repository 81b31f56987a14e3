"""The picture of effective receptive fields."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sslkit.backbones import Window
from sslkit.evaluate.base import Backbone
from sslkit.monitors.receptive_field import ReceptiveField, effective_receptive_field
from sslkit.monitors.style import ACCENT, BOX_COLORS, INK, QUIET, blank, message, quiet, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

PLACES = {"central": (0.5, 0.5), "corner": (0.0, 0.0)}
HELD = {0.5: BOX_COLORS[2], 0.9: BOX_COLORS[1]}  # shares of the gradient whose squares are drawn
FLOOR = 1e-4  # of the largest gradient: what is less has the colour of nothing


def receptive_field_map(
    backbone: Backbone,
    pixels: Float[Tensor, "b 3 h w"],
    path: str | Path,
    *,
    window: Window | None = None,
    n_images: int = 16,
) -> None:
    """How strongly each pixel moves a central patch and one in a corner, and how much of that squares hold.

    Colours are the mean absolute gradient over its largest value, on a logarithmic scale. Squares are the smallest that
    hold half and nine tenths of the gradient.

    Args:
        pixels: normalised as the backbone wants them and on its device.
        window: what patches can depend on, where it is known; drawn with dashes.
    """
    pixels = pixels[:n_images]
    fields = {name: effective_receptive_field(backbone, pixels, at=at) for name, at in PLACES.items()}
    if not all(field.gradient.any() for field in fields.values()):
        return message(path, "No receptive field to show", "no pixel moves the patches: the features are constant")
    if not all(field.gradient.isfinite().all() for field in fields.values()):
        return message(path, "No receptive field to show", "the patches, or their gradients, are NaN or infinite")
    n, _, height, width = pixels.shape
    figure = blank(12.4, 3.3 * height / width + 1.25)
    figure.suptitle(
        f"Effective receptive field, mean of {n} images of {height} x {width} px",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=INK,
    )
    *maps, shares = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for axis, (name, field) in zip(maps, fields.items(), strict=True):
        image = _map(axis, field, name, window)
    bar = figure.colorbar(image, ax=maps, shrink=0.82, pad=0.015, extend="min")
    bar.set_label("mean |gradient|, over its largest", fontsize=9, color=QUIET)
    bar.ax.tick_params(colors=QUIET, labelsize=8, length=0)
    bar.outline.set_visible(False)
    _shares(shares, fields, window)
    save(figure, path)


def _map(axis: Axes, field: ReceptiveField, name: str, window: Window | None) -> AxesImage:
    from matplotlib.colors import LogNorm

    height, width = field.gradient.shape
    gradient = (field.gradient / field.gradient.max()).clamp(min=FLOOR / 10).numpy()
    image = axis.imshow(gradient, norm=LogNorm(FLOOR, 1), cmap="magma", interpolation="nearest")
    said = []
    for share, color in HELD.items():
        side = field.side(share)
        assert side is not None  # of a gradient that is not zero
        _, top, left = field.best_square(side)
        _outline(axis, top, left, min(side, height), min(side, width), edgecolor=color, linewidth=1.8)
        said.append(f"{share:.0%} in {side} px")
    if window is not None:
        top, left = (window.pixels(n).start for n in field.patch)
        _outline(axis, top, left, window.size, window.size, edgecolor="white", linewidth=1.4, linestyle="--")
        said.append(f"window {window.size} px")
    (row, column), (rows, columns) = field.patch, field.grid
    where = f"{name} patch, ({row}, {column}) of {rows} x {columns}"
    axis.set_title(f"{where}\n{', '.join(said)}", fontsize=9, color=INK, loc="left", pad=4)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.set_xlabel("px", fontsize=9, color=QUIET)
    axis.tick_params(colors=QUIET, labelsize=8, length=0)
    axis.spines[:].set_visible(False)
    return image


def _outline(axis: Axes, top: int, left: int, height: int, width: int, **look: Any) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, **look))


def _shares(axis: Axes, fields: dict[str, ReceptiveField], window: Window | None) -> None:
    height, width = fields["central"].gradient.shape
    for (name, field), color, thick in zip(fields.items(), (BOX_COLORS[0], ACCENT), (3.2, 1.6), strict=True):
        held = field.shares.numpy()
        axis.plot(np.arange(len(held) + 1), [0, *held], color=color, linewidth=thick, label=f"{name} patch")
    for share, color in HELD.items():
        axis.axhline(share, color=color, linewidth=1.2, label=f"{share:.0%}")
    if window is not None and window.size <= max(height, width):
        axis.axvline(window.size, color=INK, linewidth=1.2, linestyle="--", label=f"window, {window.size} px")
    axis.set_title("share of the gradient in the best square", fontsize=9, color=INK, loc="left", pad=4)
    axis.set_xlabel("side, px", fontsize=9, color=QUIET)
    axis.set(xlim=(0, max(height, width)), ylim=(0, 1.02))
    axis.legend(fontsize=8, facecolor="white", edgecolor="none", framealpha=0.85, labelcolor=INK, loc="lower right")
    quiet(axis)
