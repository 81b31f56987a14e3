"""How close rows lie to one another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sslkit import precision
from sslkit.distributed import Scope
from sslkit.losses.base import Crowd, Loss, counting
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs

TINY = 1e-8  # keeps the logarithm of no distance finite


@register("losses")
class KoLeo(Loss):
    """Minus the mean log distance from each normalised prediction row to the nearest other one of its view.

        L = - mean_i log min_k |p_i / |p_i| - p_k / |p_k||

    Rows count alike if a pair of non-zero weight uses them and their view has another; targets and the size of the
    weights are not looked at.

    Args:
        scope: the rows are those of this `"rank"` or of `"all"`.

    Source: the differential entropy estimator of Kozachenko and Leonenko (arXiv:1806.03198), as used by DINOv2
    (arXiv:2304.07193), which adds up its two global views: 0.1 there is `Term.weight = 0.2`.

    Example:
        >>> KoLeo()(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2, 2), Pairs.diagonal(2))  # - log 2
        tensor(-0.6931)
    """

    scope: Scope

    def __init__(self, *, scope: Scope = "all"):
        super().__init__()
        self.scope = scope

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        with precision.full(prediction.device):
            p = F.normalize(wide(prediction), dim=-1, eps=TINY)
            counts = counting(pairs.prediction, pairs.i, pairs.weight)
            crowd = Crowd.of(p, pairs.prediction, counts, self.scope)
            if len(p := crowd.rows) == 0:
                return p.sum()
            others = crowd.together().fill_diagonal_(False)
            with torch.no_grad():
                nearest = (p @ p.mT).masked_fill(~others, -torch.inf).argmax(dim=1)
            has_others = others.any(dim=1)
            log_distance = (F.pairwise_distance(p, p[nearest], eps=TINY) + TINY).log()
            return -(has_others * log_distance).sum() / has_others.sum().clamp(min=1)
