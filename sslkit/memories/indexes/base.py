"""What a memory of one row per image may ask of the way it is searched."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit.component import Component
from sslkit.memories.base import Found


class Index(Component):
    """Finds the rows of a table that are most similar to a query.

    The table is the memory's, with l2-normalised float32 rows, of which only the visited ones are found. What an index
    holds besides must follow from the table and the index's own saved state: it is made anew after a restart.
    """

    def build(self, dim: int) -> None:
        """Make room for what belongs to the saved state; called once, before the first search."""

    def search(
        self, queries: Float[Tensor, "q d"], k: int, *, rows: Float[Tensor, "n d"], visited: Bool[Tensor, " n"]
    ) -> Found:
        """The `k` visited rows of largest inner product with each query; queries and answers are where the rows are."""
        raise NotImplementedError

    def write(self, images: Int[Tensor, " m"], rows: Float[Tensor, "m d"]) -> None:
        """Take note of rows that have just been written to the table; no image stands twice."""

    def fit(self, rows: Float[Tensor, "n d"], visited: Bool[Tensor, " n"]) -> None:
        """Adapt to the table at the end of an epoch."""

    def forget(self) -> None:
        """Drop what was made of the table, which has become another one."""
