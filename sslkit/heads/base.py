"""What all heads share."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from sslkit.component import Component


class Head(Component):
    """Rows of a backbone to scores, through one of its named output layers."""

    outputs: nn.ModuleDict  # in the order given
    n_prototypes: Mapping[str, int]  # width of each output

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.outputs)

    def build(self, dim: int) -> None:
        """Make the layers for rows of width `dim`; called once."""
        raise NotImplementedError

    def forward(self, rows: Float[Tensor, "n d"], output: str) -> Float[Tensor, "n c"]:
        raise NotImplementedError
