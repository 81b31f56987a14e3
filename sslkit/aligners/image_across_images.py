"""Whole images across images, through the matches of a search."""

from __future__ import annotations

import torch

from sslkit.aligners.base import Aligner
from sslkit.aligners.matched import matched
from sslkit.aligners.normalise import over
from sslkit.distributed import Scope
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class ImageAcrossImages(Aligner):
    """The entry that an image found in one teacher view is predicted by every other student view of that image.

    Pairs weigh as much as their match is trusted, and sum to 1.

    Args:
        search: the method's search, at level "image", whose matches are used.
        scope: pairs weigh the same within this `"rank"` or over `"all"` ranks; these differ where matches are refused.

    Source: NNCLR (arXiv:2104.14548).
    """

    search: str
    scope: Scope

    def __init__(self, search: str, *, scope: Scope = "all"):
        super().__init__()
        self.search, self.scope = search, scope

    def forward(self, step: Step) -> Pairs:
        matches, own = matched(step, self.search, "image"), step.teacher.image
        b, device = len(step.batch.index), step.batch.index.device
        item = torch.arange(b, device=device)
        views = [(s, t) for s in range(len(step.student.images)) for t in range(len(step.teacher.images)) if s != t]
        if not views:
            raise ValueError("what a view finds is predicted by another view, but there is only one")
        i = torch.cat([s * b + item for s, _ in views])
        j = torch.cat([t * b + item for _, t in views])
        weight = over(matches.weight.flatten()[j], self.scope)
        return Pairs(step.student.image, matches.found(own), i, j, weight, matches.output)
