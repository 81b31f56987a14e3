"""The whole image from each of its patches."""

from __future__ import annotations

from typing import Literal

from sslkit.aligners.base import Aligner
from sslkit.aligners.positions import with_images
from sslkit.aligners.view_pairs import Sources, view_pairs
from sslkit.parameters import Count
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class PatchToImage(Aligner):
    """Every patch of a student view predicts the image vector of each other teacher view of the same item.

    Pairs of views weigh the same, and so do the patches of a view; all sum to 1.

    Args:
        views: the teacher's `"other"` views, or the `"same"` one: a control, as an image vector that is the mean of the
            patches gives itself away.
        sources: pair views of any two sources, of the same image only, or of different images only.
        n_positions: patches of each image and view that are drawn; all if left out.

    Patches that a mask hides from the student are among them.

    Source: the local loss of CO-SSL (arXiv:2501.02860), as far as it is known (docs/methods/cossl.md). Unknown: whether
    the paper also has the other direction, `ImageToPatch`. Ours: `views="same"`, `sources`, `n_positions`.
    """

    reads = "patches"
    targets = "images"

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
        views = view_pairs(step, self.sources, same_view=self.views == "same")
        patch, image, weight = with_images(step, step.student, views, self.n_positions)
        return Pairs(step.student.patch, step.teacher.image, patch, image, weight)
