"""The most similar entry, always trusted."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.matchers.base import Matcher, Memory
from sslkit.registry import register
from sslkit.types import Queries


@register("matchers")
class Nearest(Matcher):
    """The entry of largest cosine similarity in the query's own plane, with weight 1.

    Source: NNCLR (arXiv:2104.14548).
    """

    def match(self, queries: Queries, memory: Memory) -> tuple[Int[Tensor, "p q"], Float[Tensor, "p q"]]:
        index = torch.stack([memory.search(rows, plane=p).index[:, 0] for p, rows in enumerate(queries.rows)])
        return index, torch.ones(index.shape, device=index.device)
