"""Cross-entropy between a teacher's and a student's scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslkit import precision
from sslkit.losses.base import Loss, Temperature, refuse_unlike
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs

AT_ONCE = 2**21  # scores of pairs that are looked at together


@register("losses")
class Distillation(Loss):
    """Cross-entropy from the sharpened teacher to the student, teacher logits already centred by their head.

        L = - sum_n w_n  softmax(t_j(n) / T_t) . log softmax(s_i(n) / T_s)

    Log-probabilities are float32 under mixed precision. The target has no gradient. Beyond the logits, memory holds a
    distribution for each target row and none for each pair, of which there may be many more: all patches of an image
    against one row.

    Source: DINO (arXiv:2104.14294). Deliberate difference: the centre moves after the optimiser step, outside the loss.

    Example:
        >>> Distillation()(torch.zeros(2, 4), torch.zeros(2, 4), Pairs.diagonal(2)).shape
        torch.Size([])
    """

    student_temperature: Float[Tensor, ""]
    teacher_temperature: Float[Tensor, ""]

    def __init__(self, *, student_temperature: Temperature = 0.1, teacher_temperature: Temperature = 0.04):
        super().__init__()
        self.schedule("student_temperature", student_temperature)
        self.schedule("teacher_temperature", teacher_temperature)

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        refuse_unlike(prediction, target)
        with precision.full(prediction.device):
            q = F.softmax(wide(target.detach()) / self.teacher_temperature, dim=-1)
            loss: Tensor = _CrossEntropy.apply(prediction, q, pairs, self.student_temperature)
            return loss


class _CrossEntropy(torch.autograd.Function):
    """The weighted sum over pairs, some of them at a time; backwards they are looked at again.

    dL / ds_i(n) = w_n (softmax(s_i(n) / T) - q_j(n)) / T
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, q: Tensor, pairs: Pairs, temperature: Tensor) -> Tensor:
        ctx.save_for_backward(prediction, q, temperature)
        ctx.pairs = pairs
        losses = []
        for i, j, weight in _parts(pairs, q.shape[1]):
            log_p = F.log_softmax(wide(prediction[i]) / temperature, dim=-1)
            losses.append(-(weight * torch.einsum("nc,nc->n", q[j], log_p)).sum())
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        prediction, q, temperature = ctx.saved_tensors
        gradient = torch.zeros_like(prediction)
        with precision.full(prediction.device):
            for i, j, weight in _parts(ctx.pairs, q.shape[1]):
                p = F.softmax(wide(prediction[i]) / temperature, dim=-1)
                p.sub_(q[j]).mul_((slope * weight / temperature)[:, None])
                gradient.index_put_((i,), p.to(gradient.dtype), accumulate=True)
        return gradient, None, None, None


def _parts(pairs: Pairs, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    n = max(1, AT_ONCE // width)
    return zip(pairs.i.split(n), pairs.j.split(n), pairs.weight.split(n), strict=True)
