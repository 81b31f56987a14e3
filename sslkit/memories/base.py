"""What a search may ask of a memory."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from sslkit.component import Component
from sslkit.types import Queries


@dataclass(frozen=True, eq=False)
class Found:
    """The entries most similar to each query, best first; index -1 and similarity -inf where the memory has no more."""

    index: Int[Tensor, "q k"]
    similarity: Float[Tensor, "q k"]


class Memory(Component):
    """Rows of earlier steps in aligned planes: entry `i` of every plane is the same thing.

    A memory is never handed out as one tensor: it may live on the device, in host memory or in an index.
    """

    n_planes: int | None  # None: it takes rows of any number of planes

    def build(self, *, n_per_image: int, dim: int) -> None:
        """Make room; called once, before the first push."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def search(self, queries: Float[Tensor, "q d"], *, plane: int, k: int = 1) -> Found:
        raise NotImplementedError

    def rows(self, index: Int[Tensor, "*q"], *, plane: int) -> Float[Tensor, "*q d"]:
        raise NotImplementedError

    def ids(self, index: Int[Tensor, "*q"]) -> Int[Tensor, "*q"]:
        """Data-set index of the image of each entry."""
        raise NotImplementedError

    def ages(self, index: Int[Tensor, "*q"]) -> Int[Tensor, "*q"]:
        """Pushes since each entry came in; 0 for the latest."""
        raise NotImplementedError

    def place(self, index: Int[Tensor, "*q"], *, plane: int) -> Float[Tensor, "*q 2"]:
        """Mean (x, y) of each entry in the pixels of its image."""
        raise NotImplementedError

    def push(self, queries: Queries) -> None:
        """Take in this step's rows, after the search."""
        raise NotImplementedError
