"""Joint-view clustering of the tokens of one image by k-means."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sslkit import ops
from sslkit.clusterers.base import Clusterer
from sslkit.parameters import Count
from sslkit.registry import register


@register("clusterers")
class KMeans(Clusterer):
    """Groups the tokens of one image by spherical k-means: each joins the centroid of largest cosine similarity.

    A cluster that loses all its tokens keeps its centroid and may end empty.

    Args:
        n_clusters: clusters per image over all views.
        n_rounds: rounds of assignment.

    Source: the comparison in CrIBo's appendix (arXiv:2310.07855); its details are unknown, so this form is ours.
    """

    def __init__(self, n_clusters: Count, *, n_rounds: Count = 5):
        super().__init__(n_clusters)
        self.n_rounds = n_rounds

    def assign(
        self, tokens: Float[Tensor, "b n d"], positions: Float[Tensor, "b n 2"], seeds: Int[Tensor, "b k"]
    ) -> Float[Tensor, "b n k"]:
        tokens = F.normalize(tokens, dim=-1)
        centroids = tokens.gather(1, seeds[..., None].expand(-1, -1, tokens.shape[2]))
        for _ in range(self.n_rounds):
            assignment = ops.one_hot((tokens @ centroids.mT).argmax(dim=-1), self.n_clusters).to(tokens.dtype)
            filled = assignment.any(dim=1)[..., None]
            centroids = F.normalize(ops.pool(tokens, assignment), dim=-1).where(filled, centroids)
        return assignment
