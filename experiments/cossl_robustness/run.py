"""BYOL against CO-BYOL and DINO against CO-DINO on a folder of images: accuracy, clean and under corruption.

    python -m experiments.cossl_robustness.run --data TINY

TINY holds train/ and val/ with a sub-folder for each class: 20 classes of Tiny ImageNet, 64 px, gave the figures here.
Stopped at any moment and started again it goes on. Writes table.md, strengths.png and corruptions.png beside itself;
the runs lie in runs/cossl_robustness/.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from experiments.trials import Trial, options, spread, train

HERE = Path(__file__).parent
SHARED = "experiments/cossl_robustness/shared.gin"
WIDE = ("heads.Projector.hidden = 512", "heads.Projector.predictor_hidden = 512")
SCORED = ("heads.Prototypes.outputs = {'image': 256}",)
STILL = "experiments/cossl_robustness/random.gin"
METHODS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # files and bindings
    "random": (("gin/base/byol.gin", SHARED, STILL), WIDE),
    "BYOL": (("gin/base/byol.gin", SHARED), WIDE),
    "CO-BYOL": (("gin/base/co_byol.gin", SHARED), WIDE),
    "DINO": (("gin/base/small_prototypes.gin", "gin/base/dino.gin", SHARED), SCORED),
    "CO-DINO": (("gin/base/small_prototypes.gin", "gin/base/co_dino.gin", SHARED), SCORED),
}
COLORS = {"random": "#777777", "BYOL": "#3a6ea5", "CO-BYOL": "#c8324b", "DINO": "#3aa6b8", "CO-DINO": "#e39a3b"}
SMALL = "from 0.2"
CROPS = {SMALL: (), "from 0.6": ("augmenters.Crop.scale = (0.6, 1.0)",)}  # least share of the image in a view
NOISE_AND_BLUR = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
)
PROTOCOLS: dict[str, tuple[str, tuple[str, ...]]] = {  # file, and bindings for images of 64 pixels as they are
    "knn": (
        "gin/protocols/imagenet_knn.gin",
        tuple(f"evaluate.NearestNeighbours.{x}" for x in ("resize = None", "image_size = 64", "n_workers = 0")),
    ),
    "linear": ("gin/protocols/folder_linear.gin", ()),
    "robustness": (
        "gin/protocols/folder_robustness.gin",
        (
            "evaluate.LinearProbe.n_val = 500",
            f"Corruptions.kinds = {NOISE_AND_BLUR}",
            "Adversarial.radii = (0.25, 0.5, 1.0)",
        ),
    ),
    "redundancy": (
        "gin/protocols/imagenet_patch_redundancy.gin",
        tuple(f"evaluate.PatchRedundancy.{x}" for x in ("resize = None", "image_size = 64", "n_workers = 0")),
    ),
}


ACCURACY = ("knn", "linear")  # all that the runs on large crops are asked


class Key(NamedTuple):
    """One run: its method, its crops, its seed."""

    method: str
    crops: str
    seed: int


Results = Mapping[Key, Mapping[str, Any]]


def main() -> None:
    parser = options(__doc__, "cossl_robustness", seeds=3)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--crop-seeds", type=int, default=2, help="seeds of the runs with large crops")
    asked = parser.parse_args()
    images = (
        "train.data = @images/datasets.ImageFolder()",
        f"images/datasets.ImageFolder.root = {str(asked.data.absolute())!r}",
        "images/datasets.ImageFolder.split = 'train'",
    )
    trials = {}
    for crops, n_seeds in ((SMALL, asked.seeds), ("from 0.6", asked.crop_seeds)):
        for key in (Key(method, crops, seed) for seed in range(n_seeds) for method in METHODS):
            if key.method == "random" and crops != SMALL:
                continue
            files, own = METHODS[key.method]
            run = asked.runs / f"{key.method.lower().replace('-', '_')}_{crops.replace(' ', '_')}_{key.seed}"
            bindings = (*own, *CROPS[crops], *images, *asked.bindings)
            trials[key] = Trial(key.method, files, bindings, key.seed, run)
    train(list(trials.values()), asked.at_once)
    with ThreadPoolExecutor(asked.at_once) as pool:
        asks = [ACCURACY if key.crops != SMALL else tuple(PROTOCOLS) for key in trials]
        found = pool.map(lambda trial, names: evaluated(trial, asked.data, names), trials.values(), asks)
        results = dict(zip(trials, found, strict=True))
    text = report(results)
    (HERE / "table.md").write_text(text)
    print(text)
    plot_strengths(results)
    plot_kinds(results)


def evaluated(trial: Trial, data: Path, names: Sequence[str]) -> dict[str, Any]:
    """What protocols say of a run; kept beside it, so that each is asked once."""
    found = {}
    for name in names:
        protocol, own = PROTOCOLS[name]
        settings = hashlib.sha256(repr((protocol, own, str(data))).encode()).hexdigest()[:8]
        kept = trial.run / f"{name}_{settings}.json"
        if not kept.is_file():
            words = ["evaluate", str(trial.run), "--protocol", protocol, "--data", str(data)]
            words += [word for binding in own for word in ("--set", binding)]
            print(f"{trial.name}, seed {trial.seed}: {name}", flush=True)
            command = [sys.executable, "-m", "sslkit", *words]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            half = kept.with_suffix(".partial")
            half.write_text(done.stdout.splitlines()[-1])
            half.replace(kept)
        found[name] = json.loads(kept.read_text())
    return found


def over_seeds(results: Results, method: str, crops: str, read: Callable[[Mapping[str, Any]], float]) -> list[float]:
    """A number of every seed of a method."""
    return [read(found) for key, found in results.items() if (key.method, key.crops) == (method, crops)]


NUMBERS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "k-NN": lambda r: 100 * r["knn"]["accuracy"],
    "linear": lambda r: 100 * r["linear"]["accuracy"],
    "corrupted": lambda r: 100 * r["robustness"]["corruptions"]["robust_accuracy"],
    "corrupted / clean": lambda r: 100 * r["robustness"]["corruptions"]["ratio"],
    "masked": lambda r: 100 * r["robustness"]["masking"]["robust_accuracy"],
    "masked / clean": lambda r: 100 * r["robustness"]["masking"]["ratio"],
    "FGSM": lambda r: 100 * r["robustness"]["adversarial"]["fgsm"]["robust_accuracy"],
    "PGD": lambda r: 100 * r["robustness"]["adversarial"]["pgd"]["robust_accuracy"],
    "PGD / clean": lambda r: 100 * r["robustness"]["adversarial"]["pgd"]["ratio"],
}
LOCALS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "cosine within": lambda r: 100 * r["redundancy"]["cosine_within"],
    "between": lambda r: 100 * r["redundancy"]["cosine_between"],
    "within, centred": lambda r: 100 * r["redundancy"]["centred_cosine_within"],
    "rank within": lambda r: r["redundancy"]["rank_within"],
    "rank of all": lambda r: r["redundancy"]["rank_all"],
    "one patch": lambda r: 100 * r["redundancy"]["accuracy_patch"],
    "vote": lambda r: 100 * r["redundancy"]["accuracy_vote"],
    "image": lambda r: 100 * r["redundancy"]["accuracy_image"],
}


def report(results: Results) -> str:
    """All tables: accuracy and robustness, crops, kinds of corruption, redundancy."""
    said = ["Accuracy in percent, mean and deviation over seeds.", "", *table(results, NUMBERS)]
    said += ["", "Least share of the image in a view, and what is left at large shares.", ""]
    said += ["| | k-NN, from 0.2 | from 0.6 | ratio | linear, from 0.2 | from 0.6 | ratio |", "|---" * 7 + "|"]
    for method in METHODS:
        cells = []
        for number in ("k-NN", "linear"):
            small, large = (over_seeds(results, method, crops, NUMBERS[number]) for crops in CROPS)
            if large:
                shares = [100 * b / a for a, b in zip(small, large, strict=False)]
                cells += [spread(small[: len(large)]), spread(large), spread(shares)]
        if cells:
            said.append(f"| {method} | {' | '.join(cells)} |")
    kinds = kinds_of(results, "corruptions")
    by_kind = {kind: ratio_of("corruptions", kind) for kind in kinds}
    said += ["", "Accuracy under a corruption over clean accuracy, in percent, mean over severities.", ""]
    said += table(results, by_kind)
    said += [
        "",
        "Patches: cosines and accuracies of a ridge regression in percent, effective ranks.",
        "",
        *table(results, LOCALS),
    ]
    return "\n".join(said) + "\n"


def table(results: Results, numbers: Mapping[str, Callable[[Mapping[str, Any]], float]]) -> list[str]:
    lines = [f"| | {' | '.join(numbers)} |", "|---" * (len(numbers) + 1) + "|"]
    for method in METHODS:
        cells = [spread(over_seeds(results, method, SMALL, read)) for read in numbers.values()]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def kinds_of(results: Results, name: str) -> list[str]:
    """What is done to images under a name, such as each corruption."""
    found = next(iter(results.values()))["robustness"][name]
    return [kind for kind, value in found.items() if isinstance(value, Mapping)]


def ratio_of(name: str, kind: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda found: 100 * float(found["robustness"][name][kind]["ratio"])


def plot_strengths(results: Results) -> None:
    """Accuracy against the strength of corruptions, masks and attacks: thin lines for seeds, a thick one for all."""
    panels = {
        "corruptions, mean": ("corruptions", None, "severity"),
        "mask in the middle": ("masking", "centre", "side of the square, share of the image's"),
        "mask anywhere": ("masking", "random", "side of the square, share of the image's"),
        "PGD": ("adversarial", "pgd", "largest change of a level, 1/255"),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(15, 3.8), layout="constrained", dpi=110, sharey=True)
    for axis, (title, (name, kind, label)) in zip(axes.flat, panels.items(), strict=True):
        for method in METHODS:
            runs = [found["robustness"] for key, found in results.items() if key[:2] == (method, SMALL)]
            curves = [strengths(run, name, kind) for run in runs]
            for curve in curves:
                axis.plot(list(curve), list(curve.values()), color=COLORS[method], alpha=0.3, linewidth=1)
            mean = [statistics.mean(curve[at] for curve in curves) for at in curves[0]]
            axis.plot(list(curves[0]), mean, color=COLORS[method], linewidth=2.2, label=method)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].set_ylabel("accuracy of the linear probe, %")
    axes.flat[-1].legend(frameon=False, fontsize=9)
    figure.savefig(HERE / "strengths.png")


def strengths(run: Mapping[str, Any], name: str, kind: str | None) -> dict[float, float]:
    """Accuracy in percent by strength, 0 for clean images; the mean over kinds where none is named."""
    kinds = [kind] if kind else [k for k, value in run[name].items() if isinstance(value, Mapping)]
    at = [s for s, value in run[name][kinds[0]].items() if isinstance(value, Mapping)]
    curve = {float(s): 100 * statistics.mean(run[name][k][s]["robust_accuracy"] for k in kinds) for s in at}
    return {0.0: 100 * run["accuracy"], **curve}


def plot_kinds(results: Results) -> None:
    """Accuracy under each corruption over the clean one: a bar for each method, a point for each seed."""
    kinds, methods = kinds_of(results, "corruptions"), [m for m in METHODS if m != "random"]
    figure, axis = plt.subplots(figsize=(12, 4), layout="constrained", dpi=110)
    for m, method in enumerate(methods):
        for k, kind in enumerate(kinds):
            values, x = over_seeds(results, method, SMALL, ratio_of("corruptions", kind)), k + 0.2 * (m - 1.5)
            label = method if k == 0 else None
            axis.bar(x, statistics.mean(values), width=0.18, color=COLORS[method], alpha=0.5, label=label)
            axis.plot([x] * len(values), values, "o", color=COLORS[method], markersize=3)
    axis.set_xticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds], fontsize=9)
    axis.set_ylabel("accuracy, % of that on clean images")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=4, loc="upper left")
    figure.savefig(HERE / "corruptions.png")


if __name__ == "__main__":
    main()
