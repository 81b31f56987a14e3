"""Numbers that tell whether a run learns: each failure of self-distillation has one that shows it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sslkit import ops
from sslkit.geometry import patch_positions
from sslkit.losses import Distillation
from sslkit.method import Method
from sslkit.types import Outcome


@torch.no_grad()
def health(method: Method, outcome: Outcome) -> dict[str, float]:
    """Diagnostics of one batch.

    | name | meaning | bad when |
    |---|---|---|
    | `health/teacher_entropy/HEAD` | mean entropy of the targets over ln K | near 1, or near 0 with the next |
    | `health/prototype_use/HEAD` | entropy of their mean over ln K | near 0: one prototype for all |
    | `health/rank/image`, `health/rank/patch` | effective rank of the teacher's vectors over their width | falling |
    | `health/position_leak` | share of the variance of patch positions read linearly from patches | near 1 |
    | `regions/per_image` | regions seen in all views | near 1, or near 0 |
    | `health/accepted/SEARCH` | share of queries whose match is trusted | near 0 or near 1 |
    | `entries/SEARCH` | entries held | 0 after the first step |
    | `age/SEARCH` | mean steps since the entries found were pushed | |
    | `health/std/image` | deviation of the unit image vectors over that of a uniform spread | near 0: all alike |
    | `partners/self_first` | share of images that lead their own neighbours | near 0 |
    | `partners/bootstrapped` | share of images whose partner is another one | near 0 or near 1 |
    | `partners/neighbour_label` | share of nearest other images of the same label | falling |
    | `partners/partner_label` | the same of the partners that are other images | falling |
    """
    step = outcome.step
    record: dict[str, float] = {}
    temperature = {
        term.target_head: term.loss.teacher_temperature
        for term in method.terms.values()
        if isinstance(term.loss, Distillation)
    }
    for head, (logits, _) in outcome.targets.items():
        if head in temperature and len(logits):
            q = F.softmax((logits - outcome.offsets[head]).float() / temperature[head], dim=-1)
            record[f"health/teacher_entropy/{head}"] = (ops.entropy(q).mean() / math.log(q.shape[1])).item()
            record[f"health/prototype_use/{head}"] = (ops.entropy(q.mean(dim=0)) / math.log(q.shape[1])).item()
    record["health/rank/image"] = rank_share(step.teacher.image.rows)
    record["health/std/image"] = spread(step.teacher.image.rows)
    patches = step.teacher.patches[0]
    record["health/rank/patch"] = rank_share(patches.flatten(0, 1)[:2048])
    positions = patch_positions(step.batch.views[0], step.teacher.grids[0])
    record["health/position_leak"] = position_leak(patches, positions)
    if step.regions is not None:
        record["regions/per_image"] = step.regions.valid.float().sum(dim=1).mean().item()
    for name, matches in step.matches.items():
        memory = method.searches[name].memory
        record[f"health/accepted/{name}"] = matches.weight.mean().item() if matches.weight.numel() else 0.0
        record[f"entries/{name}"] = len(memory)
        found = matches.index[matches.index >= 0]
        if len(found):
            record[f"age/{name}"] = memory.ages(found).float().mean().item()
    return record | (method.partners.report if method.partners is not None else {})


def spread(rows: Float[Tensor, "n d"]) -> float:
    """Deviation of l2-normalised rows, averaged over dimensions, times sqrt(d): 1 is spread evenly, 0 is one point.

    Source: SimSiam (arXiv:2011.10566), section 4.1.
    """
    unit = F.normalize(rows.float(), dim=1)
    return float(unit.std(dim=0).mean().item() * math.sqrt(rows.shape[1]))


def rank_share(rows: Float[Tensor, "n d"]) -> float:
    """Effective rank of the centred rows over their width: 1 is the most, 1 / width is one direction only."""
    centred = rows.double() - rows.double().mean(dim=0)
    return float(ops.effective_rank(ops.gram(centred)).item() / rows.shape[1])


def position_leak(patches: Float[Tensor, "b n d"], positions: Float[Tensor, "b n 2"]) -> float:
    """Share of the variance of (x, y) inside each image that ridge regression reads from half of the images' patches.

    Measured on the other half: 0 knows nothing of position, 1 everything. Positions are relative to the view, so that
    it is the patch's place in what the network saw, not in the source, that leaks.
    """
    spread = positions.float() - positions.float().mean(dim=1, keepdim=True)
    spread = spread / spread.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
    x = patches.float() - patches.float().mean(dim=(0, 1))
    half = len(x) // 2
    if half == 0:
        return 0.0
    (x_fit, y_fit), (x_test, y_test) = (
        (a.flatten(0, 1), y.flatten(0, 1)) for a, y in ((x[:half], spread[:half]), (x[half:], spread[half:]))
    )
    gram = x_fit.mT @ x_fit
    ridge = 1e-2 * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), device=gram.device)
    predicted = x_test @ torch.linalg.solve(gram + ridge, x_fit.mT @ y_fit)
    return float((1 - (predicted - y_test).square().sum() / y_test.square().sum().clamp(min=1e-12)).clamp(min=0).item())
