"""What all losses share."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sslkit.component import Component
from sslkit.types import Pairs


class Loss(Component):
    """Knows its formula only: logits and pairs in, their weighted sum out."""

    def forward(
        self, prediction: Float[Tensor, "p c"], target: Float[Tensor, "t c"], pairs: Pairs
    ) -> Float[Tensor, ""]:
        raise NotImplementedError
