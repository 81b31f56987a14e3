"""How pictures look: colours, sheets of cells, axes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sslkit import files
from sslkit.shown import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
INK, QUIET, FAINT = "#20242a", "#6b7480", "#e3e6ea"
ACCENT = (0.98, 0.27, 0.36)
BOX_COLORS = ((0.15, 0.55, 0.95), (0.98, 0.55, 0.10), (0.20, 0.70, 0.35), (0.75, 0.30, 0.75))  # one per view


def blank(width: float, height: float, *, dpi: int = 110) -> Figure:
    """A figure of so many inches that lays its parts out by itself."""
    from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

    return Figure(figsize=(width, height), layout="constrained", dpi=dpi)


def sheet(rows: int, columns: int, title: str) -> tuple[Figure, Array]:
    """A titled figure of `rows` by `columns` empty cells."""
    figure = blank(2.15 * columns, 2.3 * rows + 0.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def show(axis: Axes, image: Array, title: str = "", color: str | tuple[float, float, float] = QUIET) -> None:
    """An image with its title above."""
    axis.imshow(image, interpolation="nearest")
    axis.set_title(title, fontsize=9, color=color, loc="left", pad=3)


def literal(text: str) -> str:
    """Text that is drawn as it stands: matplotlib would read formulas between its dollars."""
    return visible(text).replace("$", r"\$")


def quiet(axis: Axes) -> None:
    """A grid behind faint edges."""
    axis.grid(color=FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(colors=QUIET, labelsize=8, length=0)


def message(path: str | Path, title: str, reason: str) -> None:
    """A picture that says why there is none."""
    figure = blank(7, 1.6)
    figure.text(0.03, 0.62, title, fontsize=13, fontweight="bold", color=INK)
    figure.text(0.03, 0.30, reason, fontsize=10, color=QUIET, wrap=True)
    save(figure, path)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure, and the folders above it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as file:
        figure.savefig(file, format=path.suffix[1:], facecolor="white")
