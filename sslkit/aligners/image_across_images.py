"""Whole images across images, through the matches of a search."""

from __future__ import annotations

import torch

from sslkit.aligners.base import Aligner
from sslkit.aligners.normalise import over
from sslkit.distributed import Scope
from sslkit.registry import register
from sslkit.types import Pairs, Rows, Step


@register("aligners")
class ImageAcrossImages(Aligner):
    """The entry that an image found in one teacher view is predicted by every other student view of that image.

    Pairs weigh as much as their match is trusted, and sum to 1.

    Args:
        search: the method's search, at level "image", whose matches are used.
        scope: pairs weigh the same within this `"rank"` or over `"all"` ranks; these differ where matches are refused.

    Source: NNCLR (arXiv:2104.14548).
    """

    def __init__(self, search: str, *, scope: Scope = "all"):
        super().__init__()
        self.search, self.scope = search, scope

    def forward(self, step: Step) -> Pairs:
        if self.search not in step.matches:
            known = ", ".join(step.matches) or "none"
            raise ValueError(f"search={self.search!r} is not a search of the method; it has: {known} (Method.searches)")
        matches, own = step.matches[self.search], step.teacher.image
        if matches.index.shape != (len(step.teacher.images), len(step.batch.index)):
            raise ValueError(f"search={self.search!r} does not look for whole images: its Search.level must be 'image'")
        b, device = len(step.batch.index), step.batch.index.device
        item = torch.arange(b, device=device)
        views = [(s, t) for s in range(len(step.student.images)) for t in range(len(step.teacher.images)) if s != t]
        if not views:
            raise ValueError("what a view finds is predicted by another view, but there is only one")
        i = torch.cat([s * b + item for s, _ in views])
        j = torch.cat([t * b + item for _, t in views])
        found = Rows(matches.rows.flatten(0, 1), own.view, own.item, matches.ids.flatten(), own.weight)
        weight = over(matches.weight.flatten()[j], self.scope)
        return Pairs(step.student.image, found, i, j, weight, matches.output)
