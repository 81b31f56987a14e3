"""What all heads share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from jaxtyping import Float
from torch import Tensor, nn

from sslkit.component import Component


class Head(Component):
    """Rows of a backbone to scores or embeddings, through one of its named output layers."""

    scores: ClassVar[bool] = True  # whether what comes out is scored, so that a teacher's is centred
    outputs: nn.ModuleDict  # in the order given
    widths: Mapping[str, int]  # of each output

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.widths)

    def build(self, dim: int) -> None:
        """Make the layers for rows of width `dim`; called once."""
        raise NotImplementedError

    def without_predictor(self) -> Self:
        """This head without what only a student has, in place; the teacher's form."""
        return self

    def forward(self, rows: Float[Tensor, "n d"], output: str) -> Float[Tensor, "n c"]:
        raise NotImplementedError
