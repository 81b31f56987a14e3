"""A neighbour where the latent space is good enough, the query itself elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sslkit import ops
from sslkit.matchers.base import Found
from sslkit.matchers.chooser import ITSELF, Chooser
from sslkit.parameters import Count, Positive
from sslkit.precision import wide
from sslkit.registry import register
from sslkit.types import Queries


@register("matchers")
class Adaptive(Chooser):
    """A draw by score from a query's candidates and itself, where it leads them; elsewhere it keeps to itself.

        p(j | i) = softmax_j( score_ij / temperature )    if score_ii = max_j score_ij;    otherwise j = i

    Its own score is thus the threshold: at the default temperature a candidate 0.001 below it has e^-1 of its weight,
    one 0.01 below e^-10. Scores of partners are mean similarities over epochs, so that one which was near in half of
    them has half its similarity. In a step scores are cosines, and that of a query with itself is the cosine with its
    own row in the other plane.

    Args:
        temperature: divides the scores; towards 0 every query keeps to itself.
        n_candidates: entries that a query of a step is offered beside itself.

    Source: AdaSim (arXiv:2303.13606), as its authors' program does it; whether their printed equations agree in detail
    is unknown. Deliberate difference: a candidate that ties with the image itself does not keep it from drawing, where
    the authors leave ties to the order of their sort.

    Example:
        >>> index, score = torch.tensor([[0, 7], [7, 1]]), torch.tensor([[0.95, 0.949], [0.91, 0.90]])
        >>> Adaptive().choose(index, score, own=torch.arange(2), chance=torch.tensor([0.74, 0.74]))
        tensor([7, 1])
    """

    def __init__(self, *, temperature: Positive = 0.001, n_candidates: Count = 10):
        super().__init__()
        self.temperature, self.n_candidates = temperature, n_candidates

    def choose(
        self,
        index: Int[Tensor, "n k"],
        score: Float[Tensor, "n k"],
        own: Int[Tensor, " n"],
        chance: Float[Tensor, " n"],
    ) -> Int[Tensor, " n"]:
        leads = ((index == own[:, None]) & (score == score[:, :1])).any(dim=1)
        drawn = index.gather(1, ops.draw(score, self.temperature, chance)[:, None])[:, 0]
        return torch.where(leads, drawn, own)

    def candidates(self, found: Found, queries: Queries, plane: int) -> tuple[Int[Tensor, "q k"], Float[Tensor, "q k"]]:
        here, there = queries.rows[plane], queries.rows[self.other_plane(queries, plane)]
        alike = F.cosine_similarity(wide(here), wide(there), dim=1)[:, None]
        score, order = torch.cat([alike, found.similarity], dim=1).sort(dim=1, descending=True, stable=True)
        return torch.cat([torch.full_like(found.index[:, :1], ITSELF), found.index], dim=1).gather(1, order), score
