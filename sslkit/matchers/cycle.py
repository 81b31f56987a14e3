"""The most similar entry, trusted when it leads back."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.distributed import Scope
from sslkit.matchers.base import Matcher, Memory
from sslkit.registry import register
from sslkit.types import Queries


@register("matchers")
class Cycle(Matcher):
    """The nearest entry in the query's plane, kept when the entry's other plane leads back to the query.

    Direction p: query j of plane p finds entry i; the row of i in plane 1 - p finds its nearest among the queries in
    plane 1 - p; the match is kept if that is j again. The test is the stricter the more queries there are.

    Args:
        scope: these are the queries of this `"rank"`, as in the authors' program, or of `"all"` ranks.

    Source: CrIBo (arXiv:2310.07855). Deliberate difference: similarities are float32 under mixed precision too.
    """

    def __init__(self, *, scope: Scope = "all"):
        super().__init__()
        self.scope = scope

    def match(self, queries: Queries, memory: Memory) -> tuple[Int[Tensor, "p q"], Float[Tensor, "p q"]]:
        company = self.company(queries)
        index, weight = [], []
        for here, rows in enumerate(queries.rows):
            found = memory.search(rows, plane=here).index
            index.append(found[:, 0])
            back = company.lead_back(found, memory, plane=self.other_plane(queries, here))
            weight.append(back[:, 0].float())
        return torch.stack(index), torch.stack(weight)
