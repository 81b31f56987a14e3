"""Images as a frozen backbone takes them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sslkit.backbones.weights import IMAGENET


def to_pixels(image: Image.Image, size: int | None) -> Float[Tensor, "3 h w"]:
    """The image resized to a square of `size` pixels (bicubic, antialiased), with ImageNet's mean and deviation."""
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(IMAGENET[name])[:, None, None] for name in ("mean", "std"))
    return (levels - mean) / std
