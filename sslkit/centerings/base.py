"""What is taken off a teacher head's logits so that it does not settle on few prototypes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sslkit.component import Component


class Centering(Component):
    """One number per prototype of one teacher head, subtracted from its logits."""

    def build(self, n_prototypes: int) -> None:
        """Make room for state; called once."""

    def forward(self, logits: Float[Tensor, "n c"], weight: Float[Tensor, " n"]) -> Float[Tensor, " c"]:
        """What to subtract in this step, given the head's raw logits of this batch's own rows. Nothing is written."""
        raise NotImplementedError

    def move(self, logits: Float[Tensor, "n c"], weight: Float[Tensor, " n"]) -> None:
        """Take in the raw logits of this batch's own rows, once per optimiser step."""
