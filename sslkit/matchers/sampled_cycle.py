"""One of the similar entries that lead back."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit import ops
from sslkit.distributed import Scope
from sslkit.matchers.base import Matcher, Memory
from sslkit.parameters import Count, Positive
from sslkit.registry import register
from sslkit.types import Queries


@register("matchers")
class SampledCycle(Matcher):
    """A draw from those of the nearest entries in the query's plane whose other plane leads back to the query.

        p(e | q) = softmax_e( similarity_qe / temperature )    over the e that lead back, of the n_candidates nearest

    The match has weight 1; a query none of whose entries leads back matches the nearest with weight 0. Each entry is
    tested as by `Cycle`, which this is with `n_candidates=1`.

    Args:
        n_candidates: entries tested for each query, so as many reverse searches.
        temperature: divides cosine similarities; towards 0 the most similar of the consistent entries is drawn.
        scope: an entry leads back among the queries of this `"rank"` or of `"all"`.

    Source: joins the cycle of CrIBo (arXiv:2310.07855) with the draw of AdaSim (arXiv:2303.13606).
    """

    def __init__(self, *, n_candidates: Count = 5, temperature: Positive = 0.1, scope: Scope = "all"):
        super().__init__()
        self.n_candidates, self.temperature, self.scope = n_candidates, temperature, scope

    def match(self, queries: Queries, memory: Memory) -> tuple[Int[Tensor, "p q"], Float[Tensor, "p q"]]:
        company = self.company(queries)
        index, weight = [], []
        for here, rows in enumerate(queries.rows):
            found = memory.search(rows, plane=here, k=self.n_candidates)
            back = company.lead_back(found.index, memory, plane=self.other_plane(queries, here))
            score = found.similarity.masked_fill(~back, -torch.inf)
            drawn = ops.draw(score, self.temperature, queries.chance[here])
            index.append(found.index.gather(1, drawn[:, None])[:, 0])
            weight.append(back.any(dim=1).float())
        return torch.stack(index), torch.stack(weight)
