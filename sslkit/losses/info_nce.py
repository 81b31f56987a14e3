"""Telling a pair's own target from other images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sslkit import distributed, precision
from sslkit.distributed import Scope
from sslkit.losses.base import Loss, Temperature, counting, refuse_unlike
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs


@register("losses")
class InfoNCE(Loss):
    """Cross-entropy of picking a pair's own target among rows of other images, by cosine similarity.

        L = - sum_n w_n log  exp(cos(a_n, c_n) / T) / (exp(cos(a_n, c_n) / T) + sum_k exp(cos(a_n, c_k) / T))

    The anchor a_n is the pair's prediction and c_n its target, or the other way round; k runs over the negatives. These
    are rows that some pair of non-zero weight uses, of other images than c_n: rows of one image never repel each other.

    Args:
        temperature: divides cosine similarities; 0.05 to 0.5 is usual.
        negatives: `"view"`: the target rows of the view that the pair's own target is of; `"views"`: all target rows;
            `"predictions"`: the target is the anchor, and negatives are the prediction rows of its prediction's view.
        scope: negatives are of this `"rank"` or of `"all"`.

    Source: `"view"` is MoCo v3 (arXiv:2104.02057), `"views"` is NT-Xent of SimCLR (arXiv:2002.05709) where pairs run
    both ways, `"predictions"` is NNCLR (arXiv:2104.14548), equation 1. MoCo v3 multiplies by 2 T and adds its two
    directions up; with weights that sum to 1 that is `Term.weight = 4 T`.

    Example:
        >>> InfoNCE(temperature=1.0)(torch.eye(2), torch.eye(2), Pairs.diagonal(2))  # log(1 + 1 / e)
        tensor(0.3133)
    """

    temperature: Float[Tensor, ""]

    def __init__(
        self,
        *,
        temperature: Temperature = 0.2,
        negatives: Literal["view", "views", "predictions"] = "view",
        scope: Scope = "all",
    ):
        super().__init__()
        self.negatives, self.scope = negatives, scope
        self.schedule("temperature", temperature)

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        refuse_unlike(prediction, target)
        with precision.full(prediction.device):
            p, t = (F.normalize(wide(x), dim=-1) for x in (prediction, target))
            anchors, at, rows, of, own = p, pairs.i, t, pairs.target, pairs.j
            if self.negatives == "predictions":
                anchors, at, rows, of, own = t, pairs.j, p, pairs.prediction, pairs.i
            counts = counting(of, own, pairs.weight)
            known = torch.stack([of.view, of.ids, counts.long(), torch.full_like(of.ids, distributed.rank())], dim=1)
            view, ids, counts, rank = self._gather(known).unbind(dim=1)
            candidates = self._gather(rows)
            own = own + (rank < distributed.rank()).sum()
            competes = (counts > 0) & (ids != ids[own][:, None])
            if self.negatives != "views":
                competes &= view == view[own][:, None]
            competes.scatter_(1, own[:, None], True)
            anchors = anchors / self.temperature
            # pairs may share anchors, or leave many without a pair: the smaller product is made
            few = len(at) < len(anchors)
            scores = anchors[at] @ candidates.mT if few else (anchors @ candidates.mT)[at]
            log_p = scores.masked_fill(~competes, -torch.inf).log_softmax(dim=-1).gather(1, own[:, None])[:, 0]
            return -(pairs.weight * log_p).sum()

    def _gather(self, x: Tensor) -> Tensor:
        return distributed.gather_with_gradient(x) if self.scope == "all" else x
