"""Centering by a running mean."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sslkit import distributed
from sslkit.centerings.base import Centering
from sslkit.parameters import Share
from sslkit.registry import register


@register("centerings")
class Mean(Centering):
    """The running mean of the logits over all ranks: centre = momentum * centre + (1 - momentum) * mean.

    Source: DINO (arXiv:2104.14294). Deliberate difference: sums are float32 under mixed precision.
    """

    centre: Float[Tensor, " c"]

    def __init__(self, *, momentum: Share = 0.9):
        super().__init__()
        self.momentum = momentum

    def build(self, n_prototypes: int) -> None:
        self.register_buffer("centre", torch.zeros(n_prototypes))

    def forward(self, logits: Float[Tensor, "n c"], weight: Float[Tensor, " n"]) -> Float[Tensor, " c"]:
        return self.centre

    @torch.no_grad()
    def move(self, logits: Float[Tensor, "n c"], weight: Float[Tensor, " n"]) -> None:
        mass = distributed.total(weight.to(self.centre.dtype).sum())
        mean = distributed.total(weight.to(self.centre.dtype) @ logits.to(self.centre.dtype)) / mass.clamp(min=1e-12)
        moved = self.momentum * self.centre + (1 - self.momentum) * mean
        self.centre.copy_(torch.where(mass > 0, moved, self.centre))
