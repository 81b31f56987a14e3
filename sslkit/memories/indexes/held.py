"""An index of faiss beside a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit.memories.base import Found
from sslkit.memories.indexes.base import Index
from sslkit.memories.indexes.exact import Exact

Rows = Float[np.ndarray, "m d"]
Images = Int[np.ndarray, " m"]


class Held(Index):
    """A copy of the visited rows in an index of faiss, in host memory, made at the first search after a start.

    Every process has its own. faiss takes its number of threads from OMP_NUM_THREADS. A subclass says how the copy is
    made, changed and searched.
    """

    is_ready = True  # until then the table itself is searched

    def __init__(self) -> None:
        super().__init__()
        self._held: Any = None

    def make(self, images: Images, rows: Rows, n_images: int) -> Any:
        """The copy of some rows out of a table of `n_images`."""
        raise NotImplementedError

    def replace(self, held: Any, images: Images, rows: Rows) -> None:
        """Put rows in the place of those that the images had, if they had any."""
        raise NotImplementedError

    def ask(self, held: Any, queries: Rows, k: int) -> tuple[Images, Rows]:
        """Image and similarity of the nearest rows, best first; image -1 where there are no more."""
        raise NotImplementedError

    def search(
        self, queries: Float[Tensor, "q d"], k: int, *, rows: Float[Tensor, "n d"], visited: Bool[Tensor, " n"]
    ) -> Found:
        if rows.is_meta or not self.is_ready:
            return Exact().search(queries, k, rows=rows, visited=visited)
        if self._held is None:
            kept = visited.nonzero()[:, 0]
            some = rows if len(kept) == len(rows) else rows[kept]
            self._held = self.make(_array(kept), _array(some.float()), len(rows))
        image, score = self.ask(self._held, _array(queries.float()), k)
        index, similarity = torch.from_numpy(image).to(queries.device), torch.from_numpy(score).to(queries)
        return Found(index, similarity.where(index >= 0, -torch.inf))

    def write(self, images: Int[Tensor, " m"], rows: Float[Tensor, "m d"]) -> None:
        if self._held is not None and len(images):
            self.replace(self._held, _array(images), _array(rows.float()))

    def forget(self) -> None:
        self._held = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}  # a copy makes its own


def _array(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.detach().cpu().contiguous().numpy()
    return array
