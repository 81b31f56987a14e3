"""BYOL against CO-BYOL and DINO against CO-DINO on a folder of images: accuracy, and what is left of it under corruption.

    python -m experiments.cossl_robustness.run --data TINY

TINY holds train/ and val/ with a sub-folder for each class: 20 classes of Tiny ImageNet, 64 px, gave the figures here.
Stopped at any moment and started again it goes on. Writes table.md, curves.png and corruptions.png beside itself; the
runs lie in runs/cossl_robustness/.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt

from experiments.trials import Trial, options, spread, train

HERE = Path(__file__).parent
SHARED = "experiments/cossl_robustness/shared.gin"
WIDE = ("heads.Projector.hidden = 512", "heads.Projector.predictor_hidden = 512")
SCORED = ("heads.Prototypes.outputs = {'image': 256}",)
STILL = ("Optimizer.lr = 0.0", "train.n_steps = 40")  # so many steps only measure BatchNorm's statistics
METHODS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {  # files, bindings, color
    "random": (("gin/base/byol.gin",), (*WIDE, *STILL), "#777777"),
    "BYOL": (("gin/base/byol.gin",), WIDE, "#3a6ea5"),
    "CO-BYOL": (("gin/base/co_byol.gin",), WIDE, "#c8324b"),
    "DINO": (("gin/base/small_prototypes.gin", "gin/base/dino.gin"), SCORED, "#3aa6b8"),
    "CO-DINO": (("gin/base/small_prototypes.gin", "gin/base/co_dino.gin"), SCORED, "#e39a3b"),
}
LARGE_CROPS = "augmenters.Crop.scale = (0.6, 1.0)"  # beside (0.2, 1.0)
PROTOCOLS = {
    "knn": ("gin/protocols/imagenet_knn.gin", ("evaluate.NearestNeighbours.resize = 64",)),
    "robustness": ("gin/protocols/folder_robustness.gin", ()),
    "redundancy": ("gin/protocols/folder_redundancy.gin", ()),
}
SIZED = {  # images of 64 px as they are
    "knn": ("evaluate.NearestNeighbours.image_size = 64", "evaluate.NearestNeighbours.n_workers = 0"),
    "robustness": (),
    "redundancy": (),
}


def main() -> None:
    asked = options(str(__doc__).splitlines()[0], "cossl_robustness", seeds=3)
    asked.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    asked.add_argument("--seeds-of-crops", type=int, default=2, help="seeds of the runs with larger crops")
    given = asked.parse_args()
    folder = f"train.data = @images/datasets.ImageFolder()", f"images/datasets.ImageFolder.root = '{given.data}'"
    images = (*folder, "images/datasets.ImageFolder.split = 'train'", *given.bindings)
    trials = {}
    for crops, n_seeds in (("", given.seeds), ("large", given.seeds_of_crops)):
        for seed in range(n_seeds):
            for name, (files, own, _) in METHODS.items():
                if crops and name == "random":
                    continue
                more = (LARGE_CROPS,) if crops else ()
                run = given.runs / f"{name.lower().replace('-', '_')}{'_large' if crops else ''}_{seed}"
                trials[name, crops, seed] = Trial(name, (*files, SHARED), (*own, *more, *images), seed, run)
    train(list(trials.values()), given.at_once)
    with ProcessPoolExecutor(given.at_once, mp_context=get_context("spawn")) as pool:
        found = dict(zip(trials, pool.map(evaluated, trials.values(), [given.data] * len(trials)), strict=True))
    (HERE / "table.md").write_text(tables(found))
    print(tables(found))
    plot(found)


if __name__ == "__main__":
    main()
