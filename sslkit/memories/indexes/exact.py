"""Every row compared."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit.memories.base import Found
from sslkit.memories.indexes.base import Index
from sslkit.registry import joint


@joint
class Exact(Index):
    """Every visited row, compared where the table is; holds nothing of its own.

    The similarities of a block of rows stay in the cache of a CPU, so one pass costs little more than the product
    itself. On an accelerator this is the fast form: the other indexes search on the host.
    """

    def search(
        self, queries: Float[Tensor, "q d"], k: int, *, rows: Float[Tensor, "n d"], visited: Bool[Tensor, " n"]
    ) -> Found:
        length = 8192 if rows.device.type == "cpu" else 65536
        index = torch.full((len(queries), k), -1, device=queries.device)
        similarity = queries.new_full((len(queries), k), -torch.inf)
        for start in range(0, len(rows), length):
            block = slice(start, start + length)
            scores = (queries @ rows[block].mT).masked_fill_(~visited[block], -torch.inf)
            best, where = scores.topk(min(k, scores.shape[1]), dim=1)
            index, similarity = _best(k, (index, similarity), (where + start, best))
        return Found(index.where(similarity > -torch.inf, -1), similarity)


def _best(
    k: int, *found: tuple[Int[Tensor, "q _"], Float[Tensor, "q _"]]
) -> tuple[Int[Tensor, "q k"], Float[Tensor, "q k"]]:
    """The `k` most similar of several answers."""
    index, similarity = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    similarity, order = similarity.topk(k, dim=1)
    return index.gather(1, order), similarity
