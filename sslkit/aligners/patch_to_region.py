"""A part of the image from each of its patches."""

from __future__ import annotations

import torch

from sslkit.aligners.base import Aligner
from sslkit.aligners.normalise import over
from sslkit.aligners.positions import drawn, rows_of
from sslkit.distributed import Scope
from sslkit.parameters import Count
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class PatchToRegion(Aligner):
    """Every patch of a student view predicts the region that holds it, as each other teacher view shows this region.

    A patch counts by its share in its region, so that regions of a hard assignment weigh the same whatever their size;
    with `n_positions` they do on average, in a large batch. Patches of regions that some view does not show have no
    target.

    Args:
        n_positions: patches of each image and view that are drawn; all if left out.
        scope: pairs weigh the same within this `"rank"` or over `"all"` ranks; these differ when ranks have different
            numbers of regions.

    Source: ours; joins the local loss of CO-SSL (arXiv:2501.02860) with the regions of CrIBo (arXiv:2310.07855).
    """

    scope: Scope
    reads = "patches"
    targets = "regions"

    def __init__(self, *, n_positions: Count | None = None, scope: Scope = "all"):
        super().__init__()
        self.n_positions, self.scope = n_positions, scope

    def forward(self, step: Step) -> Pairs:
        regions = step.regions
        if regions is None:
            raise ValueError("PatchToRegion needs regions, but the method has no clusterer (Method.clusterer)")
        region, share = regions.of_patches()
        i, j, weight = [], [], []
        for here, view in enumerate(regions.views):
            places = drawn(step, step.student, view, self.n_positions)
            for there in range(regions.n_views):
                if there != here:
                    i.append(rows_of(step.student, view, places).flatten())
                    j.append((there * len(regions) + region[here].gather(1, places)).flatten())
                    weight.append(share[here].gather(1, places).flatten())
        return Pairs(
            step.student.patch, regions.teacher, torch.cat(i), torch.cat(j), over(torch.cat(weight), self.scope)
        )
