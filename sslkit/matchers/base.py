"""What all matchers share: how an answer of a memory becomes matches."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit import ops, precision
from sslkit.component import Component
from sslkit.types import Matches, Queries


class Found(Protocol):
    """What a memory answers: entries and their similarity to the query, best first."""

    @property
    def index(self) -> Int[Tensor, "q k"]: ...
    @property
    def similarity(self) -> Float[Tensor, "q k"]: ...


class Memory(Protocol):
    """What a matcher asks of a memory."""

    def __len__(self) -> int: ...
    def search(self, queries: Tensor, *, plane: int, k: int = 1) -> Found: ...
    def rows(self, index: Tensor, *, plane: int) -> Tensor: ...
    def ids(self, index: Tensor) -> Tensor: ...
    def place(self, index: Tensor, *, plane: int) -> Tensor: ...


class Matcher(Component):
    """Queries to entries of a memory, each with how far to trust it. Nothing is written.

    A subclass writes `match`, which is not asked while the memory is empty.
    """

    @torch.no_grad()
    def forward(self, queries: Queries, memory: Memory) -> Matches:
        planes, n, _ = queries.rows.shape
        if len(memory) == 0 or n == 0:
            nowhere = torch.full((planes, n), -1, device=queries.rows.device)
            weight = queries.rows.new_zeros(planes, n)
            return Matches(
                nowhere, weight, torch.zeros_like(queries.rows), nowhere, queries.place.new_zeros(planes, n, 2)
            )
        with precision.full(queries.rows.device):
            index, weight = self.match(queries, memory)
        return Matches(
            index=index,
            weight=weight * queries.weight,
            rows=torch.stack([memory.rows(index[p], plane=p) for p in range(planes)]),
            ids=memory.ids(index),
            place=torch.stack([memory.place(index[p], plane=p) for p in range(planes)]),
        )

    def match(self, queries: Queries, memory: Memory) -> tuple[Int[Tensor, "p q"], Float[Tensor, "p q"]]:
        """Entry and weight for each plane and query."""
        raise NotImplementedError

    def other_plane(self, queries: Queries, plane: int) -> int:
        """The plane that is not this one.

        Raises:
            ValueError: there are not two.
        """
        if len(queries.rows) != 2:
            raise ValueError(
                f"{type(self).__name__} goes between two planes, but the queries have {len(queries.rows)} (two global "
                f"views give two)"
            )
        return 1 - plane


def lead_back(index: Int[Tensor, "q k"], queries: Queries, memory: Memory, *, plane: int) -> Bool[Tensor, "q k"]:
    """Which entries found by each query have, by their rows in that plane, none of this rank's queries nearer than it.

    Index -1 is no entry, and leads nowhere.
    """
    back = ops.nearest(memory.rows(index, plane=plane).flatten(0, 1), queries.rows[plane], queries.weight)
    return (back.view(index.shape) == torch.arange(len(index), device=index.device)[:, None]) & (index >= 0)
