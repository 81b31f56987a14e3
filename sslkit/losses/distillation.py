"""Cross-entropy between a teacher's and a student's scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sslkit import precision
from sslkit.losses.base import Loss, Temperature, refuse_unlike, wide
from sslkit.registry import register
from sslkit.types import Pairs


@register("losses")
class Distillation(Loss):
    """Cross-entropy from the sharpened teacher to the student, teacher logits already centred by their head.

        L = - sum_n w_n  softmax(t_j(n) / T_t) . log softmax(s_i(n) / T_s)

    Log-probabilities are float32 under mixed precision.

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
            # rows are picked first: logits are the largest tensors of a step, and few of them may be paired
            q = F.softmax(wide(target[pairs.j]) / self.teacher_temperature, dim=-1)
            log_p = F.log_softmax(wide(prediction[pairs.i]) / self.student_temperature, dim=-1)
            return -(pairs.weight * torch.einsum("nc,nc->n", q, log_p)).sum()
