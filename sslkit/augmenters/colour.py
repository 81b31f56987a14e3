"""Colour operations on one view: planes of levels 0 to 255 in float32, the drawn number as argument, a new tensor out.

They are the formulas of torchvision's tensor functions, not rounded to whole levels between two operations as PIL does.
For one operation PIL differs by under 1.5 levels; its hue, kept in 256 steps, by up to 20 in a saturated colour (0.2 on
average in photographs); its blur, rounded six times, by up to 3.5, and more along the border (see `blur`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R 601, as in PIL's conversion to grey
_BLUR_PASSES = 3
_FAINTEST_TAP = 1 / 2048  # a weight below it moves no pixel by more than an eighth of a level


def _luma(x: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    return (_LUMA @ x.flatten(1)).view(x.shape[1:])


def _limit(x: Float[Tensor, "3 h w"], factor: float) -> Float[Tensor, "3 h w"]:
    """Levels back in range; a factor up to 1 mixes two valid images and cannot leave it."""
    return x.clamp_(0, 255) if factor > 1 else x


def brightness(x: Float[Tensor, "3 h w"], factor: float) -> Float[Tensor, "3 h w"]:
    """The image mixed with black: 0 is black, 1 leaves it."""
    return _limit(x * factor, factor)


def contrast(x: Float[Tensor, "3 h w"], factor: float) -> Float[Tensor, "3 h w"]:
    """The image mixed with its mean grey: 0 is plain grey, 1 leaves it."""
    return _limit(torch.lerp(_LUMA @ x.mean(dim=(1, 2)), x, factor), factor)


def saturation(x: Float[Tensor, "3 h w"], factor: float) -> Float[Tensor, "3 h w"]:
    """The image mixed with its grey version: 0 is grey, 1 leaves it."""
    return _limit(torch.lerp(_luma(x), x, factor), factor)


def hue(x: Float[Tensor, "3 h w"], turn: float) -> Float[Tensor, "3 h w"]:
    """The image with every hue moved by `turn` (1 is once around), HSV value and saturation kept.

    With low and high the extremes of a pixel and chroma their difference, its hue lies
    (green + blue - red + high - 2 low) / chroma sextants from red, on the side of green where green exceeds blue. A
    channel whose own hue is `a` sextants from there is low + chroma (clamp(||a| - 3|, 1, 2) - 1).
    """
    red, green, blue = x
    low, high = x.amin(dim=0), x.amax(dim=0)
    chroma = high - low
    angle = (green + blue).sub_(red).add_(high).sub_(low, alpha=2)
    angle.div_(chroma.clamp(min=1e-3)).copysign_(green - blue)
    base, out = low.sub_(chroma), torch.empty_like(x)
    for channel, own in enumerate((0, 2, -2)):
        shift = math.remainder(6 * turn - own, 6)  # within half a turn, as the angle is
        away = torch.add(angle, shift, out=out[channel])
        away.abs_().sub_(3).abs_().clamp_(1, 2).mul_(chroma).add_(base)
    return out


def grayscale(x: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """The grey version, in three equal planes."""
    return _luma(x).expand_as(x).contiguous()


def solarise(x: Float[Tensor, "3 h w"], threshold: float) -> Float[Tensor, "3 h w"]:
    """Levels from `threshold` on are inverted."""
    return torch.where(x < threshold, x, 255 - x)


def blur_kernel(radius: float) -> list[float]:
    """The centre and one side of PIL's Gaussian of that standard deviation: a box of fractional width, three times.

    Source: Gwosdek, Grewenig, Bruhn, Weickert, "Theoretical foundations of Gaussian convolution by extended box
    filtering" (2011), as in `ImageFilter.GaussianBlur`.
    """
    variance = radius**2 / _BLUR_PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.full(2 * whole + 3, 1.0)
    box[[0, -1]] = part
    box /= box.sum()
    kernel = box
    for _ in range(_BLUR_PASSES - 1):
        kernel = np.convolve(kernel, box)
    side = kernel[len(kernel) // 2 :]
    side = side[: max(1, int((side >= _FAINTEST_TAP).sum()))]
    return [float(weight) for weight in side / (2 * side.sum() - side[0])]


def blur(x: Float[Tensor, "3 h w"], radius: float) -> Float[Tensor, "3 h w"]:
    """A Gaussian blur of standard deviation `radius` px, borders repeated (once; PIL repeats them after each pass)."""
    kernel = blur_kernel(radius)
    n = len(kernel) - 1
    for dim, pad in ((1, (0, 0, n, n)), (2, (n, n, 0, 0))):
        wide, size = F.pad(x, pad, mode="replicate"), x.shape[dim]
        x = wide.narrow(dim, n, size) * kernel[0]
        for i in range(1, n + 1):
            x.add_(wide.narrow(dim, n - i, size), alpha=kernel[i]).add_(wide.narrow(dim, n + i, size), alpha=kernel[i])
    return x
