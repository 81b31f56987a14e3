"""Distance between the directions of two rows."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sslkit import precision
from sslkit.losses.base import Loss, refuse_unlike
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs


@register("losses")
class Cosine(Loss):
    """Squared distance between normalised rows, from 0 to 4, in float32 under mixed precision.

        L = sum_n w_n (2 - 2 cos(p_i(n), t_j(n)))

    Source: BYOL (arXiv:2006.07733), equation 2. SimSiam's negative cosine (arXiv:2011.10566) is half of it, less 1.

    Example:
        >>> import torch
        >>> Cosine()(torch.eye(3), 2 * torch.eye(3), Pairs.diagonal(3))
        tensor(0.)
    """

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        refuse_unlike(prediction, target)
        with precision.full(prediction.device):
            cosine = F.cosine_similarity(wide(prediction[pairs.i]), wide(target[pairs.j]), dim=-1)
            return (pairs.weight * (2 - 2 * cosine)).sum()
