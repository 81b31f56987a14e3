"""Telling a pair's own target from other images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslkit import precision
from sslkit.distributed import Scope
from sslkit.losses.base import Crowd, Loss, Temperature, counting, refuse_unlike
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs

AT_ONCE = 2**21  # similarities that are looked at together


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

    Similarities of some pairs with all candidates are held at a time, so that memory does not grow with pairs times
    candidates, of which there are many where each patch of an image is a pair.

    Source: `"view"` is MoCo v3 (arXiv:2104.02057), `"views"` is NT-Xent of SimCLR (arXiv:2002.05709) where pairs run
    both ways, `"predictions"` is NNCLR (arXiv:2104.14548), equation 1. MoCo v3 multiplies by 2 T and adds its two
    directions up; with weights that sum to 1 that is `Term.weight = 4 T`.

    Example:
        >>> InfoNCE(temperature=1.0)(torch.eye(2), torch.eye(2), Pairs.diagonal(2))  # log(1 + 1 / e)
        tensor(0.3133)
    """

    temperature: Float[Tensor, ""]
    scope: Scope

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
            candidates = Crowd.of(rows, of, counting(of, own, pairs.weight), self.scope)
            own = own + candidates.first
            among = Among(candidates.view, candidates.ids, candidates.counts, is_of_view=self.negatives != "views")
            loss: Tensor = _Picking.apply(anchors / self.temperature, candidates.rows, at, own, pairs.weight, among)
            return loss


@dataclass(frozen=True, eq=False)
class Among:
    """What decides which candidates compete: the view and the image of each, and whether it counts at all."""

    view: Int[Tensor, " c"]
    ids: Int[Tensor, " c"]
    counts: Bool[Tensor, " c"]
    is_of_view: bool  # candidates of other views than the own target's do not compete

    def compete(self, own: Int[Tensor, " n"]) -> Bool[Tensor, "n c"]:
        """Those of other images than each pair's own target, and this one."""
        competes = self.counts & (self.ids != self.ids[own][:, None])
        if self.is_of_view:
            competes &= self.view == self.view[own][:, None]
        return competes.scatter_(1, own[:, None], True)


class _Picking(torch.autograd.Function):
    """The weighted sum over pairs, some of them at a time; backwards they are looked at again.

    With s_n = anchors_at(n) . candidates^T and p_n = softmax of what competes,

        L = - sum_n w_n log p_n[own(n)],    dL / ds_n = w_n (p_n - onehot(own(n)))
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, at: Tensor, own: Tensor, weight: Tensor, among: Among
    ) -> Tensor:
        ctx.save_for_backward(anchors, candidates, at, own, weight)
        ctx.among = among
        losses = []
        for at_, own_, w in _parts(at, own, weight, anchors, candidates):
            log_p = _scores(anchors, candidates, at_, among.compete(own_)).log_softmax(dim=-1)
            losses.append(-(w * log_p.gather(1, own_[:, None])[:, 0]).sum())
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        anchors, candidates, at, own, weight = ctx.saved_tensors
        for_anchors, for_candidates = torch.zeros_like(anchors), torch.zeros_like(candidates)
        with precision.full(anchors.device):
            for at_, own_, w in _parts(at, own, weight, anchors, candidates):
                p = _scores(anchors, candidates, at_, ctx.among.compete(own_)).softmax(dim=-1)
                p.scatter_add_(1, own_[:, None], -torch.ones_like(p[:, :1])).mul_((slope * w)[:, None])
                if len(at_) < len(anchors):
                    for_anchors.index_add_(0, at_, p @ candidates)
                    for_candidates += p.mT @ anchors[at_]
                else:
                    p = p.new_zeros(len(anchors), len(candidates)).index_add_(0, at_, p)
                    for_anchors += p @ candidates
                    for_candidates += p.mT @ anchors
        return for_anchors, for_candidates, None, None, None, None


def _scores(anchors: Tensor, candidates: Tensor, at: Tensor, competes: Tensor) -> Float[Tensor, "n c"]:
    """Of pairs that may share anchors, or leave many without a pair: the smaller product is made."""
    few = len(at) < len(anchors)
    scores = anchors[at] @ candidates.mT if few else (anchors @ candidates.mT)[at]
    return scores.masked_fill_(~competes, -torch.inf)


def _parts(
    at: Tensor, own: Tensor, weight: Tensor, anchors: Tensor, candidates: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    n = max(1, AT_ONCE // max(1, len(candidates), anchors.shape[1]))
    return zip(at.split(n), own.split(n), weight.split(n), strict=True)
