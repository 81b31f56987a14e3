"""Regions across images, through the matches of a search."""

from __future__ import annotations

from typing import Literal

import torch

from sslkit.aligners.base import Aligner
from sslkit.aligners.matched import matched
from sslkit.aligners.normalise import mass
from sslkit.distributed import Scope
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class RegionAcrossImages(Aligner):
    """The entry that a region of one view found is predicted by the same region of the other view.

    Direction p: the entry that view p's region found, in plane p, is the target of the student's region in view 1 - p.

    Args:
        search: the method's search whose matches are used.
        normalise: `"direction"`: a mean over the matches of each direction, then over directions; `"pooled"`: one mean
            over all matches; `"first_direction"`: both directions are divided by the number of matches of the first,
            and vanish with it, as in the authors' program.
        scope: counts are of this `"rank"` or over `"all"` ranks.

    Source: CrIBo (arXiv:2310.07855), the object-level cross-image loss.
    """

    search: str
    scope: Scope
    reads = "regions"

    def __init__(
        self,
        search: str,
        *,
        normalise: Literal["direction", "pooled", "first_direction"] = "direction",
        scope: Scope = "all",
    ):
        super().__init__()
        self.search, self.normalise, self.scope = search, normalise, scope

    def forward(self, step: Step) -> Pairs:
        regions = step.regions
        if regions is None:
            raise ValueError("RegionAcrossImages needs regions, but the method has no clusterer (Method.clusterer)")
        if regions.n_views != 2:
            raise ValueError(
                f"a match is the target of one other view, but regions are seen in {regions.n_views} views"
            )
        matches = matched(step, self.search, "region")
        n, device = len(regions), regions.cluster.device
        row = torch.arange(n, device=device)
        i = torch.cat([n + row, row])  # view 1 predicts what view 0 found, and the other way round
        return Pairs(
            prediction=regions.student,
            target=matches.found(regions.teacher),
            i=i,
            j=torch.arange(2 * n, device=device),
            weight=self._normalised(matches.weight).flatten(),
            output=matches.output,
        )

    def _normalised(self, weight: torch.Tensor) -> torch.Tensor:
        counts = torch.stack([mass(w, self.scope) for w in weight])
        if self.normalise == "pooled":
            counts = counts.sum().expand(2) / 2
        elif self.normalise == "first_direction":
            counts = counts[0].expand(2)
        return torch.where(counts[:, None] > 0, weight / (2 * counts[:, None]).clamp(min=1e-12), 0.0)
