"""Time of two 224 px views with their patch positions: from crop boxes, and from resampled maps of coordinates.

    python experiments/benchmarks/views.py [--images DIR]

Three forms see the same images, boxes and colour draws, in turn, in one process:

    crop boxes                     sslkit.augmenters.Crops and geometry.patch_positions
    coordinate map                 the same pixels; positions from an x/y table that is cropped, resized (bicubic),
                                   flipped and averaged over patches like the image
    coordinate map, torchvision    the same positions; the image operations as torchvision does them on PIL images

Images are decoded beforehand. Without --images they are 480x360 and made here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from sslkit import geometry
from sslkit.augmenters import Crop, Crops, Recipe
from sslkit.types import Key, View

GRID = (14, 14)
PATCH = 16
PAIR = Crops(global_crops=[Crop(blur_p=1.0), Crop(blur_p=0.1, solarise_p=0.2)])
PIL_JITTERS = {
    "brightness": TF.adjust_brightness,
    "contrast": TF.adjust_contrast,
    "saturation": TF.adjust_saturation,
    "hue": TF.adjust_hue,
}


def textured(seed: int, width: int = 480, height: int = 360) -> Image.Image:
    """Noise at several scales, so that no operation meets a flat image."""
    rng, total = np.random.default_rng(seed), np.zeros((height, width, 3))
    for scale in (1, 4, 16, 64):
        coarse = rng.integers(0, 256, (height // scale + 1, width // scale + 1, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) / 4.0
    return Image.fromarray(total.astype(np.uint8))


def from_boxes(images: list[Image.Image], epoch: int) -> list[Tensor]:
    items = [PAIR([image], Key(seed=0, epoch=epoch, index=i)) for i, image in enumerate(images)]
    return [geometry.patch_positions(View.stack(views), GRID) for views in zip(*items, strict=True)]


def from_maps(images: list[Image.Image], epoch: int, table: Tensor, render: Callable[..., Tensor]) -> list[Tensor]:
    positions: list[list[Tensor]] = [[] for _ in PAIR.crops]
    for i, image in enumerate(images):
        recipes = [crop.draw(image.size, Key(0, epoch, i), v) for v, crop in enumerate(PAIR.crops)]
        render(image, recipes)
        for v, recipe in enumerate(recipes):
            left, top, width, height = recipe.box
            coordinates = TF.resized_crop(
                table, top, left, height, width, [224, 224], InterpolationMode.BICUBIC, antialias=True
            )
            coordinates = coordinates.flip(-1) if recipe.flip else coordinates
            positions[v].append(torch.nn.functional.avg_pool2d(coordinates, PATCH).flatten(1).T)
    return [torch.stack(p) for p in positions]


def render_ours(image: Image.Image, recipes: list[Recipe]) -> list[Tensor]:
    levels = torch.from_numpy(np.array(image))
    return [crop.render(levels, recipe).pixels for crop, recipe in zip(PAIR.crops, recipes, strict=True)]


def render_torchvision(image: Image.Image, recipes: list[Recipe]) -> list[Tensor]:
    return [torchvision_view(image, recipe, crop) for crop, recipe in zip(PAIR.crops, recipes, strict=True)]


def torchvision_view(image: Image.Image, recipe: Recipe, crop: Crop) -> Tensor:
    left, top, width, height = recipe.box
    image = TF.resized_crop(image, top, left, height, width, [crop.size] * 2, InterpolationMode.BICUBIC)
    image = TF.hflip(image) if recipe.flip else image
    for name, factor in recipe.jitter:
        image = PIL_JITTERS[name](image, factor)
    image = TF.to_grayscale(image, 3) if recipe.grayscale else image
    image = image.filter(ImageFilter.GaussianBlur(recipe.blur_px)) if recipe.blur_px else image
    image = ImageOps.solarize(image, int(crop.solarise_threshold)) if recipe.solarise else image
    return TF.normalize(TF.to_tensor(image), crop.mean, crop.std)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of jpg or png images; default: images made here")
    parser.add_argument("--n-images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; a loader worker has 1")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if args.images is None:
        images = [textured(seed) for seed in range(args.n_images)]
    else:
        paths = sorted(p for p in args.images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        images = [Image.open(p).convert("RGB") for p in paths[: args.n_images]]
        if not images:
            parser.error(f"--images {args.images}: no jpg or png file there")
    width, height = (max(image.size[d] for image in images) for d in (0, 1))
    table = torch.stack(torch.meshgrid(torch.arange(float(width)), torch.arange(float(height)), indexing="xy"))

    forms: dict[str, Callable[[int], list[Tensor]]] = {
        "crop boxes": lambda epoch: from_boxes(images, epoch),
        "coordinate map": lambda epoch: from_maps(images, epoch, table, render_ours),
        "coordinate map, torchvision": lambda epoch: from_maps(images, epoch, table, render_torchvision),
    }
    ours, theirs = forms["crop boxes"](0), forms["coordinate map"](0)
    gap = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    times: dict[str, list[float]] = {name: [] for name in forms}
    for epoch in range(args.repeats):
        for name, form in forms.items():
            start = time.perf_counter()
            form(epoch)
            times[name].append((time.perf_counter() - start) / len(images))

    numbers = len(PAIR.crops) * 4 * (4 + 2) + len(PAIR.crops)  # box and size in float32, flip in a byte
    maps = table.nbytes + len(PAIR.crops) * 2 * PAIR.crops[0].size ** 2 * 4  # the table and a resized map per view
    base = statistics.median(times["crop boxes"])
    print(f"{os.cpu_count()} cores, {args.threads} torch thread(s), torch {torch.__version__},", end=" ")
    print(f"torchvision {torchvision.__version__}; {len(images)} images up to {width}x{height}")
    print(f"largest distance between the positions of the two forms: {gap:.3f} px\n")
    print(f"{'two 224 px views':29}{'median ms':>10}{'fastest ms':>11}{'geometry kB':>12}{'boxes / it':>11}")
    for name, taken in times.items():
        median, memory = statistics.median(taken), numbers if name == "crop boxes" else maps
        print(f"{name:29}{1e3 * median:10.2f}{1e3 * min(taken):11.2f}{memory / 1e3:12.2f}{base / median:11.2f}")


if __name__ == "__main__":
    main()
