"""Regions by place alone."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from sslkit import ops
from sslkit.clusterers.base import Clusterer
from sslkit.parameters import Count
from sslkit.registry import register


@register("clusterers")
class Grid(Clusterer):
    """Groups the tokens of one image by the cell of a regular grid, laid over all its views, in which they lie.

    Args:
        rows, columns: cells of the grid over the smallest box that holds the tokens of every view.
    """

    def __init__(self, rows: Count, columns: Count):
        super().__init__(rows * columns)
        self.rows, self.columns = rows, columns

    def assign(
        self, tokens: Float[Tensor, "b n d"], positions: Float[Tensor, "b n 2"], seeds: Int[Tensor, "b k"]
    ) -> Float[Tensor, "b n k"]:
        low, high = positions.amin(dim=1, keepdim=True), positions.amax(dim=1, keepdim=True)
        place = (positions - low) / (high - low).clamp(min=1e-6)
        column = (place[..., 0] * self.columns).long().clamp(max=self.columns - 1)
        row = (place[..., 1] * self.rows).long().clamp(max=self.rows - 1)
        return ops.one_hot(row * self.columns + column, self.n_clusters).to(tokens.dtype)
