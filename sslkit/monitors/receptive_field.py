"""Which pixels a patch depends on, and how strongly; `sslkit.backbones.windows` knows on which it can depend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sslkit import draws, precision
from sslkit.evaluate.base import Backbone, evaluating

CHUNK = 8  # images whose activations are held at a time


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """How strongly each pixel moves one patch of a grid, and how far that reaches.

    Squares are clipped where the image is narrower than they are.
    """

    gradient: Float[Tensor, "h w"]  # mean absolute value, on the host
    patch: tuple[int, int]  # row, column
    grid: tuple[int, int]

    def best_square(self, side: int) -> tuple[float, int, int]:
        """The share of the gradient in the square that holds the most of it, and its first row and column."""
        height, width = (min(side, n) for n in self.gradient.shape)
        sums, total = self._sums, self._sums[-1, -1]
        inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
        row, column = divmod(int(inside.argmax()), inside.shape[1])
        return (float(inside[row, column] / total) if total > 0 else 0.0), row, column

    @cached_property
    def shares(self) -> Float[Tensor, " s"]:
        """What the best square of each side holds: 1, 2, ... pixels, up to the longer side of the image."""
        sides = range(1, max(self.gradient.shape) + 1)
        return torch.tensor([self.best_square(side)[0] for side in sides], dtype=torch.float64)

    def side(self, share: float) -> int | None:
        """Pixels on a side of the smallest square that holds such a share; None if no pixel moves the patch."""
        enough = (self.shares >= share - 1e-9).nonzero()  # sums of all pixels are 1 up to rounding
        return int(enough[0]) + 1 if len(enough) else None

    @cached_property
    def _sums(self) -> Float[Tensor, "h+1 w+1"]:
        """Of the gradient above and left of each corner of a pixel."""
        return F.pad(self.gradient.cumsum(dim=0).cumsum(dim=1), (1, 0, 1, 0))


def effective_receptive_field(
    backbone: Backbone, pixels: Float[Tensor, "b 3 h w"], *, at: tuple[float, float] = (0.5, 0.5), seed: int = 0
) -> ReceptiveField:
    """The effective receptive field of a patch: the mean of |d (v . patch) / d pixel| over images and colours.

    Each image has a direction v of its own, of random signs and length 1. (The sum over channels, in their place, is
    constant behind a LayerNorm.) A module is put in evaluation mode and back again; no parameter gets a gradient.

    Args:
        pixels: normalised as the backbone wants them and on its device.
        at: which patch, from the top (0) to the bottom (1), and from the left to the right.
        seed: of the directions.

    Source: the effective receptive field of Luo et al. 2016 (arXiv:1701.04128); the directions, and absolute values, by
    which images do not cancel one another, are our choice.

    Example:
        >>> net = torch.nn.Conv2d(3, 5, kernel_size=3, padding=1)
        >>> field = effective_receptive_field(lambda x: (x, net(x).flatten(2).mT, (9, 9)), torch.randn(4, 3, 9, 9))
        >>> field.patch, field.side(1.0)
        ((4, 4), 3)
    """
    total = torch.zeros(pixels.shape[2:], dtype=torch.float64)
    with evaluating(backbone), precision.full(pixels.device), torch.enable_grad():
        for first in range(0, len(pixels), CHUNK):
            part = pixels[first : first + CHUNK].detach().clone().requires_grad_()
            _, patches, grid = backbone(part)
            place = tuple(min(int(share * n), n - 1) for share, n in zip(at, grid, strict=True))
            chosen = patches[:, place[0] * grid[1] + place[1]]
            index = torch.arange(first, first + len(part), device=pixels.device)
            signs = torch.where(draws.uniform(seed, 0, index, chosen.shape[1], "receptive field") < 0.5, -1.0, 1.0)
            (gradient,) = torch.autograd.grad((chosen * signs).sum(), part)
            total += gradient.double().abs().mean(dim=1).sum(dim=0).cpu() / chosen.shape[1] ** 0.5
    return ReceptiveField(total / len(pixels), (place[0], place[1]), grid)
