"""What all matchers share: how an answer of a memory becomes matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit import distributed, ops, precision
from sslkit.component import Component
from sslkit.distributed import Scope
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

    A subclass writes `match`, which is not asked while the memory is empty, nor without queries; where a match depends
    on the queries of all ranks (`scope`), each of them is asked, as others wait for it.
    """

    @torch.no_grad()
    def forward(self, queries: Queries, memory: Memory) -> Matches:
        planes, n, _ = queries.rows.shape
        if len(memory) == 0 or (n == 0 and self.scope != "all"):
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

    def company(self, queries: Queries) -> Company:
        """The queries among which a match has to lead back to its own, by `scope`; in eval mode this rank is alone."""
        return Company.of(queries, self.scope if self.training and self.scope is not None else "rank")

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


@dataclass(frozen=True, eq=False)
class Company:
    """Queries of this rank, or of all in rank order, of which each may have its own number."""

    rows: Float[Tensor, "p m d"]
    counts: Bool[Tensor, " m"]  # False for rows that only keep a shape static
    first: Int[Tensor, ""]  # where those of this rank begin

    @staticmethod
    def of(queries: Queries, scope: Scope) -> Company:
        rows, here = queries.rows, distributed.rank()
        known = torch.stack([(queries.weight != 0).long(), torch.full_like(queries.item, here)], dim=1)
        if scope == "all":
            rows, known = distributed.gather(rows.transpose(0, 1)).transpose(0, 1), distributed.gather(known)
        counts, rank = known.unbind(dim=1)
        return Company(rows, counts > 0, (rank < here).sum())

    def lead_back(self, index: Int[Tensor, "q k"], memory: Memory, *, plane: int) -> Bool[Tensor, "q k"]:
        """Which entries that each of this rank's queries found have, by their rows in that plane, no query nearer.

        Index -1 is no entry, and leads nowhere.
        """
        if len(index) == 0:
            return index >= 0
        back = ops.nearest(memory.rows(index, plane=plane).flatten(0, 1), self.rows[plane], self.counts)
        own = self.first + torch.arange(len(index), device=index.device)
        return (back.view(index.shape) == own[:, None]) & (index >= 0)
