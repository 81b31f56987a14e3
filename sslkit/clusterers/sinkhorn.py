"""Joint-view clustering of the tokens of one image by balanced transport."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sslkit import ops
from sslkit.clusterers.base import Clusterer
from sslkit.parameters import Count, Positive, Within
from sslkit.registry import register
from sslkit.schedules import Scheduled


@register("clusterers")
class Sinkhorn(Clusterer):
    """Groups the tokens of one image, over all its views, into at most `n_clusters` clusters of steered mass.

    Centroids start at tokens and move for `n_rounds` rounds. A round costs
    `M_nk = -<t_n, c_k> + positional_weight * E_nk`, where `E_nk` is the distance in the source image from token n to
    the nearest other member of cluster k over the largest such distance, rescales M to [0, 1], and balances
    `exp(-M * sharpness)` so that every token weighs the same and every cluster as much as its target mass.

    Args:
        n_clusters: clusters per image over all views; 4 to 64 is usual. Some may end empty.
        n_rounds: updates of the centroids.
        n_balancing: Sinkhorn iterations within a round.
        sharpness: multiplies the rescaled cost; the authors' lambda.
        positional_weight: of distance against cosine similarity; the authors' alpha (lambda_pos in the paper).
        update_mass: a cluster's target mass follows its size in the round before; otherwise all stay equal.
        hard: tokens belong wholly to their best cluster; otherwise the plan itself is the assignment.
        cost_scale: over which the cost's smallest and largest value are taken. `"batch"` is what the authors' program
            does, and makes the clusters of an image depend on the other images of its batch.

    Source: CrOC (arXiv:2303.13245) as used by CrIBo (arXiv:2310.07855). Deliberate differences: the cost is scaled per
    image, not per batch, unless asked; a token with two equally good clusters goes to the first of them, not to both.

    Example:
        >>> tokens, positions = torch.randn(2, 8, 16), torch.rand(2, 8, 2)
        >>> Sinkhorn(n_clusters=3)(tokens, positions).sum(dim=-1).unique()
        tensor([1.])
    """

    positional_weight: Float[Tensor, ""]
    switch = "cost_scale"

    def __init__(
        self,
        n_clusters: Count,
        *,
        n_rounds: Count = 5,
        n_balancing: Count = 5,
        sharpness: Positive = 20.0,
        positional_weight: Annotated[Scheduled, Within(least=0)] = 1.0,
        update_mass: bool = True,
        hard: bool = True,
        cost_scale: Literal["image", "batch"] = "image",
    ):
        super().__init__(n_clusters)
        self.n_rounds, self.n_balancing, self.sharpness = n_rounds, n_balancing, sharpness
        self.update_mass, self.hard, self.cost_scale = update_mass, hard, cost_scale
        self.scope = "rank" if cost_scale == "batch" else None
        self.schedule("positional_weight", positional_weight)

    def assign(
        self, tokens: Float[Tensor, "b n d"], positions: Float[Tensor, "b n 2"], seeds: Int[Tensor, "b k"]
    ) -> Float[Tensor, "b n k"]:
        b, n, d = tokens.shape
        k = self.n_clusters
        tokens = F.normalize(tokens, dim=-1)
        centroids = tokens.gather(1, seeds[..., None].expand(-1, -1, d))
        apart = _distances(positions)
        away = apart.gather(2, seeds[:, None].expand(-1, n, -1))  # to the one member that a cluster starts with
        row_mass, mass = tokens.new_full((b, n), 1 / n), tokens.new_full((b, k), 1 / k)
        for i in range(self.n_rounds):
            cost = self.positional_weight * _relative(away) - tokens @ centroids.mT
            plan = ops.sinkhorn(-self.sharpness * self._rescale(cost), row_mass, mass, self.n_balancing)
            labels = plan.argmax(dim=-1)
            size = ops.one_hot(labels, k).to(tokens.dtype)
            assignment = size if self.hard else plan
            if i + 1 < self.n_rounds:
                centroids = F.normalize(ops.pool(tokens, assignment), dim=-1)
                away = _to_labels(apart, labels, k) if self.hard else _to_weighted(apart, assignment)
                if self.update_mass:
                    mass = size.sum(dim=1) + 0.01
                    mass = mass / mass.sum(dim=-1, keepdim=True)
        return assignment

    def _rescale(self, cost: Float[Tensor, "b n k"]) -> Float[Tensor, "b n k"]:
        low, high = (
            (cost.amin(dim=(1, 2), keepdim=True), cost.amax(dim=(1, 2), keepdim=True))
            if self.cost_scale == "image"
            else (cost.min(), cost.max())
        )
        return (cost - low) / (high - low).clamp(min=torch.finfo(cost.dtype).tiny)


def _distances(positions: Float[Tensor, "b n 2"]) -> Float[Tensor, "b n n"]:
    """Pixels between every two tokens; infinite where they coincide, so that no token is its own neighbour."""
    x, y = positions.unbind(dim=-1)
    squared = (x[:, :, None] - x[:, None]).square_().add_((y[:, :, None] - y[:, None]).square_())
    return squared.sqrt_().masked_fill_(squared == 0, torch.inf)


def _to_labels(apart: Float[Tensor, "b n m"], labels: Int[Tensor, "b m"], k: int) -> Float[Tensor, "b n k"]:
    """From each token to the nearest other member of each cluster; infinite where a cluster has none."""
    b, n, _ = apart.shape
    out = apart.new_full((b, n, k), torch.inf)
    return out.scatter_reduce_(2, labels[:, None].expand(-1, n, -1), apart, "amin")


def _to_weighted(apart: Float[Tensor, "b n m"], assignment: Float[Tensor, "b m k"]) -> Float[Tensor, "b n k"]:
    """The same for a soft assignment: the least distance-times-membership, one cluster at a time."""
    columns = assignment.masked_fill(assignment == 0, torch.inf).unbind(dim=-1)  # no member, whatever its distance
    return torch.stack([(apart * column[:, None]).amin(dim=-1) for column in columns], dim=-1)


def _relative(away: Float[Tensor, "b n k"]) -> Float[Tensor, "b n k"]:
    """Distances over the largest of their image; clusters that offer no distance get the image's mean (0 for them)."""
    none = away.isinf() | away.isnan()
    away = away.masked_fill(none, 0.0)
    away = torch.where(none, away.mean(dim=(1, 2), keepdim=True), away)
    return away / away.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(away.dtype).tiny)
