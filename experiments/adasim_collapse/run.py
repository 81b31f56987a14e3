"""Self-distillation with no, naive and adaptive bootstrapping, and NNCLR, on the embedded objects, over seeds.

    python -m experiments.adasim_collapse.run

Stopped at any moment and started again it goes on. Writes curves.png beside itself and prints the table. Runs lie in
runs/adasim_collapse/.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from experiments.trials import Trial, draw, last, options, points, spread, train

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
    asked = options(__doc__, "adasim_collapse", seeds=3).parse_args()
    trials = {
        (m, seed): Trial(
            m, (f"experiments/adasim_collapse/{m}.gin",), tuple(asked.bindings), seed, asked.runs / f"{m}_{seed}"
        )
        for seed in range(asked.seeds)
        for m in METHODS
    }
    train(list(trials.values()), asked.at_once)
    curves = {m: [trials[m, seed].records() for seed in range(asked.seeds)] for m in METHODS}
    plot(curves)
    print(table(curves))


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
        seen = [
            ends(curves[method], name)
            for name in ("health/teacher_entropy/image", "health/rank/image", "partners/bootstrapped")
        ]
        shown = " | ".join(f"{v:.1f}" for v in values)
        lines.append(f"| {METHODS[method][0]} | {shown} | {spread(values)} | {' | '.join(seen)} |")
    return "\n".join([*head, *lines]) + "\n"


def ends(runs: list[list[dict[str, float]]], name: str) -> str:
    """The last value of a number, averaged over seeds; nothing where a method has no such number."""
    found = [value for value in (last(records, name) for records in runs) if value is not None]
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


if __name__ == "__main__":
    main()
