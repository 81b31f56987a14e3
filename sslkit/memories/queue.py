"""The most recent images' rows, first in first out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sslkit import distributed, precision
from sslkit.memories.base import Found, Memory
from sslkit.parameters import Count
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Queries

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@register("memories")
class Queue(Memory):
    """Holds the rows of the latest `n_images` images in a ring, each image with as many rows as it has.

    The queue starts empty, and every rank holds the same rows: pushes are gathered in rank order. Rows are kept as they
    come (not normalised) and normalised as they are searched, a block at a time: a search reads the live part of one
    plane once and copies none of it whole. An image that pushed no row still counts as one of the `n_images`.

    Args:
        n_images: images held; below the size of the data set, or an image meets its own older rows.
        dtype: storage of the rows; similarities are float32 or wider in any case.
        n_planes: rows of each entry, one for every global view.
        n_per_image, dim: most rows of an image, and their width; a method fills them in when they are left out.

    Source: CrIBo (arXiv:2310.07855). Deliberate difference: it starts empty, where the authors start with random rows.

    Example:
        >>> queue = Queue(2, n_planes=1, n_per_image=2, dim=3)
        >>> queue.push(Queries.of(torch.eye(3)[None], counts=[1, 2]))
        >>> queue.search(torch.eye(3)[1:2], plane=0).index
        tensor([[1]])
    """

    _rows: Float[Tensor, "p capacity d"]
    _ids: Int[Tensor, " capacity"]
    _born: Int[Tensor, " capacity"]
    _place: Float[Tensor, "p capacity 2"]
    n_planes: int

    def __init__(
        self,
        n_images: Count,
        *,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        n_planes: Count = 2,
        n_per_image: Count | None = None,
        dim: Count | None = None,
    ):
        super().__init__()
        self.n_images, self.dtype, self.n_planes = n_images, dtype, n_planes
        self.counts: deque[int] = deque()  # rows of each image, oldest first
        self.oldest, self.n_pushes = 0, 0
        if n_per_image is not None and dim is not None:
            self.build(n_per_image=n_per_image, dim=dim)

    def build(self, *, n_per_image: int, dim: int) -> None:
        n_planes = self.n_planes
        self.n_per_image, self.capacity = n_per_image, self.n_images * n_per_image
        self.register_buffer("_rows", torch.zeros(n_planes, self.capacity, dim, dtype=_DTYPES[self.dtype]))
        self.register_buffer("_ids", torch.full((self.capacity,), -1))
        self.register_buffer("_born", torch.zeros(self.capacity, dtype=torch.long))
        self.register_buffer("_place", torch.zeros(n_planes, self.capacity, 2))

    def __len__(self) -> int:
        return sum(self.counts)

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "q d"], *, plane: int, k: int = 1) -> Found:
        """The `k` entries of largest cosine similarity, in float32 or wider."""
        with precision.full(queries.device):
            queries = F.normalize(wide(queries), dim=-1)
            similarity = queries.new_full((len(queries), k), -torch.inf)
            index = torch.full((len(queries), k), -1, device=queries.device)
            for slots in self._blocks():
                block = F.normalize(wide(self._rows[plane, slots]).to(queries.dtype), dim=-1)
                scores = queries @ block.mT
                if k == 1:
                    best = scores.amax(dim=1, keepdim=True)  # vectorised on a CPU as `max` is not; few rows improve
                    better = (best > similarity).nonzero()[:, 0]
                    similarity[better] = best[better]
                    index[better] = scores[better].argmax(dim=1, keepdim=True) + slots.start
                else:
                    best, where = scores.topk(min(k, scores.shape[1]), dim=1)
                    similarity, order = torch.cat([similarity, best], dim=1).topk(k, dim=1)
                    index = torch.cat([index, where + slots.start], dim=1).gather(1, order)
        return Found(index, similarity)

    def rows(self, index: Int[Tensor, "*q"], *, plane: int) -> Float[Tensor, "*q d"]:
        return self._rows[plane][index].to(torch.promote_types(self._rows.dtype, torch.float32))

    def ids(self, index: Int[Tensor, "*q"]) -> Int[Tensor, "*q"]:
        return self._ids[index]

    def ages(self, index: Int[Tensor, "*q"]) -> Int[Tensor, "*q"]:
        return self.n_pushes - 1 - self._born[index]

    def place(self, index: Int[Tensor, "*q"], *, plane: int) -> Float[Tensor, "*q 2"]:
        return self._place[plane][index]

    @torch.no_grad()
    def push(self, queries: Queries) -> None:
        queries = queries.dropping_idle()
        if len(queries.rows) != self.n_planes:
            raise ValueError(
                f"n_planes={self.n_planes}, but the rows pushed have {len(queries.rows)} (one per global view)"
            )
        if queries.rows.shape[-1] != self._rows.shape[-1]:
            raise ValueError(f"dim={self._rows.shape[-1]}, but the rows pushed are {queries.rows.shape[-1]} wide")
        counts = torch.bincount(queries.item, minlength=len(queries.images))
        rows, place = (distributed.gather(x.transpose(0, 1)) for x in (queries.rows, queries.place))
        ids, counts = distributed.gather(queries.images[queries.item]), distributed.gather(counts)
        sizes = counts.tolist()
        if max(sizes, default=0) > self.n_per_image:
            raise ValueError(f"an image pushed {max(sizes)} rows, but n_per_image={self.n_per_image}")
        dropped = max(0, len(sizes) - self.n_images)  # a push of more images than fit keeps its first ones
        sizes = sizes[: len(sizes) - dropped]
        while len(self.counts) + len(sizes) > self.n_images:
            self.oldest = (self.oldest + self.counts.popleft()) % self.capacity
        n = sum(sizes)
        self.counts.extend(reversed(sizes))  # the first image of a push counts as its newest
        slots = self.slots(n)
        self._rows[:, slots] = rows[:n].transpose(0, 1).to(self._rows.dtype)
        self._place[:, slots] = place[:n].transpose(0, 1).to(self._place.dtype)
        self._ids[slots], self._born[slots] = ids[:n], self.n_pushes
        self.n_pushes += 1

    def slots(self, n: int | None = None) -> Int[Tensor, " n"]:
        """Where the newest `n` live entries stand (all if left out), newest image first, an image's rows in order."""
        return (
            self.oldest + len(self) - 1 - torch.arange(len(self) if n is None else n, device=self._ids.device)
        ) % self.capacity

    def _blocks(self) -> Iterator[slice]:
        """The live entries in runs short enough for their scores to stay in the cache."""
        length = 4096 if self._ids.device.type == "cpu" else 65536
        end = self.oldest + len(self)
        for start, stop in ((self.oldest, min(end, self.capacity)), (0, end - self.capacity)):
            for first in range(start, stop, length):
                yield slice(first, min(first + length, stop))

    def get_extra_state(self) -> dict[str, Any]:
        return {"counts": list(self.counts), "oldest": self.oldest, "n_pushes": self.n_pushes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.counts = deque(state["counts"])
        self.oldest, self.n_pushes = state["oldest"], state["n_pushes"]
