"""What all clusterers share: their checks, their precision and their random start."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit import precision
from sslkit.component import Component


class Clusterer(Component):
    """Tokens of one image, over all its views, to an assignment: float32, no gradient, nothing remembered.

    A subclass writes `assign`.
    """

    def __init__(self, n_clusters: int) -> None:
        super().__init__()
        self.n_clusters = n_clusters

    @torch.no_grad()
    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        positions: Float[Tensor, "b n 2"],
        seeds: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b n k"]:
        """Rows sum to 1 (hard) or to their share of the mass (soft).

        Args:
            positions: (x, y) in source pixels, comparable over the views of an image.
            seeds: the distinct tokens that start the clusters; drawn from torch's generator if not given.

        Raises:
            ValueError: there are more clusters than tokens.
        """
        b, n, _ = tokens.shape
        if self.n_clusters > n:
            raise ValueError(f"n_clusters={self.n_clusters}, but an image has only {n} tokens over its views")
        with precision.full(tokens.device):
            tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
            if seeds is None:
                seeds = torch.rand(b, n, device=tokens.device).topk(self.n_clusters, dim=1).indices
            return self.assign(tokens, positions.to(tokens.dtype), seeds)

    def assign(
        self, tokens: Float[Tensor, "b n d"], positions: Float[Tensor, "b n 2"], seeds: Int[Tensor, "b k"]
    ) -> Float[Tensor, "b n k"]:
        raise NotImplementedError
