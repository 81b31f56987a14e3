"""Images as a frozen backbone takes them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sslkit.backbones.weights import IMAGENET


def to_pixels(image: Image.Image, size: int | None, *, resize: int | None = None) -> Float[Tensor, "3 h w"]:
    """The levels of an image with ImageNet's mean and deviation."""
    return normalised(to_levels(image, size, resize=resize))


def to_levels(image: Image.Image, size: int | None, *, resize: int | None = None) -> Float[Tensor, "3 h w"]:
    """The image as a square of `size` pixels (bicubic, antialiased), each level from 0 to 1.

    Args:
        size: None leaves the image as it is.
        resize: bring the shorter side to so many pixels and cut the square out of the middle; None squeezes the whole
            image into the square.
    """
    if size is not None:
        image = (
            image.resize((size, size), Image.Resampling.BICUBIC)
            if resize is None
            else _centre(_shorter_side(image, resize), size)
        )
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def normalised(levels: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """Levels from 0 to 1 with ImageNet's mean and deviation."""
    mean, std = (torch.tensor(IMAGENET[name], device=levels.device)[:, None, None] for name in ("mean", "std"))
    return (levels - mean) / std


def _shorter_side(image: Image.Image, size: int) -> Image.Image:
    """The image in its proportions, its longer side rounded down."""
    width, height = (side * size // min(image.size) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _centre(image: Image.Image, size: int) -> Image.Image:
    """The square in the middle, half a pixel rounded to even."""
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))
