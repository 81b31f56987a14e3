"""Patches that the student does not see."""

from __future__ import annotations

from typing import Literal

import torch

from sslkit.aligners.base import Aligner
from sslkit.aligners.normalise import over
from sslkit.distributed import Scope
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class MaskedPatches(Aligner):
    """Every hidden patch of a global view predicts the teacher's patch at its place in the same view.

    The hidden patches of one image in one view share a weight equally. Local views have no target.

    Args:
        normalise: what the loss is a mean over: `"masked"`: images, once for each view that hides something of them;
            `"all"`: all images in all global views, as in the authors' program, where an image of which nothing is
            hidden counts as zero.
        scope: that number is of this `"rank"` or over `"all"` ranks; with `normalise="all"` it is the same for each.

    Source: iBOT (arXiv:2111.07832), equation 2.
    """

    reads = "patches"

    def __init__(self, *, normalise: Literal["masked", "all"] = "masked", scope: Scope = "all"):
        super().__init__()
        self.normalise = normalise
        self.scope = scope if normalise == "masked" else None

    def forward(self, step: Step) -> Pairs:
        views = step.batch.global_views
        if all(view.mask is None for view in views):
            raise ValueError("no global view has a mask, so there is nothing to predict: set augmenters.Crop.masking")
        weights = []
        for view, patches in zip(views, step.teacher.patches, strict=True):
            hidden = patches.new_zeros(patches.shape[:2], dtype=torch.bool) if view.mask is None else view.mask
            weights.append(hidden / hidden.sum(dim=1, keepdim=True).clamp(min=1))
        weight = torch.cat([w.flatten() for w in weights])
        weight = weight / sum(len(w) for w in weights) if self.scope is None else over(weight, self.scope)
        place = torch.arange(len(weight), device=weight.device)  # global views come first in the student's rows too
        return Pairs(step.student.patch, step.teacher.patch, place, place, weight)
