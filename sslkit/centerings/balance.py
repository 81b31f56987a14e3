"""Centering by Sinkhorn balancing."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from sslkit import distributed, ops, precision
from sslkit.centerings.base import Centering
from sslkit.parameters import Count, Within
from sslkit.registry import register
from sslkit.schedules import Scheduled


@register("centerings")
class Balance(Centering):
    """The offsets that make every prototype equally popular in this batch: no state, and no uniform collapse.

    Balancing multiplies prototype c of every row by one factor exp(v_c); softmax((t + T v) / T) is therefore the
    balanced assignment, so -T v is a centre. All ranks balance together.

    Args:
        temperature: divides logits; the same as the teacher temperature of the terms that use the head.
        n_rounds: Sinkhorn iterations.

    Source: SwAV (arXiv:2006.09882); used in place of the running mean by DINOv2 (arXiv:2304.07193). Deliberate
    difference: rows are brought to equal mass before the first round too, so that no row steers it by the size of its
    logits.
    """

    temperature: Float[Tensor, ""]
    scope = "all"

    def __init__(self, *, temperature: Annotated[Scheduled, Within(above=0)] = 0.04, n_rounds: Count = 3):
        super().__init__()
        self.n_rounds = n_rounds
        self.schedule("temperature", temperature)

    @torch.no_grad()
    def forward(self, logits: Float[Tensor, "n c"], weight: Float[Tensor, " n"]) -> Float[Tensor, " c"]:
        with precision.full(logits.device):
            scores = (logits if logits.dtype == torch.float64 else logits.float()) / self.temperature
            n_rows = distributed.total(weight.sum()).clamp(min=1e-12)
            columns = scores.new_full(scores.shape[1:], 1 / scores.shape[1])
            rows = (weight / n_rows).to(scores.dtype)
            _, _, column = ops.scalings(scores, rows, columns, self.n_rounds, total=distributed.total)
            v = column.log()
            return -self.temperature * (v - v.mean())
