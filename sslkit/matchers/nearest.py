"""The most similar entry, always trusted."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.matchers.chooser import Chooser, others
from sslkit.registry import register


@register("matchers")
class Nearest(Chooser):
    """The entry of largest cosine similarity in the query's own plane, with weight 1.

    As a partner it is the best candidate other than the image itself, whatever its score: the naive choice, which is
    there to compare with (experiments/adasim_collapse).

    Source: NNCLR (arXiv:2104.14548); as a partner, what AdaSim (arXiv:2303.13606) argues against.
    """

    def choose(
        self,
        index: Int[Tensor, "n k"],
        score: Float[Tensor, "n k"],
        own: Int[Tensor, " n"],
        chance: Float[Tensor, " n"],
    ) -> Int[Tensor, " n"]:
        best = others(index, score, own)[0][:, 0]
        return torch.where(best >= 0, best, own)
