"""Whole images across views."""

from __future__ import annotations

import torch

from sslkit.aligners.base import Aligner
from sslkit.aligners.view_pairs import Sources, view_pairs
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class ImageAcrossViews(Aligner):
    """The image vector of every student view predicts that of each other teacher view of the same item.

    All pairs weigh the same and sum to 1. Local views predict the global ones.

    Args:
        sources: pair views of any two sources, of the same image only, or of different images only.

    Source: DINO (arXiv:2104.14294).
    """

    def __init__(self, *, sources: Sources = "any"):
        super().__init__()
        self.sources = sources

    def forward(self, step: Step) -> Pairs:
        pairs = view_pairs(step, self.sources)
        b, device = len(step.batch.index), step.batch.index.device
        item = torch.arange(b, device=device)
        i = torch.cat([s * b + item for s, _ in pairs])
        j = torch.cat([t * b + item for _, t in pairs])
        weight = torch.full(i.shape, 1 / len(i), device=device)
        return Pairs(step.student.image, step.teacher.image, i, j, weight)
