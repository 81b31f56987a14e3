"""Predicting the balanced assignment of another view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sslkit import distributed, ops, precision
from sslkit.distributed import Scope
from sslkit.losses.base import Loss, Temperature, counting, refuse_unlike
from sslkit.parameters import Count
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs


@register("losses")
class SwappedAssignment(Loss):
    """Cross-entropy from the balanced codes of the targets to the predictions.

        L = - sum_n w_n  q_j(n) . log softmax(s_i(n) / T)

    The codes q of a view are `softmax(t_j / T_b + v)`, with one number v_c per prototype such that every prototype gets
    about the same mass of that view. They have no gradient. Use it without other centering (`centerings.Off`).

    Args:
        temperature: divides the student's logits.
        balance_temperature: divides the teacher's logits before they are balanced; SwAV's epsilon. Lower is harder.
        n_rounds: Sinkhorn iterations; each balances the prototypes, then the rows.
        scope: rows are balanced within this `"rank"` or over `"all"`.

    Source: SwAV (arXiv:2006.09882).

    Example:
        >>> SwappedAssignment()(torch.zeros(2, 4), torch.eye(4)[:2], Pairs.diagonal(2))  # log 4
        tensor(1.3863)
    """

    temperature: Float[Tensor, ""]
    balance_temperature: Float[Tensor, ""]
    scope: Scope

    def __init__(
        self,
        *,
        temperature: Temperature = 0.1,
        balance_temperature: Temperature = 0.05,
        n_rounds: Count = 3,
        scope: Scope = "all",
    ):
        super().__init__()
        self.n_rounds, self.scope = n_rounds, scope
        self.schedule("temperature", temperature)
        self.schedule("balance_temperature", balance_temperature)

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        refuse_unlike(prediction, target)
        with precision.full(prediction.device):
            q = self._codes(wide(target), pairs)[pairs.j]
            log_p = F.log_softmax(wide(prediction[pairs.i]) / self.temperature, dim=-1)
            return -(pairs.weight * torch.einsum("nc,nc->n", q, log_p)).sum()

    @torch.no_grad()
    def _codes(self, target: Float[Tensor, "t c"], pairs: Pairs) -> Float[Tensor, "t c"]:
        scores, view = target / self.balance_temperature, pairs.target.view
        counts = counting(pairs.target, pairs.j, pairs.weight)
        codes = torch.zeros_like(scores)
        for one in view[:1] if view.is_meta else self._gather(view).unique():  # all ranks take the same views in turn
            mine = counts & (view == one)
            codes = torch.where(mine[:, None], self._balanced(scores, mine), codes)
        return codes

    def _balanced(self, scores: Float[Tensor, "t c"], counts: Bool[Tensor, " t"]) -> Float[Tensor, "t c"]:
        """Codes after rounds that start with the prototypes and end with the rows; only rows that count are balanced.

        `ops.scalings` starts with the rows and ends with the prototypes, so the first half and the last are made here.
        """
        own = scores.masked_fill(~counts[:, None], -torch.inf).logsumexp(dim=0)
        scores = scores - self._gather(own[None]).logsumexp(dim=0)
        rows = counts.to(scores.dtype)
        rows = rows / self._total(rows.sum()).clamp(min=1)
        columns = scores.new_full(scores.shape[1:], 1 / scores.shape[1])
        _, _, column = ops.scalings(scores, rows, columns, self.n_rounds - 1, total=self._total)
        return F.softmax(scores + column.log(), dim=-1)

    def _total(self, x: Tensor) -> Tensor:
        return distributed.total(x) if self.scope == "all" else x

    def _gather(self, x: Tensor) -> Tensor:
        return distributed.gather(x) if self.scope == "all" else x
