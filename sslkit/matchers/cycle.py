"""The most similar entry, trusted when it leads back."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit import ops
from sslkit.matchers.base import Matcher, Memory
from sslkit.registry import register
from sslkit.types import Queries


@register("matchers")
class Cycle(Matcher):
    """The nearest entry in the query's plane, kept when the entry's other plane leads back to the query.

    Direction p: query j of plane p finds entry i; the row of i in plane 1 - p finds its nearest among this rank's
    queries in plane 1 - p; the match is kept if that is j again. The test is the stricter the more queries a rank has.

    Source: CrIBo (arXiv:2310.07855). Deliberate difference: similarities are float32 under mixed precision too.
    """

    def match(self, queries: Queries, memory: Memory) -> tuple[Int[Tensor, "p q"], Float[Tensor, "p q"]]:
        planes = queries.rows.shape[0]
        if planes != 2:
            raise ValueError(f"a cycle runs over two planes, but the queries have {planes} (two global views give two)")
        index, weight = [], []
        for here, there in ((0, 1), (1, 0)):
            found = memory.search(queries.rows[here], plane=here).index[:, 0]
            back = ops.nearest(memory.rows(found, plane=there), queries.rows[there], queries.weight)
            index.append(found)
            weight.append((back == torch.arange(len(back), device=back.device)).float())
        return torch.stack(index), torch.stack(weight)
