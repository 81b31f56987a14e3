"""Any of the most similar entries, always trusted."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.matchers.chooser import Chooser, others
from sslkit.parameters import Count
from sslkit.registry import register


@register("matchers")
class Uniform(Chooser):
    """One of the `n_candidates` nearest entries in the query's own plane, each equally likely, with weight 1.

    As a partner it is one of the best `n_candidates` other than the image itself.

    Args:
        n_candidates: entries to draw from, fewer where there are not as many; 1 is `Nearest`.

    Example:
        >>> index, score = torch.tensor([[0, 7, 4, 5]]), torch.tensor([[0.9, 0.8, 0.7, 0.6]])
        >>> Uniform(n_candidates=2).choose(index, score, own=torch.tensor([0]), chance=torch.tensor([0.5]))
        tensor([4])
    """

    def __init__(self, *, n_candidates: Count = 5):
        super().__init__()
        self.n_candidates = n_candidates

    def choose(
        self,
        index: Int[Tensor, "n k"],
        score: Float[Tensor, "n k"],
        own: Int[Tensor, " n"],
        chance: Float[Tensor, " n"],
    ) -> Int[Tensor, " n"]:
        offered = others(index, score, own)[0][:, : self.n_candidates]
        count = (offered >= 0).sum(dim=1)
        drawn = offered.gather(1, (chance * count).long()[:, None])[:, 0]
        return torch.where(count > 0, drawn, own)
