"""Whole images across views."""

from __future__ import annotations

from typing import Literal

import torch

from sslkit.aligners.base import Aligner
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

    def __init__(self, *, sources: Literal["any", "same", "different"] = "any"):
        super().__init__()
        self.sources = sources

    def forward(self, step: Step) -> Pairs:
        student, teacher = step.student, step.teacher
        pairs = [
            (s, t)
            for s in range(len(student.images))
            for t in range(len(teacher.images))
            if s != t and self._pairs(student.sources[s], teacher.sources[t])
        ]
        if not pairs:
            raise ValueError(
                f"sources={self.sources!r} leaves no pair among student views of sources {student.sources} and teacher "
                f"views of sources {teacher.sources}"
            )
        b, device = student.index.shape[0], student.index.device
        item = torch.arange(b, device=device)
        i = torch.cat([s * b + item for s, _ in pairs])
        j = torch.cat([t * b + item for _, t in pairs])
        weight = torch.full(i.shape, 1 / len(i), device=device)
        return Pairs(student.image, teacher.image, i, j, weight)

    def _pairs(self, here: int, there: int) -> bool:
        return self.sources == "any" or (here == there) == (self.sources == "same")
