"""What all backbones share."""

from __future__ import annotations

from typing import Literal, Self

from jaxtyping import Bool, Float
from torch import Tensor

from sslkit.component import Component


class Backbone(Component):
    """Pixels to an image vector, patch tokens and their grid (height, width).

    Nothing that comes out depends on the pixels of a patch that a mask hides.
    """

    dim: int  # of image vectors
    mask: Literal["token", "drop"] | None = None  # whether something stands in for what a mask hides, or nothing does

    @property
    def patch_dim(self) -> int:
        """Width of the patch tokens."""
        return self.dim

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n e"], tuple[int, int]]:
        raise NotImplementedError

    def without_drop_path(self) -> Self:
        """This network with stochastic depth and dropout off, in place; the teacher's form."""
        raise NotImplementedError
