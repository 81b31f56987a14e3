"""Every method that ships, at a size that trains in a second, on a few small images that lie in a folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from sslkit import config

ROOT = Path(__file__).parents[2]
FILES = {
    path.relative_to(ROOT / "gin").with_suffix("").as_posix(): path.relative_to(ROOT).as_posix()
    for path in (*sorted((ROOT / "gin").glob("*.gin")), *sorted((ROOT / "gin/hybrids").glob("*.gin")))
}
N_IMAGES, STEP, N_STEPS, SAVE_EVERY = 12, 4, 8, 2  # nearly three epochs
_SMALL = {  # where a method has it
    "across/Term.start_fraction": "0.0",
    "local/Term.start_fraction": "0.0",
    "memories.PerImage.warmup_epochs": "0",
    "memories.PerImage.window": "1",
    "objects/memories.Queue.n_images": "16",
    "neighbours/memories.Queue.n_images": "16",
    "heads.Projector.hidden": "32",
    "heads.Projector.predictor_hidden": "32",
    "local/heads.Projector.hidden": "32",
    "local/heads.Projector.predictor_hidden": "32",
    "heads.Prototypes.hidden": "32",
    "heads.Prototypes.bottleneck": "16",
    "local/heads.Prototypes.hidden": "32",
    "local/heads.Prototypes.bottleneck": "16",
    "local/augmenters.Crop.n": "2",
    "focal/augmenters.Crop.n": "2",
    "one/augmenters.Crop.size": "48",
    "two/augmenters.Crop.size": "48",
    "partner/augmenters.Crop.size": "48",
    "clusterers.Sinkhorn.n_clusters": "6",
}
_NARROW = "{'output_stride': 8, 'layers': (1, 1, 1, 1), 'channels': (8, 8, 16, 16)}"
EVALUATED = (  # beside its training, on scenes
    "train.evaluations = {'knn': @evaluate.NearestNeighbours()}",
    "evaluate.NearestNeighbours.train = @memory/datasets.Scenes()",
    "evaluate.NearestNeighbours.val = @val/datasets.Scenes()",
    "evaluate.NearestNeighbours.n_neighbours = (2,)",
    "evaluate.NearestNeighbours.n_workers = 0",
    "evaluate.NearestNeighbours.image_size = 48",
    "memory/datasets.Scenes.n_images = 12",
    "val/datasets.Scenes.n_images = 6",
    "datasets.Scenes.size = 48",
    "datasets.Scenes.objects = (1, 1)",
    "train.evaluate_every = 2",
)


def follows_partners(method: str) -> bool:
    """Whether a method keeps the neighbours of its images in files."""
    return "memories.PerImage.window" in _operative(method)


@cache
def _operative(method: str) -> str:
    return config.load([FILES[method]], []).operative


def bindings(method: str, data: Path, ranks: int, n_workers: int = 0) -> list[str]:
    """What makes it small: the same images and steps for any number of ranks."""
    said = _operative(method)
    small = [f"{name} = {value}" for name, value in _SMALL.items() if f"\n{name} = " in said]
    if "'resnet18'" in said:
        small.append(f"backbones.Timm.options = {_NARROW}")
    return [
        "train.data = @datasets.ImageFolder()",
        f"datasets.ImageFolder.root = {str(data)!r}",
        f"train.batch_size = {STEP // ranks}",
        f"train.n_steps = {N_STEPS}",
        f"train.save_every = {SAVE_EVERY}",
        f"train.n_workers = {n_workers}",
        "train.evaluations = None",
        "train.pictures = False",
        "train.log_every = 1",
        *small,
    ]


def images(folder: Path) -> Path:
    """A folder of images of noise with a patch of one colour each, made if it is not there."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for i in range(N_IMAGES):
            draw = np.random.default_rng(i)
            pixels = draw.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            pixels[8:32, 8:32] = draw.integers(0, 255, 3)
            Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder
