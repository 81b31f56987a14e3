"""Images with a part of their inside hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sslkit.backbones.weights import IMAGENET
from sslkit.evaluate.perturbations.base import Classify, Perturbation, Shown
from sslkit.parameters import Share
from sslkit.registry import joint


@joint
class InternalMasking(Perturbation):
    """A grey square hides a part of every image: ImageNet's mean colour, which is 0 to the backbone.

    Args:
        sizes: sides of the square, each as a share of the shorter side of the image, rounded to whole pixels.
        positions: "centre" is the middle, half a pixel rounded up and to the left; "random" is any place at which the
            whole square lies in the image, all equally likely. Squares of all sizes have the same relative place.

    Source: CO-SSL (arXiv:2501.02860) reports accuracy under internal masking; colour, shape, sizes and places are
    unknown, and these are ours.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Share] = (0.125, 0.25, 0.375, 0.5, 0.625),
        positions: Sequence[Literal["centre", "random"]] = ("centre", "random"),
    ):
        self.kinds, self.strengths = positions, sizes

    def __call__(self, shown: Shown, kind: str, strength: float, classify: Classify) -> Float[Tensor, "b 3 h w"]:
        height, width = shown.levels.shape[-2:]
        side = round(strength * min(height, width))
        place = shown.uniform(2, "internal masking")
        hidden = []
        for axis, length in enumerate((height, width)):
            room = length - side
            start = (
                (place[:, axis] * (room + 1)).long() if kind == "random" else torch.full_like(shown.index, room // 2)
            )
            pixel = torch.arange(length, device=start.device)
            hidden.append((pixel >= start[:, None]) & (pixel < start[:, None] + side))
        inside = hidden[0][:, None, :, None] & hidden[1][:, None, None, :]
        grey = torch.tensor(IMAGENET["mean"], device=shown.levels.device)[:, None, None]
        return torch.where(inside, grey, shown.levels)
