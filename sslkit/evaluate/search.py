"""Exact search among rows of a frozen backbone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest(
    queries: Float[Tensor, "q d"], memory: Float[Tensor, "m d"], k: int, *, chunk: int = 16384
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The `k` largest cosine similarities of each query, falling, and the rows of the memory that have them.

    Both arguments are normalised already; `chunk` rows of the memory are compared at a time.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarity, index = queries.new_empty(len(queries), 0), queries.new_empty(len(queries), 0, dtype=torch.long)
        for start in range(0, len(memory), chunk):
            part = queries @ memory[start : start + chunk].mT
            best, here = part.topk(min(k, part.shape[1]), dim=1)
            similarity, index = torch.cat([similarity, best], dim=1), torch.cat([index, here + start], dim=1)
            similarity, order = similarity.topk(min(k, similarity.shape[1]), dim=1)
            index = index.gather(1, order)
    return similarity, index
