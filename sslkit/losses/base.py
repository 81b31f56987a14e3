"""What all losses share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit import distributed
from sslkit.component import Component
from sslkit.distributed import Scope
from sslkit.parameters import Within
from sslkit.schedules import Scheduled
from sslkit.types import Pairs, Rows

Temperature = Annotated[Scheduled, Within(above=0)]


class Loss(Component):
    """Knows its formula only: logits and pairs in, their weighted sum out."""

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        raise NotImplementedError


def refuse_unlike(prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"]) -> None:
    """Refuse rows that cannot be compared.

    Raises:
        ValueError: rows of the two have different lengths.
    """
    if prediction.shape[-1] != target.shape[-1]:
        raise ValueError(f"prediction has {prediction.shape[-1]} scores a row, but target has {target.shape[-1]}")


def counting(rows: Rows, index: Int[Tensor, " n"], weight: Float[Tensor, " n"]) -> Bool[Tensor, " r"]:
    """Which rows count: those in a pair of non-zero weight, so that it does not matter whether idle rows are kept."""
    n_pairs = weight.new_zeros(len(rows)).index_add(0, index, (weight != 0).to(weight.dtype))
    return (n_pairs > 0) & (rows.weight != 0)


@dataclass(frozen=True, eq=False)
class Crowd:
    """Rows of this rank, or of all in rank order, of which each may have its own number; and what is known of them."""

    rows: Float[Tensor, "m c"]  # with their gradient, whichever rank they are of
    view: Int[Tensor, " m"]
    ids: Int[Tensor, " m"]
    counts: Bool[Tensor, " m"]
    first: Int[Tensor, ""]  # where those of this rank begin

    @staticmethod
    def of(rows: Float[Tensor, "r c"], known: Rows, counts: Bool[Tensor, " r"], scope: Scope) -> Crowd:
        """Every rank has to go backwards through the rows of all, also one that has none."""
        here = distributed.rank()
        facts = torch.stack([known.view, known.ids, counts.long(), torch.full_like(known.ids, here)], dim=1)
        if scope == "all":
            rows, facts = distributed.gather_with_gradient(rows), distributed.gather(facts)
        view, ids, counts, rank = facts.unbind(dim=1)
        return Crowd(rows, view, ids, counts > 0, (rank < here).sum())

    def together(self) -> Bool[Tensor, "m m"]:
        """Which rows are of one view and both count."""
        return (self.view == self.view[:, None]) & self.counts & self.counts[:, None]
