"""How the prediction rows of each view lie about their mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sslkit.distributed import Scope
from sslkit.losses.base import Crowd, counting
from sslkit.types import Pairs


@dataclass(frozen=True, eq=False)
class Spread:
    """Deviations of rows from the mean of their view, over the rows that count.

    Whatever is said of a view stands at each of its rows, and `share` makes the mean over views out of it: how many
    views there are need not be known.
    """

    deviation: Float[Tensor, "p c"]
    alike: Float[Tensor, "p p"]  # 1 for rows of one view that both count
    n: Float[Tensor, " p"]  # rows of the view
    share: Float[Tensor, " p"]  # adds up to 1; 0 in views of a single row

    @staticmethod
    def of(rows: Float[Tensor, "r c"], pairs: Pairs, scope: Scope) -> Spread:
        """Of this rank's rows, or of those of all."""
        crowd = Crowd.of(rows, pairs.prediction, counting(pairs.prediction, pairs.i, pairs.weight), scope)
        alike = crowd.together().to(rows.dtype)
        n = alike.sum(dim=1)
        mean = alike @ crowd.rows / n.clamp(min=1)[:, None]
        share = torch.where(n > 1, 1 / n.clamp(min=1), 0.0)
        n_views = share.sum()
        return Spread(
            deviation=crowd.rows - mean,
            alike=alike,
            n=n,
            share=share / torch.where(n_views > 0, n_views, 1.0),
        )

    @property
    def variance(self) -> Float[Tensor, "p c"]:
        """Of each score, unbiased."""
        return self.alike @ self.deviation.square() / (self.n - 1).clamp(min=1)[:, None]
