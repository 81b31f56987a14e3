"""Whether scores repeat one another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sslkit import precision
from sslkit.distributed import Scope
from sslkit.losses.base import Loss
from sslkit.losses.spread import Spread
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Pairs


@register("losses")
class Covariance(Loss):
    """Squared covariances of a score with all others over the prediction rows of a view, on average over scores.

        L = mean over views of  1 / C  sum_{c != d} cov_cd^2

    Rows count alike if a pair of non-zero weight uses them; targets and the size of weights are not looked at. Views
    with a single such row are passed over.

    Args:
        scope: the rows are those of this `"rank"` or of `"all"`.

    Source: VICReg (arXiv:2105.04906), equation 4. Its code adds up two views: nu = 1 there is `Term.weight = 2`.

    Example:
        >>> import torch
        >>> Covariance()(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.zeros(2, 2), Pairs.diagonal(2))
        tensor(4.)
    """

    scope: Scope

    def __init__(self, *, scope: Scope = "all"):
        super().__init__()
        self.scope = scope

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        with precision.full(prediction.device):
            spread = Spread.of(wide(prediction), pairs, self.scope)
            # |X'X| = |XX'|: products of rows, which are fewer than scores in methods that need this loss
            gram = spread.deviation @ spread.deviation.mT * spread.alike / (spread.n - 1).clamp(min=1)[:, None]
            every = spread.n * gram.square().sum(dim=1)
            own = spread.variance.square().sum(dim=1)
            return (spread.share * (every - own)).sum() / prediction.shape[1]
