"""Many runs of an experiment: trained one after another, or some at once, and read again. What is done stays done."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from sslkit import log


@dataclass(frozen=True)
class Trial:
    """One configuration with one seed, and the directory of its run."""

    name: str
    files: tuple[str, ...]
    bindings: tuple[str, ...]
    seed: int
    run: Path

    def train(self) -> None:
        """Train it, or go on with it, unless it is done; what it says goes to a file beside its directory.

        Raises:
            ValueError: the directory holds a run of other settings.
        """
        self.run.parent.mkdir(parents=True, exist_ok=True)
        kept, asked = Path(f"{self.run}.asked"), json.dumps([self.files, self.bindings, self.seed], indent=1)
        if (kept.read_text() if kept.is_file() else asked) != asked or (self.run.exists() and not kept.is_file()):
            raise ValueError(f"{self.run} holds a run of other settings than are asked for: move it away, or --runs")
        kept.write_text(asked)
        if (self.run / "results.json").is_file():
            return
        words = [word for file in self.files for word in ("--gin", file)]
        words += [word for binding in self.bindings for word in ("--set", binding)]
        began = time.monotonic()
        print(f"{self.name}, seed {self.seed}: {self.run}", flush=True)
        with Path(f"{self.run}.log").open("a") as said:
            command = [sys.executable, "-m", "sslkit.launch", *words, "--seed", str(self.seed), "--out", str(self.run)]
            subprocess.run(command, check=True, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})
        print(f"{self.name}, seed {self.seed}: done in {time.monotonic() - began:.0f} s", flush=True)

    def records(self) -> list[dict[str, float]]:
        """What its log says of each step."""
        return log.read(self.run / "metrics.jsonl")


def options(about: str | None, folder: str, *, seeds: int) -> argparse.ArgumentParser:
    """What every experiment may be told: `seeds`, `runs` (where they lie), `at_once`, `bindings`."""
    parser = argparse.ArgumentParser(description=str(about).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--runs", type=Path, default=Path("runs") / folder)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, each on one thread")
    parser.add_argument("--set", dest="bindings", action="append", default=[], metavar="'A.b = 1'")
    return parser


def train(trials: Sequence[Trial], at_once: int) -> None:
    """Train all of them; the first that fails is named when the others are done."""
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(Trial.train, trials))


def points(records: Sequence[Mapping[str, float]], name: str) -> dict[int, float]:
    """The values of a number by step."""
    return {int(r["step"]): r[name] for r in records if r.get(name) is not None}


def ended(records: Sequence[Mapping[str, float]], name: str) -> float:
    """The value of a number that every run ends with."""
    found = points(records, name)
    return found[max(found)]


def last(records: Sequence[Mapping[str, float]], name: str) -> float | None:
    """The latest value of a number; None where there is none."""
    found = points(records, name)
    return found[max(found)] if found else None


def spread(values: Sequence[float]) -> str:
    """Mean and deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def draw(axis: Axes, curves: Sequence[Mapping[int, float]], color: str) -> None:
    """A thin line for each seed, a thick one for their mean where all have a value."""
    curves = [curve for curve in curves if curve]
    for curve in curves:
        axis.plot(list(curve.keys()), list(curve.values()), color=color, alpha=0.3, linewidth=1)
    if curves:
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        axis.plot(steps, [statistics.mean(curve[s] for curve in curves) for s in steps], color=color, linewidth=2.2)
