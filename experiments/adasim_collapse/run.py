"""Self-distillation with no, naive and adaptive bootstrapping, and NNCLR, on the embedded objects, over seeds.

    python experiments/adasim_collapse/run.py

Stopped at any moment and started again it goes on. Writes curves.png beside itself and prints the table. Runs lie in
runs/adasim_collapse/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from sslkit import log

HERE = Path(__file__).parent
METHODS = {
    "dino": ("self-distillation (DINO)", "#3a6ea5"),
    "naive": ("naive neighbours", "#c8324b"),
    "adaptive": ("adaptive neighbours (AdaSim)", "#2f8f5b"),
    "contrastive": ("contrastive (MoCo v3)", "#3aa6b8"),
    "contrastive_naive": ("contrastive, naive neighbours", "#e39a3b"),
    "nnclr": ("contrastive, neighbours of a queue (NNCLR)", "#8a63b8"),
}
PANELS = {
    "knn/accuracy": "k-NN accuracy",
    "partners/self_first": "images that lead their own neighbours",
    "partners/bootstrapped": "images with another as partner",
    "partners/neighbour_label": "nearest other image of the same class",
    "health/teacher_entropy/image": "entropy of the targets over ln K",
    "health/rank/image": "effective rank over width",
    "health/std/image": "deviation of unit vectors",
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--runs", type=Path, default=Path("runs/adasim_collapse"))
    options.add_argument("--at-once", type=int, default=2, help="runs at a time, each on one thread")
    options.add_argument("--set", dest="bindings", action="append", default=[], metavar="'A.b = 1'")
    asked = options.parse_args()
    jobs = {(m, seed): asked.runs / f"{m}_{seed}" for seed in range(asked.seeds) for m in METHODS}
    with ThreadPoolExecutor(asked.at_once) as pool:
        list(pool.map(lambda job: train(*job, jobs[job], asked.bindings), jobs))
    curves = {m: [log.read(jobs[m, seed] / "metrics.jsonl") for seed in range(asked.seeds)] for m in METHODS}
    plot(curves)
    print(table(curves))


def train(method: str, seed: int, run: Path, bindings: list[str]) -> None:
    """Train one method with one seed, or go on with it, unless it is done; what it says goes to RUN.log."""
    if (run / "results.json").is_file():
        return
    words = ["--gin", str(HERE / f"{method}.gin"), "--seed", str(seed), "--out", str(run)]
    extra = [word for binding in bindings for word in ("--set", binding)]
    run.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(f"{method}, seed {seed}: {run}", flush=True)
    with Path(f"{run}.log").open("a") as said:
        command = [sys.executable, "-m", "sslkit.launch", *words, *extra]
        subprocess.run(command, check=True, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(f"{method}, seed {seed}: done in {time.monotonic() - began:.0f} s", flush=True)


def points(records: list[dict[str, float]], name: str) -> dict[int, float]:
    """The values of a number by step."""
    return {int(r["step"]): r[name] for r in records if r.get(name) is not None}


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def table(curves: dict[str, list[list[dict[str, float]]]]) -> str:
    """k-NN accuracy of every seed, their mean and standard deviation, and what the last step saw."""
    seeds = range(len(next(iter(curves.values()))))
    names = "".join(f" seed {s} |" for s in seeds)
    head = [
        f"| |{names} mean ± deviation | targets' entropy | rank | bootstrapped |",
        "|---" * (len(seeds) + 5) + "|",
    ]
    accuracy = {m: [100 * max(points(r, "knn/accuracy").items())[1] for r in runs] for m, runs in curves.items()}
    random = [100 * points(records, "knn/accuracy")[0] for records in curves["dino"]]
    lines = [f"| random backbone | {' | '.join(f'{v:.1f}' for v in random)} | {spread(random)} | | | |"]
    for method, values in accuracy.items():
        ends = [
            last(curves[method], name)
            for name in ("health/teacher_entropy/image", "health/rank/image", "partners/bootstrapped")
        ]
        shown = " | ".join(f"{v:.1f}" for v in values)
        lines.append(f"| {METHODS[method][0]} | {shown} | {spread(values)} | {' | '.join(ends)} |")
    return "\n".join([*head, *lines]) + "\n"


def last(runs: list[list[dict[str, float]]], name: str) -> str:
    """The last value of a number, averaged over seeds; nothing where a method has no such number."""
    found = [max(points(records, name).items())[1] for records in runs if points(records, name)]
    return f"{statistics.mean(found):.2f}" if found else ""


def plot(curves: dict[str, list[list[dict[str, float]]]]) -> None:
    """A panel for every number over the steps: a thin line for each seed, a thick one for their mean."""
    figure, axes = plt.subplots(2, 4, figsize=(15, 6.4), layout="constrained", dpi=110)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=False):
        for method, runs in curves.items():
            draw(axis, [points(records, name) for records in runs], METHODS[method][1])
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[-1].set_axis_off()
    for label, color in METHODS.values():
        axes.flat[-1].plot([], [], color=color, linewidth=2.4, label=label)
    axes.flat[-1].legend(frameon=False, loc="center left", fontsize=10)
    figure.savefig(HERE / "curves.png")


def draw(axis: Axes, found: list[dict[int, float]], color: str) -> None:
    found = [values for values in found if values]
    for values in found:
        axis.plot(values.keys(), values.values(), color=color, alpha=0.3, linewidth=1)
    if found:
        steps = sorted(set.intersection(*(set(values) for values in found)))
        mean = [statistics.mean(values[s] for values in found) for s in steps]
        axis.plot(steps, mean, color=color, linewidth=2.2)


if __name__ == "__main__":
    main()
