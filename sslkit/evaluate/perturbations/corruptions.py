"""Images with noise, blurred, or spoilt on their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Annotated, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from sslkit.evaluate.base import Backbone
from sslkit.evaluate.perturbations.base import Classify, Perturbation, Shown
from sslkit.evaluate.pixels import to_levels
from sslkit.parameters import Within
from sslkit.registry import joint

SIDE = 224  # pixels, of the images for which lengths are given; they grow and shrink with the side of the image
Kind = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg",
]


@joint
class Corruptions(Perturbation):
    """Eleven of the fifteen corruptions of ImageNet-C, each at severities 1 to 5.

    Noise: "gaussian_noise", "shot_noise" (each level a Poisson count), "impulse_noise" (levels set to 0 or 1). Blur:
    "defocus_blur" (a disc), "glass_blur" (pixels looked up at places nearby), "motion_blur" (a trail to one side, its
    direction drawn), "zoom_blur". Then "brightness", "contrast", "pixelate", "jpeg". Levels end in [0, 1].

    The numbers of ImageNet-C are kept. Its images have 224 pixels: lengths of blurs are in proportion to the shorter
    side of the image, while noise is per pixel, JPEG per block of 8 pixels and the rest in shares, whatever the side.
    Noise therefore hides more of a small image than of a large one. What is drawn for an image is the same at all
    severities.

    Args:
        kinds: which of them; all unless given.
        severities: 1 to 5.

    Source: ImageNet-C (arXiv:1903.12261), https://github.com/hendrycks/robustness, `make_imagenet_c.py`. Written with
    the operations of torch, torchvision and Pillow, and not the same pixel for pixel: levels are not rounded and stored
    as JPEG afterwards, blurs reflect images at their borders, the disc has a soft edge of one pixel, glass blur looks
    pixels up in place of swapping them. Fog, frost, snow and elastic transforms are left out. CO-SSL (arXiv:2501.02860)
    reports noise in the manner of ImageNet-C; kinds and severities are unknown.
    """

    def __init__(
        self,
        *,
        kinds: Sequence[Kind] = get_args(Kind),
        severities: Sequence[Annotated[int, Within(1, 5)]] = (1, 2, 3, 4, 5),
    ):
        self.kinds, self.strengths = kinds, severities

    def __call__(self, shown: Shown, kind: str, strength: float, classify: Classify) -> Float[Tensor, "b 3 h w"]:
        return _BY_KIND[kind](shown, int(strength) - 1).clamp(0, 1)

    def check(self, backbone: Backbone, image_size: int) -> None:
        """Look whether images have neighbouring pixels.

        Raises:
            ValueError: they have one pixel, which nothing can blur.
        """
        if image_size < 2:
            raise ValueError(f"image_size={image_size}, but an image of one pixel cannot be corrupted")


def _gaussian_noise(shown: Shown, at: int) -> Tensor:
    chance = _per_level(shown, "gaussian noise").clamp(min=2**-25)  # 0 would be infinitely far out
    noise: Tensor = torch.special.ndtri(chance)
    return shown.levels + (0.08, 0.12, 0.18, 0.26, 0.38)[at] * noise


def _shot_noise(shown: Shown, at: int) -> Tensor:
    counts = (60, 25, 12, 5, 3)[at]  # of a white pixel
    return poisson(shown.levels * counts, _per_level(shown, "shot noise"), most=counts) / counts


def _impulse_noise(shown: Shown, at: int) -> Tensor:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[at]
    chance = _per_level(shown, "impulse noise")
    return shown.levels.masked_fill(chance < share / 2, 0.0).masked_fill(chance >= 1 - share / 2, 1.0)


def _defocus_blur(shown: Shown, at: int) -> Tensor:
    return _convolved(shown.levels, disc((3, 4, 6, 8, 10)[at] * _scale(shown.levels), shown.levels.device))


def _glass_blur(shown: Shown, at: int) -> Tensor:
    deviation, reach, n_rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[at]
    height, width = shown.levels.shape[-2:]
    found = _softened(shown.levels, deviation)
    for number in range(n_rounds):
        chance = shown.uniform(2 * height * width, f"glass blur {number}").view(-1, height, width, 2)
        found = looked_up(found, (2 * chance - 1) * reach * _scale(found))
    return _softened(found, deviation)


def _motion_blur(shown: Shown, at: int) -> Tensor:
    radius, deviation = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[at]
    angle = (shown.uniform(1, "motion blur")[:, 0] - 0.5) * (math.pi / 2)  # 45 degrees either way
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None, None]
    step = torch.arange(2 * radius + 1)
    weight = (-(step**2) / (2 * deviation**2)).exp()
    trail = zip(step.tolist(), (weight / weight.sum()).tolist(), strict=True)
    shifted = (part * looked_up(shown.levels, n * _scale(shown.levels) * direction) for n, part in trail)
    return sum(shifted, torch.zeros_like(shown.levels))


def _zoom_blur(shown: Shown, at: int) -> Tensor:
    most, step = ((1.11, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03))[at]
    zooms = [1 + step * n for n in range(round((most - 1) / step) + 1)]
    height, width = shown.levels.shape[-2:]
    device = shown.levels.device
    x, y = (torch.arange(n, device=device) - (n - 1) / 2 for n in (width, height))
    place = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    zoomed = (looked_up(shown.levels, place * (1 / zoom - 1)) for zoom in zooms)
    return sum(zoomed, shown.levels) / (len(zooms) + 1)


def _brightness(shown: Shown, at: int) -> Tensor:
    """The value of HSV raised, hue and saturation kept."""
    value = shown.levels.amax(dim=1, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[at]).clamp(max=1)
    return torch.where(value > 0, shown.levels * raised / value, raised)


def _contrast(shown: Shown, at: int) -> Tensor:
    mean = shown.levels.mean(dim=(2, 3), keepdim=True)
    return mean + (0.4, 0.3, 0.2, 0.1, 0.05)[at] * (shown.levels - mean)


def _pixelate(shown: Shown, at: int) -> Tensor:
    size = tuple(shown.levels.shape[-2:])
    few = [max(1, int(side * (0.6, 0.5, 0.4, 0.3, 0.25)[at])) for side in size]
    rows, columns = (boxes(side, n).to(shown.levels.device) for side, n in zip(size, few, strict=True))
    return F.interpolate(rows @ shown.levels @ columns.mT, size, mode="nearest-exact")


def _jpeg(shown: Shown, at: int) -> Tensor:
    found = []
    for image in (shown.levels * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        with BytesIO() as file:
            Image.fromarray(image).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[at])
            found.append(to_levels(Image.open(file), None))
    return torch.stack(found).to(shown.levels.device)


_BY_KIND: dict[str, Callable[[Shown, int], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}


def poisson(rate: Float[Tensor, "*s"], chance: Float[Tensor, "*s"], *, most: float) -> Float[Tensor, "*s"]:
    """The Poisson counts below which the distributions of these rates have these chances; no rate is above `most`."""
    part = (-rate).exp()
    below = part.clone()
    counts = torch.zeros_like(rate)
    for n in range(1, math.ceil(most + 8 * math.sqrt(most) + 8)):  # beyond, no chance of 24 bits leads
        counts += chance >= below
        part = part * rate / n
        below = below + part
    return counts


def disc(radius: float, device: torch.device) -> Float[Tensor, "k k"]:
    """Weights, of sum 1, of the pixels around one that lie within the radius, with an edge one pixel soft."""
    reach = math.ceil(radius + 0.5) - 1
    across = torch.arange(-reach, reach + 1, device=device).float()
    weight = (radius + 0.5 - torch.hypot(across[:, None], across[None])).clamp(0, 1)
    return weight / weight.sum()


def boxes(side: int, n: int) -> Float[Tensor, "n side"]:
    """Which share of each of `n` equal boxes along a side is covered by each pixel; a fraction at the ends of a box."""
    start, pixel = (torch.arange(n) * side / n)[:, None], torch.arange(side)
    covered = torch.minimum(start + side / n, pixel + 1) - torch.maximum(start, pixel)
    return covered.clamp(min=0) * n / side


def looked_up(levels: Float[Tensor, "b c h w"], shift: Float[Tensor, "... 2"]) -> Float[Tensor, "b c h w"]:
    """The level of every pixel at a place shifted by (x, y) pixels, bilinear, reflected at the borders.

    Args:
        shift: of shape (b, h, w, 2), or 1 in place of any of b, h and w.
    """
    height, width = levels.shape[-2:]
    x, y = (torch.arange(n, device=levels.device) for n in (width, height))
    place = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None] + shift
    grid = (2 * place + 1) / place.new_tensor([width, height]) - 1
    return F.grid_sample(
        levels, grid.expand(len(levels), -1, -1, -1), mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _convolved(levels: Tensor, kernel: Float[Tensor, "k k"]) -> Tensor:
    reach = len(kernel) // 2
    padded = F.pad(levels, [reach] * 4, mode="reflect")
    return F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)


def _softened(levels: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur of a deviation given for `SIDE`, cut at four deviations."""
    deviation *= _scale(levels)
    softened: Tensor = tv.gaussian_blur(levels, [2 * math.ceil(4 * deviation) + 1] * 2, [deviation] * 2)
    return softened


def _scale(levels: Tensor) -> float:
    return min(levels.shape[-2:]) / SIDE


def _per_level(shown: Shown, use: str) -> Float[Tensor, "b 3 h w"]:
    """A number in [0, 1) for each level of each image."""
    return shown.uniform(shown.levels[0].numel(), use).view_as(shown.levels)
