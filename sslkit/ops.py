"""Pure tensor functions that more than one component needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit import precision
from sslkit.precision import wide

AT_ONCE = 2**22  # similarities that are looked at together


def scalings(
    scores: Float[Tensor, "*b n k"],
    row_mass: Float[Tensor, "*b n"],
    column_mass: Float[Tensor, "*b k"],
    n_rounds: int,
    *,
    total: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[Float[Tensor, "*b n k"], Float[Tensor, "*b n"], Float[Tensor, "*b k"]]:
    """The kernel `exp(scores)` up to a factor per row, and the factors that give its rows and columns their masses.

    Each round finds row factors, then column factors, so the columns are exact and the rows nearly so. The kernel is
    never rescaled: two matrix-vector products make a round.

    Args:
        total: adds up column sums over ranks, where rows are spread over them.

    Source: Cuturi 2013 (arXiv:1306.0895).
    """
    tiny = torch.finfo(scores.dtype).tiny
    kernel = (
        scores - scores.amax(dim=-1, keepdim=True)
    ).exp()  # the factor that this takes off a row is in its scaling
    row, column = row_mass[..., None], torch.ones_like(column_mass)[..., None]
    for _ in range(n_rounds):
        row = row_mass[..., None] / (kernel @ column).clamp(min=tiny)
        column = column_mass[..., None] / total(kernel.mT @ row).clamp(min=tiny)
    return kernel, row[..., 0], column[..., 0].clamp(min=tiny)


def sinkhorn(
    scores: Float[Tensor, "*b n k"],
    row_mass: Float[Tensor, "*b n"],
    column_mass: Float[Tensor, "*b k"],
    n_rounds: int,
) -> Float[Tensor, "*b n k"]:
    """The transport plan `exp(scores + u + v)` whose columns have the given masses, and its rows nearly so."""
    kernel, row, column = scalings(scores, row_mass, column_mass, n_rounds)
    return kernel * row[..., None] * column[..., None, :]


def pool(tokens: Float[Tensor, "*b n d"], assignment: Float[Tensor, "*b n k"]) -> Float[Tensor, "*b k d"]:
    """Sum of the tokens of each cluster, weighted by the assignment: their mean where columns sum to 1."""
    return assignment.mT @ tokens


def per_column(assignment: Float[Tensor, "*b n k"]) -> Float[Tensor, "*b n k"]:
    """The assignment with every non-empty column scaled to sum 1; empty ones stay zero."""
    mass = assignment.sum(dim=-2, keepdim=True)
    return assignment / torch.where(mass > 0, mass, 1.0)


def one_hot(labels: Int[Tensor, "*b n"], k: int) -> Float[Tensor, "*b n k"]:
    """Labels as a float assignment."""
    return torch.zeros(*labels.shape, k, device=labels.device).scatter_(-1, labels[..., None], 1.0)


def draw(scores: Float[Tensor, "n k"], temperature: float, chance: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A place in each row with the probabilities `softmax(scores / temperature)`: where their sum passes `chance`.

    Chances are in [0, 1). Places of score -inf are never drawn; a row of nothing else gives place 0.
    """
    ahead = scores - scores.amax(
        dim=1, keepdim=True
    )  # before it is divided, so that a small temperature is no overflow
    mass = (ahead.double() / temperature).softmax(dim=1).cumsum(dim=1)
    return (mass <= chance[:, None] * mass[:, -1:]).sum(dim=1)  # a mass that is NaN is not below anything


def nearest(
    queries: Float[Tensor, "q d"], bank: Float[Tensor, "m d"], among: Bool[Tensor, " m"] | None = None
) -> Int[Tensor, " q"]:
    """Index of the bank row of largest cosine similarity to each query, in float32 or wider, among those allowed.

    Some queries are compared at a time, so that memory does not grow with queries times rows.
    """
    found = []
    with precision.full(queries.device):
        queries, bank = F.normalize(wide(queries), dim=-1), F.normalize(wide(bank), dim=-1)
        for part in queries.split(max(1, AT_ONCE // max(1, len(bank)))):
            scores = part @ bank.to(part.dtype).mT
            found.append((scores if among is None else scores.masked_fill(~among, -torch.inf)).argmax(dim=-1))
    return torch.cat(found)


def entropy(p: Float[Tensor, "*n c"]) -> Float[Tensor, "*n"]:
    """Of distributions, in nats."""
    return -torch.xlogy(p, p).sum(dim=-1)


def gram(rows: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b m m"]:
    """The smaller of `rows @ rows.mT` and `rows.mT @ rows`, in float64: both have the squared singular values."""
    rows = rows.double()  # roots of what float32 rounds are a thousandth of the largest, too many to be passed over
    return rows @ rows.mT if rows.shape[-2] < rows.shape[-1] else rows.mT @ rows


def effective_rank(gram: Float[Tensor, "*b m m"]) -> Float[Tensor, "*b"]:
    """How many directions rows use evenly, from their `gram`: exp(entropy of the normalised singular values).

    From 1 to the rank; 0 where all rows are zero. Nothing is subtracted: centre the rows, or not.

    Source: Roy and Vetterli 2007, The effective rank.
    """
    squared = torch.linalg.eigvalsh(gram)  # rising
    floor = squared[..., -1:] * squared.shape[-1] * torch.finfo(squared.dtype).eps
    values = squared.where(squared > floor, 0.0).sqrt()
    total = values.sum(dim=-1)
    return entropy(values / total.where(total > 0, 1.0)[..., None]).exp().where(total > 0, 0.0)
