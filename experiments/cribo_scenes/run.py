"""CrIBo against its image term alone and against the random backbone, on the embedded scenes, over seeds.

    python experiments/cribo_scenes/run.py

Stopped at any moment and started again it goes on. Writes table.md and miou.png beside itself; the runs lie in
runs/cribo_scenes/.
"""

from __future__ import annotations

import argparse
import json
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

HERE = Path(__file__).parent
METHODS = {
    "CrIBo": ("gin/cribo.gin", []),
    "CrIBo without matches": ("gin/cribo.gin", ["across/Term.weight = 0.0"]),
    "DINO, the image term alone": ("gin/dino.gin", []),
}
COLORS = {"CrIBo": "#c8324b", "CrIBo without matches": "#e39a3b", "DINO, the image term alone": "#3a6ea5"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--runs", type=Path, default=Path("runs/cribo_scenes"))
    options.add_argument("--at-once", type=int, default=2, help="runs at a time, each on one thread")
    options.add_argument("--set", dest="bindings", action="append", default=[], metavar="'A.b = 1'")
    asked = options.parse_args()
    jobs = {
        (method, seed): asked.runs / f"{method.split(',')[0].replace(' ', '_')}_{seed}"
        for seed in range(asked.seeds)
        for method in METHODS
    }
    with ThreadPoolExecutor(asked.at_once) as pool:
        list(pool.map(lambda job: train(*job, jobs[job], asked.bindings), jobs))
    curves = {method: [read(jobs[method, seed]) for seed in range(asked.seeds)] for method in METHODS}
    (HERE / "table.md").write_text(table(curves))
    plot(curves)
    print((HERE / "table.md").read_text())


def train(method: str, seed: int, run: Path, bindings: list[str]) -> None:
    """Train one method with one seed, or go on with it; what it says goes to a file beside its run directory."""
    file, own = METHODS[method]
    words = ["--gin", file, "--seed", str(seed), "--out", str(run)]
    extra = [word for binding in [*own, *bindings] for word in ("--set", binding)]
    run.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(f"{method}, seed {seed}: {run}", flush=True)
    with Path(f"{run}.log").open("a") as said:
        command = [sys.executable, "-m", "sslkit.launch", *words, *extra]
        subprocess.run(command, check=True, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(f"{method}, seed {seed}: done in {time.monotonic() - began:.0f} s", flush=True)


def read(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def evaluations(records: list[dict]) -> dict[int, float]:
    """mIoU in percent at the steps where it was measured."""
    return {r["step"]: 100 * r["dense/miou"] for r in records if "dense/miou" in r}


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def table(curves: dict[str, list[list[dict]]]) -> str:
    """Mean and standard deviation over seeds, and every seed."""
    seeds = range(len(next(iter(curves.values()))))
    names = "".join(f" seed {s} |" for s in seeds)
    head = [f"| backbone |{names} mean ± deviation |", "|---" * (len(seeds) + 2) + "|"]
    random = [evaluations(records)[0] for records in next(iter(curves.values()))]
    rows = {"random": random}
    for method, runs in curves.items():
        rows[method] = [max(evaluations(records).items())[1] for records in runs]
    lines = [
        f"| {name} | " + " | ".join(f"{v:.1f}" for v in values) + f" | {spread(values)} |"
        for name, values in rows.items()
    ]
    return "\n".join([*head, *lines]) + "\n"


def plot(curves: dict[str, list[list[dict]]]) -> None:
    """mIoU over the steps, a thin line per seed and a thick one for their mean."""
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained", dpi=130)
    for method, runs in curves.items():
        found = [evaluations(records) for records in runs]
        steps = sorted(found[0])
        for values in found:
            axis.plot(steps, [values[s] for s in steps], color=COLORS[method], alpha=0.3, linewidth=1)
        mean = [statistics.mean(values[s] for values in found) for s in steps]
        axis.plot(steps, mean, color=COLORS[method], linewidth=2.4, marker="o", markersize=4, label=method)
    axis.set(xlabel="step", ylabel="dense retrieval mIoU, %", title=f"Embedded scenes, {len(found)} seeds")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(HERE / "miou.png")


if __name__ == "__main__":
    main()
