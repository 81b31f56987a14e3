"""Which rows look for their like, in which memory, and how the answers are judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sslkit import draws
from sslkit.component import Component
from sslkit.matchers import Matcher
from sslkit.memories import Memory, PerImage
from sslkit.network import Network
from sslkit.registry import joint
from sslkit.types import Batch, Features, Matches, Queries, Regions


@joint
class Search(Component):
    """Which rows of this step look for their like, where, and how the answers are judged.

    Args:
        level: the teacher's `"region"` rows or its `"image"` vectors.
        output: of the teacher's heads, whose embeddings are compared and kept; rows of the backbone if left out, which
            pass a head once they are found.
    """

    matcher: Matcher
    memory: Memory

    def __init__(
        self,
        *,
        matcher: Matcher,
        memory: Memory,
        level: Literal["region", "image"] = "region",
        output: str | None = None,
    ):
        super().__init__()
        if isinstance(memory, PerImage):
            raise ValueError(
                "memory=PerImage(), where an image finds its own row: it is for Partners, not for a search"
            )
        self.level, self.output, self.matcher, self.memory = level, output, matcher, memory

    def queries(self, batch: Batch, teacher: Network, seen: Features, regions: Regions | None) -> Queries:
        """What the teacher made of this batch, in the space that is searched."""
        queries = self._rows(batch, seen, regions)
        if self.output is None:
            return queries
        rows = teacher.project(queries.rows.flatten(0, 1), self.output)
        return replace(queries, rows=rows.unflatten(0, queries.rows.shape[:2]))

    def _rows(self, batch: Batch, seen: Features, regions: Regions | None) -> Queries:
        if self.level == "image":
            chance = draws.uniform(batch.seed, batch.epoch, batch.index, len(seen.images), "match").T
            return replace(Queries.of_images(batch, seen), chance=chance)
        if regions is None:
            raise ValueError("level='region' needs regions, but the method has no clusterer (Method.clusterer)")
        n_planes, n, k = regions.n_views, len(regions), regions.valid.shape[1]
        item = regions.teacher.item[:n]
        chance = draws.uniform(batch.seed, batch.epoch, batch.index, n_planes * k, "match").unflatten(1, (n_planes, k))
        return Queries(
            rows=regions.teacher.rows.unflatten(0, (n_planes, n)),
            item=item,
            images=batch.index,
            place=regions.place,
            weight=regions.teacher.weight[:n],
            chance=chance[item, :, regions.cluster].T,
        )

    def forward(self, queries: Queries) -> Matches:
        if self.memory.n_planes not in (None, len(queries.rows)):
            raise ValueError(
                f"n_planes={self.memory.n_planes}, but a step has {len(queries.rows)}, one for each global view asked"
            )
        matches: Matches = self.matcher(queries, self.memory)
        return replace(matches, level=self.level, output=self.output)
