"""A grid of runs, one directory each, and what came of them in one table and one plot."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import click

from sslkit import interruption
from sslkit.config import Config
from sslkit.config.syntax import parse
from sslkit.config.text import spell
from sslkit.errors import ConfigError
from sslkit.files import read_json, to_lock, whole
from sslkit.launch import processes as processes_here
from sslkit.launch.job import ready, refuse_another_run
from sslkit.launch.options import Asked
from sslkit.monitors.style import literal, save
from sslkit.results import numbers
from sslkit.shown import in_markdown

Rows = Mapping[tuple[str, ...], list[dict[str, float]]]  # results of each point, one for each seed
LONGEST = 100  # characters of a directory's name
_INTERRUPTED = {128 + number for number in (*interruption.STOP, interruption.REQUEUE)}
SEED = "train.seed"  # a swept seed repeats a point; the table shows mean and deviation over it


@dataclass(frozen=True)
class Axis:
    """One parameter and its values as gin writes them."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One run of the grid."""

    values: Mapping[str, str]

    @property
    def bindings(self) -> list[str]:
        return [f"{name} = {value}  # --sweep" for name, value in self.values.items()]

    @property
    def folder(self) -> str:
        """A name for its run directory that no two points share."""
        lasts = [name.rpartition(".")[2] for name in self.values]
        short = [last if lasts.count(last) == 1 else name for last, name in zip(lasts, self.values, strict=True)]
        plain = [re.sub(r"['\"@()\[\]{}]", "", value) for value in self.values.values()]
        said = "_".join(f"{name}={value}" for name, value in zip(short, plain, strict=True))
        said = re.sub(r"[^\w.=+-]+", "-", said)
        if len(said) <= LONGEST:
            return said
        return f"{said[:LONGEST]}_{hashlib.sha256(repr(self.values).encode()).hexdigest()[:8]}"


def axis(text: str) -> Axis:
    """The axis that `A.b = 1, 2, 3` describes.

    Raises:
        ConfigError: it is not of that form.
    """
    name, sign, values = (part.strip() for part in text.partition("="))
    statements, problems = parse(f"{name} = [{values}]", "--sweep")
    if not sign or problems or len(statements) != 1 or not values or not name:
        raise ConfigError(
            f"--sweep '{text}': give a parameter and its values, such as 'clusterers.Sinkhorn.n_clusters = 4, 8'"
        )
    given = tuple(spell(value) for value in statements[0].value)  # type: ignore[union-attr]
    if len(set(given)) < len(given):
        raise ConfigError(f"--sweep '{text}': a value stands there twice")
    return Axis(name, given)


def points(axes: Sequence[Axis]) -> list[Point]:
    """The grid, the last axis fastest.

    Raises:
        ConfigError: two axes have the same parameter, or two points would share a directory.
    """
    names = [a.name for a in axes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--sweep has {name} twice: put all its values into one")
    grid = [Point(dict(zip(names, values, strict=True))) for values in itertools.product(*(a.values for a in axes))]
    folders = [point.folder for point in grid]
    if len(set(folders)) < len(folders):
        grid_names = ", ".join(sorted({f for f in folders if folders.count(f) > 1}))
        raise ConfigError(
            f"--sweep: several points would share a run directory ({grid_names}): values are too much alike"
        )
    return grid


def checked(asked: Asked, texts: list[str], n_ranks: int | None) -> list[tuple[Point, Config]]:
    """Every point of the grid with its settings, for runs on so many ranks; None: as for Slurm.

    Raises:
        ConfigError: a point is wrong, or a directory holds another run.
    """
    if (asked.run_dir / "operative.gin").is_file():
        raise ConfigError(
            f"--out {asked.run_dir} is a run, in which those of a sweep would be lost: give another --out"
        )
    found = []
    for point in grid_of(texts):
        try:
            settings = ready(asked.files, [*asked.bindings, *point.bindings], n_ranks)
            refuse_another_run(asked.run_dir / point.folder, settings, n_ranks)
        except ConfigError as error:
            raise ConfigError(f"the point {point.folder}: {error}") from error
        found.append((point, settings))
    return found


def grid_of(texts: list[str]) -> list[Point]:
    """The points of the axes that are typed."""
    return points([axis(text) for text in texts])


def renew_report(out: Path, texts: list[str]) -> None:
    """Write the table and the plot of what is finished so far; several jobs may ask at the same time."""
    with to_lock(out / ".report") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        write_report(out, grid_of(texts))


def sweep(asked: Asked, texts: list[str], processes: int | None = None) -> int:
    """Run every point that is not finished yet, here and one after the other; 1 comes back if one failed, else 0.

    All points are checked before the first one starts. A point that fails does not keep the others from running. The
    same command goes on where it stopped.

    Args:
        processes: ranks of each run.

    Raises:
        ConfigError: a point is wrong, or a directory holds another run.
    """
    grid = [point for point, _ in checked(asked, texts, processes or 1)]
    out = asked.run_dir
    for n, point in enumerate(grid, start=1):
        run_dir = out / point.folder
        if results_of(run_dir):
            click.echo(f"[{n}/{len(grid)}] {point.folder}: finished before")
            continue
        click.echo(f"[{n}/{len(grid)}] {point.folder}")
        bindings = [*asked.bindings, *point.bindings]
        words = [*processes_here.python_module("sslkit.launch"), *asked.words(bindings, run_dir)]
        words += [] if processes is None else ["--processes", str(processes)]
        code = processes_here.run_alone(words)
        if code in _INTERRUPTED:
            click.echo(f"[{n}/{len(grid)}] {point.folder} was stopped; the same command goes on there", err=True)
            return code
        if code:
            click.echo(f"[{n}/{len(grid)}] {point.folder} failed with code {code}; the others go on", err=True)
    failed = sum(not results_of(out / point.folder) for point in grid)
    write_report(out, grid)
    click.echo((out / "sweep.md").read_text())
    click.echo(f"done: {out}/sweep.md and {out}/sweep.png" + (f"; {failed} of {len(grid)} failed" if failed else ""))
    return 1 if failed else 0


def results_of(run_dir: Path) -> dict[str, float]:
    """The last results of a finished run; nothing if it is not finished."""
    return numbers(read_json(run_dir / "results.json", dict))


def write_report(out: Path, grid: Sequence[Point]) -> None:
    """`sweep.md` and `sweep.png`: results by point, over seeds where these were swept."""
    results = {point.folder: results_of(out / point.folder) for point in grid}
    rows: dict[tuple[str, ...], list[dict[str, float]]] = {}
    names = [name for name in grid[0].values if name != SEED]
    for point in grid:
        rows.setdefault(tuple(point.values[name] for name in names), []).append(results[point.folder])
    metrics = list(dict.fromkeys(key for found in results.values() for key in found))
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / "sweep.md") as file:
        file.write(_table(names, metrics, rows).encode())
    _plot(out / "sweep.png", names, metrics, rows)


def _table(names: list[str], metrics: list[str], rows: Rows) -> str:
    head = [*map(in_markdown, (*names, *metrics)), "runs"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for values, found in rows.items():
        cells = [_cell([each[m] for each in found if m in each]) for m in metrics]
        finished = sum(bool(each) for each in found)
        lines.append("| " + " | ".join([*map(in_markdown, values), *cells, f"{finished} of {len(found)}"]) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def _plot(
    path: Path, names: list[str], metrics: list[str], rows: Mapping[tuple[str, ...], list[dict[str, float]]]
) -> None:
    """A panel for each metric: the first parameter across, a line for each combination of the others."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = metrics[:6] or ["nothing finished"]
    figure, panels = pyplot.subplots(
        1, len(shown), figsize=(1 + 3.6 * len(shown), 3.4), squeeze=False, layout="constrained", dpi=120
    )
    across = list(dict.fromkeys(values[0] if values else "" for values in rows))
    for panel, metric in zip(panels[0], shown, strict=True):
        for others in dict.fromkeys(values[1:] for values in rows):
            found = [[e[metric] for e in rows.get((x, *others) if names else (), []) if metric in e] for x in across]
            y = [mean(f) if f else math.nan for f in found]
            error = [stdev(f) if len(f) > 1 else 0.0 for f in found] if any(len(f) > 1 for f in found) else None
            label = ", ".join(f"{n.rpartition('.')[2]} = {v}" for n, v in zip(names[1:], others, strict=True))
            panel.errorbar(range(len(across)), y, yerr=error, marker="o", capsize=3, label=literal(label))
        panel.set_xticks(range(len(across)), map(literal, across), rotation=0 if max(map(len, across)) < 12 else 30)
        panel.set_xlabel(names[0] if names else "")
        panel.set_title(literal(metric), fontsize=10)
        panel.grid(alpha=0.3)
    if len(names) > 1:
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    save(figure, path)
    pyplot.close(figure)
