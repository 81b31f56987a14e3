"""Something alike in another image from each patch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sslkit.aligners.base import Aligner
from sslkit.aligners.matched import matched
from sslkit.aligners.normalise import over
from sslkit.aligners.positions import drawn, rows_of
from sslkit.distributed import Scope
from sslkit.parameters import Count
from sslkit.registry import register
from sslkit.types import Pairs, Step


@register("aligners")
class PatchToMatch(Aligner):
    """Every patch of a student view predicts the entry that its region, or its image, found in each other teacher view.

    Views are those that have regions, or for whole images all of them, small ones too. A patch counts by its share in
    what holds it, times the trust in the match. A wrong match is met by every patch that its query holds, so matches
    should be trusted late, or seldom.

    Args:
        search: the method's search whose matches are used, for regions or for whole images.
        n_positions: patches of each image and view that are drawn; all if left out.
        scope: pairs weigh the same within this `"rank"` or over `"all"` ranks; these differ where matches are refused.

    Source: ours; joins the local loss of CO-SSL (arXiv:2501.02860) with the matches of CrIBo (arXiv:2310.07855) or of
    NNCLR (arXiv:2104.14548).
    """

    search: str
    scope: Scope
    reads = "patches"

    def __init__(self, search: str, *, n_positions: Count | None = None, scope: Scope = "all"):
        super().__init__()
        self.search, self.n_positions, self.scope = search, n_positions, scope

    def forward(self, step: Step) -> Pairs:
        matches = matched(step, self.search)
        if matches.level == "region":
            assert step.regions is not None  # its search has asked for them
            views, asked = step.regions.views, step.regions.teacher
            holders = dict(zip(views, zip(*step.regions.of_patches(), strict=True), strict=True))
        else:
            views, asked = tuple(range(len(step.teacher.images))), step.teacher.image
            item = torch.arange(len(step.batch.index), device=step.batch.index.device)[:, None]
            sizes = [patches.shape[1] for patches in step.student.patches]
            holders = {
                view: (item.expand(-1, n), torch.full((len(item), n), 1 / n, device=item.device))
                for view, n in enumerate(sizes)
            }
        if len(views) < 2:
            raise ValueError("what a view finds is predicted by the patches of another view, but there is only one")
        trust = F.pad(matches.weight, (0, 1))  # a patch that no region holds has number 0, also where there are none
        n = matches.index.shape[1]
        i, j, weight = [], [], []
        for view, (holder, share) in holders.items():
            places = drawn(step, step.student, view, self.n_positions)
            query = holder.gather(1, places)
            for plane, there in enumerate(views):
                if there != view:
                    i.append(rows_of(step.student, view, places).flatten())
                    j.append((plane * n + query).flatten())
                    weight.append((share.gather(1, places) * trust[plane][query]).flatten())
        return Pairs(
            prediction=step.student.patch,
            target=matches.found(asked),
            i=torch.cat(i),
            j=torch.cat(j),
            weight=over(torch.cat(weight), self.scope),
            output=matches.output,
        )
