"""Every row compared, by faiss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sslkit.memories.indexes.held import Held, Images, Rows
from sslkit.registry import joint


@dataclass(frozen=True, eq=False)
class _Copy:
    inner: Any
    image: Images  # of each row
    place: Images  # of each image among the rows, -1 for those that have none


@joint
class Flat(Held):
    """Every visited row, compared by a flat index of faiss, whose rows are changed in place.

    It finds what `Exact` finds and takes the room of the table a second time.

    Source: https://github.com/facebookresearch/faiss, IndexFlatIP.
    """

    def make(self, images: Images, rows: Rows, n_images: int) -> _Copy:
        import faiss  # here, so that who does not use it need not have two OpenMP run times in a process

        copy = _Copy(faiss.IndexFlatIP(rows.shape[1]), np.full(n_images, -1), np.full(n_images, -1))
        self._append(copy, images, rows)
        return copy

    def replace(self, held: _Copy, images: Images, rows: Rows) -> None:
        import faiss

        place, inner = held.place[images], held.inner
        old = place >= 0
        kept = faiss.rev_swig_ptr(inner.get_xb(), inner.ntotal * inner.d).reshape(inner.ntotal, inner.d)
        kept[place[old]] = rows[old]
        self._append(held, images[~old], rows[~old])

    def _append(self, copy: _Copy, images: Images, rows: Rows) -> None:
        n = copy.inner.ntotal
        copy.inner.add(rows)
        copy.image[n : n + len(images)] = images
        copy.place[images] = np.arange(n, n + len(images))

    def ask(self, held: _Copy, queries: Rows, k: int) -> tuple[Images, Rows]:
        similarity, place = held.inner.search(queries, k)
        return np.where(place >= 0, held.image[place], -1), similarity
