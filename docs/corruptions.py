"""Draws docs/corruptions.png: one embedded object under every corruption at every severity.

python docs/corruptions.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from sslkit.datasets import Scenes
from sslkit.evaluate import Corruptions
from sslkit.evaluate.perturbations import Shown
from sslkit.evaluate.pixels import to_levels

SIDE, GAP, MARGIN = 64, 4, 96  # pixels of an image, between two, and of the names on the left


def sheet() -> Image.Image:
    """A row for each kind: its name, the clean image, severities 1 to 5."""
    scenes = Scenes(n_images=40, size=SIDE, objects=(1, 1), scale=(0.6, 0.8), clutter=(0, 0), color_variation=0.3)
    clean = to_levels(scenes[26].image, SIDE)[None]
    shown = Shown(clean, truth=torch.tensor([0]), right=torch.tensor([True]), index=torch.tensor([26]), seed=0)
    corruptions = Corruptions()
    step = SIDE + GAP
    drawn = Image.new("RGB", (MARGIN + 6 * step, 16 + len(corruptions.kinds) * step), "white")
    pen = ImageDraw.Draw(drawn)
    for column, name in enumerate(("clean", "1", "2", "3", "4", "5")):
        pen.text((MARGIN + column * step + SIDE // 2, 8), name, "black", anchor="mm")
    for row, kind in enumerate(corruptions.kinds):
        top = 16 + row * step
        pen.text((4, top + SIDE // 2), kind.replace("_", " "), "black", anchor="lm")
        versions = [clean, *(corruptions(shown, kind, severity, torch.nn.Identity()) for severity in range(1, 6))]
        for column, levels in enumerate(versions):
            image = (levels[0] * 255).round().byte().permute(1, 2, 0).numpy()
            drawn.paste(Image.fromarray(image), (MARGIN + column * step, top))
    return drawn


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png")
    sheet().save(where, optimize=True)
