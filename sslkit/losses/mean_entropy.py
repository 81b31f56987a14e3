"""How unevenly a batch uses the prototypes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sslkit import distributed, precision
from sslkit.losses.base import Loss, Temperature
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs


@register("losses")
class MeanEntropy(Loss):
    """What the entropy of the mean prediction lacks of the largest possible: 0 where all prototypes are used alike.

        L = log K - H(m),   m = sum_n w_n softmax(s_i(n) / T) / sum_n w_n

    K is the number of prototypes, and m the mean over all ranks. Targets are not looked at, and multiplying all weights
    changes nothing.

    Args:
        temperature: divides the student's logits; the same as that of the loss beside it.

    Source: mean entropy maximisation, PAWS (arXiv:2104.13963). MSN (arXiv:2204.07141) is `Distillation` without
    centering plus this; log K, which moves nothing, is there so that it ends at 0.

    Example:
        >>> MeanEntropy()(100 * torch.eye(2), torch.zeros(2, 2), Pairs.diagonal(2))
        tensor(0.)
    """

    temperature: Float[Tensor, ""]
    scope = "all"

    def __init__(self, *, temperature: Temperature = 0.1):
        super().__init__()
        self.schedule("temperature", temperature)

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        with precision.full(prediction.device):
            p = F.softmax(wide(prediction) / self.temperature, dim=-1)
            weight = p.new_zeros(len(p)).index_add(0, pairs.i, pairs.weight.to(p.dtype))
            mass = distributed.total(weight.sum())
            summed = distributed.gather_with_gradient((weight @ p)[None]).sum(dim=0)
            mean = summed / torch.where(mass > 0, mass, 1.0)
            log_mean = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()  # of 0 it would have no finite gradient
            return torch.where(mass > 0, (mean * log_mean).sum() + math.log(p.shape[1]), 0.0)
