"""How the weights of pairs are brought to sum 1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sslkit import distributed
from sslkit.distributed import Scope


def mass(weight: Float[Tensor, " n"], scope: Scope) -> Float[Tensor, ""]:
    """What weights are divided by: their sum on this rank, or the mean over ranks of that sum.

    Gradients are averaged over ranks, so dividing by the mean makes every pair of the whole batch weigh the same.
    """
    total = weight.sum()
    return distributed.total(total) / distributed.world_size() if scope == "all" else total


def over(weight: Float[Tensor, " n"], scope: Scope) -> Float[Tensor, " n"]:
    """Weights divided by their mass; zero where there is none."""
    total = mass(weight, scope)
    return weight / torch.where(total > 0, total, 1.0)
