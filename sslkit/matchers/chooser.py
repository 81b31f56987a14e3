"""What matchers share that choose among candidates, in a step or, for whole images, between epochs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.matchers.base import Found, Matcher, Memory
from sslkit.types import Queries

ITSELF = -2  # stands for a query among its candidates: it is no entry of the memory


class Chooser(Matcher):
    """One of the candidates of each query, with weight 1, or the query itself, which is a match of weight 0.

    A subclass writes `choose`, for partners of whole images and for matches alike. Between epochs the candidates of an
    image are images, itself among them or not. In a step they are the `n_candidates` entries nearest to a query in its
    own plane; where the query keeps to itself its match still names the nearest, with weight 0.
    """

    n_candidates: int = 1

    def choose(
        self,
        index: Int[Tensor, "n k"],
        score: Float[Tensor, "n k"],
        own: Int[Tensor, " n"],
        chance: Float[Tensor, " n"],
    ) -> Int[Tensor, " n"]:
        """A candidate for each row, or the row's own number.

        Args:
            index: candidates, best first, -1 where there are fewer.
            score: of each candidate, -inf where there are fewer.
            own: number of each row itself; all images in order where partners are chosen.
            chance: a number in [0, 1) for each row, by which it draws.
        """
        raise NotImplementedError

    def candidates(self, found: Found, queries: Queries, plane: int) -> tuple[Int[Tensor, "q k"], Float[Tensor, "q k"]]:
        """What the queries of a plane choose from in a step, and its scores, best first: the entries found."""
        return found.index, found.similarity

    def match(self, queries: Queries, memory: Memory) -> tuple[Int[Tensor, "p q"], Float[Tensor, "p q"]]:
        index, weight = [], []
        for plane, rows in enumerate(queries.rows):
            found = memory.search(rows, plane=plane, k=self.n_candidates)
            nearest = found.index[:, 0]
            own = torch.full_like(nearest, ITSELF)
            chosen = self.choose(*self.candidates(found, queries, plane), own, queries.chance[plane])
            index.append(torch.where(chosen >= 0, chosen, nearest))
            weight.append((chosen >= 0).float())
        return torch.stack(index), torch.stack(weight)


def others(
    index: Int[Tensor, "n k"], score: Float[Tensor, "n k"], own: Int[Tensor, " n"]
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The candidates without the row itself, best first, index -1 and score -inf where there are no more."""
    score, order = score.masked_fill(index == own[:, None], -torch.inf).sort(dim=1, descending=True, stable=True)
    return index.gather(1, order).where(score > -torch.inf, -1), score
