"""CrIBo against its image term alone and against the random backbone, on the embedded scenes, over seeds.

    python -m experiments.cribo_scenes.run

Stopped at any moment and started again it goes on. Writes table.md and miou.png beside itself; the runs lie in
runs/cribo_scenes/.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from experiments.trials import Trial, draw, options, points, spread, train

HERE = Path(__file__).parent
METHODS = {
    "CrIBo": ("gin/cribo.gin", []),
    "CrIBo without matches": ("gin/cribo.gin", ["across/Term.weight = 0.0"]),
    "DINO, the image term alone": ("gin/dino.gin", []),
}
COLORS = {"CrIBo": "#c8324b", "CrIBo without matches": "#e39a3b", "DINO, the image term alone": "#3a6ea5"}


def main() -> None:
    asked = options(__doc__, "cribo_scenes", seeds=3).parse_args()
    trials = {
        (method, seed): Trial(
            method,
            (file,),
            (*own, *asked.bindings),
            seed,
            asked.runs / f"{method.split(',')[0].replace(' ', '_')}_{seed}",
        )
        for seed in range(asked.seeds)
        for method, (file, own) in METHODS.items()
    }
    train(list(trials.values()), asked.at_once)
    curves = {
        method: [points(trials[method, seed].records(), "dense/miou") for seed in range(asked.seeds)]
        for method in METHODS
    }
    (HERE / "table.md").write_text(table(curves))
    plot(curves)
    print((HERE / "table.md").read_text())


def table(curves: dict[str, list[dict[int, float]]]) -> str:
    """mIoU of every seed in percent, mean and deviation."""
    seeds = range(len(next(iter(curves.values()))))
    names = "".join(f" seed {s} |" for s in seeds)
    lines = [f"| backbone |{names} mean ± deviation |", "|---" * (len(seeds) + 2) + "|"]
    ends = {method: [run[max(run)] for run in runs] for method, runs in curves.items()}
    for name, found in {"random": [run[0] for run in next(iter(curves.values()))], **ends}.items():
        values = [100 * value for value in found]
        lines.append(f"| {name} | {' | '.join(f'{v:.1f}' for v in values)} | {spread(values)} |")
    return "\n".join(lines) + "\n"


def plot(curves: dict[str, list[dict[int, float]]]) -> None:
    """mIoU over the steps, a thin line per seed and a thick one for their mean."""
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained", dpi=130)
    for method, runs in curves.items():
        draw(axis, [{step: 100 * value for step, value in run.items()} for run in runs], COLORS[method])
        axis.plot([], [], color=COLORS[method], linewidth=2.2, label=method)
    n_seeds = len(next(iter(curves.values())))
    axis.set(xlabel="step", ylabel="dense retrieval mIoU, %", title=f"Embedded scenes, {n_seeds} seeds")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(HERE / "miou.png")


if __name__ == "__main__":
    main()
