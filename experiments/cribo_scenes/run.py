"""CrIBo against its image term alone and against the random backbone, on the embedded scenes, over seeds.

    python experiments/cribo_scenes/run.py

Stopped at any moment and started again it goes on. Writes table.md and miou.png beside itself; the runs lie in
runs/cribo_scenes/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
METHODS = {"CrIBo": "gin/cribo.gin", "DINO (image term alone)": "gin/dino.gin"}
COLORS = {"CrIBo": "#c8324b", "DINO (image term alone)": "#3a6ea5"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--runs", type=Path, default=Path("runs/cribo_scenes"))
    options.add_argument("--set", dest="bindings", action="append", default=[], metavar="'A.b = 1'")
    asked = options.parse_args()
    curves: dict[str, list[list[dict]]] = {}
    for method, file in METHODS.items():
        for seed in range(asked.seeds):
            run = asked.runs / f"{Path(file).stem}_{seed}"
            words = ["--gin", file, "--seed", str(seed), "--out", str(run)]
            extra = [word for binding in asked.bindings for word in ("--set", binding)]
            print(f"{method}, seed {seed}", flush=True)
            subprocess.run([sys.executable, "-m", "sslkit.launch", *words, *extra], check=True)
            curves.setdefault(method, []).append(read(run))
    (HERE / "table.md").write_text(table(curves))
    plot(curves)
    print((HERE / "table.md").read_text())


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
