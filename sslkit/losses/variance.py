"""Whether rows differ in every score."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sslkit import precision
from sslkit.distributed import Scope
from sslkit.losses.base import Loss
from sslkit.losses.spread import Spread
from sslkit.parameters import Positive
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs


@register("losses")
class Variance(Loss):
    """What the standard deviation of a score over the prediction rows of a view lacks of `least`, on average.

        L = mean over views and scores c of  max(0, least - sqrt(var_c + 0.0001))

    Rows count alike if a pair of non-zero weight uses them; targets and the size of weights are not looked at. Views
    with a single such row are passed over.

    Args:
        least: the standard deviation from which on nothing is asked.
        scope: the rows are those of this `"rank"` or of `"all"`.

    Source: VICReg (arXiv:2105.04906), equation 1; its code takes the mean of its two views too.

    Example:
        >>> import torch
        >>> Variance()(torch.zeros(2, 4), torch.zeros(2, 4), Pairs.diagonal(2))  # 1 - sqrt(0.0001)
        tensor(0.9900)
    """

    scope: Scope

    def __init__(self, *, least: Positive = 1.0, scope: Scope = "all"):
        super().__init__()
        self.least, self.scope = least, scope

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        with precision.full(prediction.device):
            spread = Spread.of(wide(prediction), pairs, self.scope)
            lacking = F.relu(self.least - (spread.variance + 1e-4).sqrt()).mean(dim=1)
            return (spread.share * lacking).sum()
