"""Every hybrid against its parents on the embedded scenes, at equal steps, over seeds.

    python -m experiments.hybrids.run

Stopped at any moment and started again it goes on. Writes table.md and miou.png beside itself; the runs lie in
runs/hybrids/.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from experiments.trials import Trial, ended, last, options, points, spread, train

HERE = Path(__file__).parent
SHARED = "experiments/hybrids/shared.gin"
SOON = ("memories.PerImage.window = 1",)  # a run is six epochs long
PARENTS = {  # gin file, bindings beside the shared ones
    "DINO": ("gin/dino.gin", ()),
    "CrIBo": ("gin/cribo.gin", ()),
    "CrIBo on a ViT": ("experiments/hybrids/cribo_vit.gin", ()),
    "AdaSim": ("gin/adasim.gin", SOON),
    "CO-DINO": ("gin/co_dino.gin", ()),
}
HYBRIDS = {  # gin file, bindings, parents
    "H1": ("gin/hybrids/cribo_adaptive.gin", (), ("CrIBo",)),
    "H2": ("gin/hybrids/cribo_sampled_cycle.gin", (), ("CrIBo",)),
    "H3": ("gin/hybrids/cribo_partner.gin", (), ("CrIBo", "AdaSim")),
    "H4": ("gin/hybrids/cribo_patch_to_region.gin", (), ("CrIBo", "CO-DINO")),
    "H5": ("gin/hybrids/cribo_patch_to_image.gin", (), ("CrIBo on a ViT",)),
    "H6": ("gin/hybrids/adasim_patch_to_image.gin", SOON, ("AdaSim", "CO-DINO")),
    "H7": ("gin/hybrids/cribo_adaptive_patch_to_match.gin", (), ("CrIBo", "AdaSim", "CO-DINO")),
    "H8": ("gin/hybrids/cribo_whole_images.gin", (), ("CrIBo", "AdaSim")),
    "naive": ("gin/hybrids/naive_neighbours.gin", (), ("DINO", "AdaSim")),
}


def main() -> None:
    asked = options(__doc__, "hybrids", seeds=2).parse_args()
    methods = {**PARENTS, **{name: (file, own) for name, (file, own, _) in HYBRIDS.items()}}
    trials = {
        (name, seed): Trial(
            name, (file, SHARED), (*own, *asked.bindings), seed, asked.runs / f"{Path(file).stem}_{seed}"
        )
        for seed in range(asked.seeds)
        for name, (file, own) in methods.items()
    }
    train(list(trials.values()), asked.at_once)
    records = {name: [trials[name, seed].records() for seed in range(asked.seeds)] for name in methods}
    miou = {name: [100 * ended(run, "dense/miou") for run in runs] for name, runs in records.items()}
    for_all = [100 * points(run, "dense/miou")[0] for run in records["CrIBo"]]
    vit = [100 * points(run, "dense/miou")[0] for run in records["CrIBo on a ViT"]]
    said = table(miou, {"random backbone": for_all, "random ViT": vit}, records)
    (HERE / "table.md").write_text(said)
    plot(records)
    print(said)


def table(miou: dict[str, list[float]], random: dict[str, list[float]], records: dict[str, list[list[dict]]]) -> str:
    """mIoU of every seed, mean and deviation, the difference to the best parent, and how often matches are trusted."""
    seeds = range(len(next(iter(miou.values()))))
    lines = [
        f"| |{''.join(f' seed {s} |' for s in seeds)} mean ± deviation | to its best parent | seed by seed | trusted |",
        "|---" * (len(seeds) + 5) + "|",
    ]
    for name, values in {**random, **miou}.items():
        cells = [*(f"{v:.1f}" for v in values), spread(values)]
        parents = HYBRIDS[name][2] if name in HYBRIDS else ()
        if parents:
            best = max(parents, key=lambda parent: statistics.mean(miou[parent]))
            gains = [v - p for v, p in zip(values, miou[best], strict=True)]
            cells += [f"{statistics.mean(gains):+.1f} ({best})", ", ".join(f"{g:+.1f}" for g in gains)]
        else:
            cells += ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} | {trusted(records.get(name, []))} |")
    return "\n".join(lines) + "\n"


def trusted(runs: list[list[dict]]) -> str:
    """Share of matches, or of partners, that the last steps trusted, in percent."""
    shown = []
    for what, name in (
        ("regions", "health/accepted/objects"),
        ("images", "health/accepted/neighbours"),
        ("partners", "partners/bootstrapped"),
    ):
        found = [value for value in (last(run, name) for run in runs) if value is not None]
        if found:
            shown.append(f"{100 * statistics.mean(found):.1f} % of {what}")
    return ", ".join(shown)


def plot(records: dict[str, list[list[dict]]]) -> None:
    """A row for every method: from its network before training to a point for each seed after it."""
    figure, axis = plt.subplots(figsize=(9.5, 0.42 * len(records) + 1.2), layout="constrained", dpi=120)
    for y, (name, runs) in enumerate(records.items()):
        color = "#c8324b" if name == "naive" else "#2f8f5b" if name in HYBRIDS else "#3a6ea5"
        before = statistics.mean(100 * points(run, "dense/miou")[0] for run in runs)
        after = [100 * ended(run, "dense/miou") for run in runs]
        axis.plot([before, statistics.mean(after)], [y, y], color=color, linewidth=2, alpha=0.4)
        axis.plot(before, y, "|", color="#777777", markersize=12, label=None if y else "before training, mean")
        axis.plot(after, [y] * len(after), "o", color=color, markersize=6)
    for color, label in (("#3a6ea5", "parents"), ("#2f8f5b", "hybrids"), ("#c8324b", "negative control")):
        axis.plot([], [], "o", color=color, label=label)
    axis.set_yticks(
        range(len(records)),
        [f"{name}: {Path(HYBRIDS[name][0]).stem}" if name in HYBRIDS else name for name in records],
    )
    axis.invert_yaxis()
    axis.set_xlabel("mIoU of dense retrieval, %, a point for each seed")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(HERE / "miou.png")


if __name__ == "__main__":
    main()
