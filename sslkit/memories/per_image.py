"""One row for every image of the data set, and the neighbours that each had in the last epochs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit import distributed, precision
from sslkit.memories.base import Found, Memory
from sslkit.parameters import Count, Natural
from sslkit.registry import register
from sslkit.types import Queries

CHUNK = 16384  # images whose history is pooled at a time
BLOCK = 65536  # rows that a search compares at a time


@dataclass(frozen=True, eq=False)
class Candidates:
    """The images that came up most among the neighbours of each image, best first.

    `score` is the mean similarity over the window, an epoch counting as 0 where the image was not among the neighbours.
    """

    index: Int[Tensor, "n k"]
    score: Float[Tensor, "n k"]


@register("memories")
class PerImage(Memory):
    """Holds the latest row of every image of the data set, and which rows were nearest to it, epoch by epoch.

    A push looks up the neighbours of its rows before it writes them, so that an image meets its own row of the epoch
    before. Rows that were never written are not found. All ranks hold the same rows.

    Args:
        n_images: images of the data set; a run fills it in when it is left out.
        n_neighbours: neighbours kept of each image and epoch.
        window: epochs of history; 0 keeps none.
        plane: the global view whose rows are kept; other views may show another image.

    Source: AdaSim (arXiv:2303.13606). Deliberate differences: unvisited rows are left out of a search, where the authors
    find zeros; history is kept as one file for each finished epoch (see `keep_in`), where theirs is in every checkpoint.
    """

    _rows: Float[Tensor, "n d"]
    _visited: Bool[Tensor, " n"]
    _index: Int[Tensor, "n k"]
    _similarity: Float[Tensor, "n k"]
    n_planes = 1

    def __init__(
        self, *, n_images: Count | None = None, n_neighbours: Count = 10, window: Natural = 50, plane: Natural = 0
    ):
        super().__init__()
        self.n_images, self.n_neighbours, self.window, self.plane = n_images, n_neighbours, window, plane
        self.past: list[tuple[Tensor, Tensor]] = []  # neighbours of finished epochs, oldest first
        self.n_epochs = 0  # finished
        self.folder: Path | None = None

    def build(self, *, n_per_image: int, dim: int) -> None:
        if n_per_image != 1:
            raise ValueError(f"PerImage holds one row for each image, but a search pushes {n_per_image}: level='image'")
        self.dim = dim
        if self.n_images is not None:
            self.make_room(self.n_images)

    def make_room(self, n_images: int) -> None:
        """Make the tables for a data set of that size; called once, before the first push."""
        self.n_images = n_images
        k = self.n_neighbours
        self.register_buffer("_rows", torch.zeros(n_images, self.dim))
        self.register_buffer("_visited", torch.zeros(n_images, dtype=torch.bool))
        self.register_buffer("_index", torch.zeros(n_images, k, dtype=torch.int32))
        self.register_buffer("_similarity", torch.zeros(n_images, k))

    def __len__(self) -> int:
        return int(self._visited.sum())

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "q d"], *, plane: int = 0, k: int = 1) -> Found:
        """The `k` visited images of largest cosine similarity, in float32; there is one row for all planes."""
        with precision.full(queries.device):
            queries = F.normalize(queries.float(), dim=-1)
            similarity = queries.new_full((len(queries), k), -torch.inf)
            index = torch.full((len(queries), k), -1, device=queries.device)
            for start in range(0, len(self._rows), BLOCK):
                scores = queries @ self._rows[start : start + BLOCK].mT
                scores.masked_fill_(~self._visited[start : start + BLOCK], -torch.inf)
                best, where = scores.topk(min(k, scores.shape[1]), dim=1)
                similarity, order = torch.cat([similarity, best], dim=1).topk(k, dim=1)
                index = torch.cat([index, where + start], dim=1).gather(1, order)
        return Found(index.where(similarity > -torch.inf, -1), similarity)

    def rows(self, index: Int[Tensor, "*q"], *, plane: int = 0) -> Float[Tensor, "*q d"]:
        return self._rows[index]

    def ids(self, index: Int[Tensor, "*q"]) -> Int[Tensor, "*q"]:
        return index

    @torch.no_grad()
    def push(self, queries: Queries) -> None:
        images = queries.images[queries.item]
        with precision.full(queries.rows.device):
            rows = F.normalize(queries.rows[self.plane].float(), dim=-1)
        found = self.search(rows, k=self.n_neighbours)
        gathered = [distributed.gather(x) for x in (images, rows, found.index, found.similarity)]
        images, rows, index, similarity = gathered
        self._rows[images] = rows
        self._visited[images] = True
        self._index[images] = index.to(torch.int32)
        self._similarity[images] = similarity.where(index >= 0, 0.0)

    def finish(self, epoch: int, *, needed: int) -> None: ...
    def candidates(self, epoch: int) -> Candidates: ...
