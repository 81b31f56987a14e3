"""Each patch of an image from the whole."""

from __future__ import annotations

from typing import Literal

from sslkit.aligners.base import Aligner
from sslkit.aligners.positions import with_images
from sslkit.aligners.view_pairs import Sources, view_pairs
from sslkit.parameters import Count
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class ImageToPatch(Aligner):
    """The image vector of every student view predicts every patch of each other teacher view of the same item.

    Pairs of views weigh the same, and so do the patches of a view; all sum to 1. With `PatchToImage` in a second term
    this is the local loss in both directions.

    Args:
        views: the teacher's `"other"` views, or the `"same"` one, as a control.
        sources: pair views of any two sources, of the same image only, or of different images only.
        n_positions: patches of each image and view that are drawn; all if left out.

    Source: the second direction of the local loss of CO-SSL (arXiv:2501.02860). Unknown: whether the paper has it.
    """

    reads = "images"
    targets = "patches"

    def __init__(
        self,
        *,
        views: Literal["other", "same"] = "other",
        sources: Sources = "any",
        n_positions: Count | None = None,
    ):
        super().__init__()
        self.views, self.sources, self.n_positions = views, sources, n_positions

    def forward(self, step: Step) -> Pairs:
        views = [(t, s) for s, t in view_pairs(step, self.sources, same_view=self.views == "same")]
        patch, image, weight = with_images(step, step.teacher, views, self.n_positions)
        return Pairs(step.student.image, step.teacher.patch, image, patch, weight)
