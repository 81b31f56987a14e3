"""The most similar entry, when each is the most similar to the other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.distributed import Scope
from sslkit.matchers.base import Memory
from sslkit.matchers.chooser import Chooser, others
from sslkit.registry import register
from sslkit.types import Queries


@register("matchers")
class Mutual(Chooser):
    """The nearest entry in the query's own plane, kept when that query is the nearest to the entry in turn.

    In a step the entry chooses among the queries of the same plane; the test is the stricter the more there are. A
    partner is the best candidate other than the image itself, if the image is the best candidate of its partner too.

    Args:
        scope: the queries of a step are those of this `"rank"` or of `"all"`; partners are chosen among all images.

    Example:
        >>> index, score = torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.tensor([[0.9, 0.8], [0.9, 0.3], [0.8, 0.3]])
        >>> Mutual().choose(index, score, own=torch.arange(3), chance=torch.zeros(3))
        tensor([1, 0, 2])
    """

    def __init__(self, *, scope: Scope = "all"):
        super().__init__()
        self.scope = scope

    def choose(
        self,
        index: Int[Tensor, "n k"],
        score: Float[Tensor, "n k"],
        own: Int[Tensor, " n"],
        chance: Float[Tensor, " n"],
    ) -> Int[Tensor, " n"]:
        if not torch.equal(own, torch.arange(len(own), device=own.device)):
            raise ValueError(
                "own is not 0, 1, 2, ...: Mutual asks the candidates for theirs, so it needs all images in order"
            )
        best = others(index, score, own)[0][:, 0]
        is_mutual = (best >= 0) & (best[best.clamp(min=0)] == own)
        return torch.where(is_mutual, best, own)

    def match(self, queries: Queries, memory: Memory) -> tuple[Int[Tensor, "p q"], Float[Tensor, "p q"]]:
        company = self.company(queries)
        index, weight = [], []
        for plane, rows in enumerate(queries.rows):
            found = memory.search(rows, plane=plane).index
            index.append(found[:, 0])
            weight.append(company.lead_back(found, memory, plane=plane)[:, 0].float())
        return torch.stack(index), torch.stack(weight)
