"""What all losses share."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit.component import Component
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


def together(rows: Rows, counts: Bool[Tensor, " r"]) -> Bool[Tensor, "r r"]:
    """Which rows are of one view and both count."""
    return (rows.view == rows.view[:, None]) & counts & counts[:, None]
