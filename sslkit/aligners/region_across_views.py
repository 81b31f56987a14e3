"""Regions across the views of their image."""

from __future__ import annotations

import torch

from sslkit.aligners.base import Aligner
from sslkit.aligners.normalise import over
from sslkit.distributed import Scope
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class RegionAcrossViews(Aligner):
    """Each region of a student view predicts the same region of every other teacher view.

    Args:
        scope: regions weigh the same within this `"rank"`, as in the authors' program, or over `"all"` ranks; these
            differ when ranks have different numbers of regions.

    Source: CrOC (arXiv:2303.13245), CrIBo (arXiv:2310.07855), the object-level cross-view loss.
    """

    scope: Scope
    reads = "regions"

    def __init__(self, *, scope: Scope = "all"):
        super().__init__()
        self.scope = scope

    def forward(self, step: Step) -> Pairs:
        regions = step.regions
        if regions is None:
            raise ValueError("RegionAcrossViews needs regions, but the method has no clusterer (Method.clusterer)")
        n, views = len(regions), range(regions.n_views)
        row = torch.arange(n, device=regions.cluster.device)
        pairs = [(s, t) for s in views for t in views if s != t]
        i = torch.cat([s * n + row for s, _ in pairs])
        j = torch.cat([t * n + row for _, t in pairs])
        weight = over(regions.student.weight[i], self.scope)
        return Pairs(regions.student, regions.teacher, i, j, weight)
