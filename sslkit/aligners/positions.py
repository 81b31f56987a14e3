"""Which patches of a view are compared."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sslkit import draws
from sslkit.types import Features, Step


def drawn(step: Step, features: Features, view: int, n_positions: int | None) -> Int[Tensor, "b p"]:
    """Places on the grid of one view: all, or so many for each image, drawn anew in each epoch; all of a small view.

    Raises:
        ValueError: no view has so many patches.
    """
    sizes = [h * w for h, w in features.grids]
    if n_positions is not None and n_positions > max(sizes):
        raise ValueError(f"n_positions={n_positions}, but a view has only {max(sizes)} patches")
    n, index = sizes[view], step.batch.index
    if n_positions is None or n_positions >= n:
        return torch.arange(n, device=index.device).expand(len(index), n)
    return draws.distinct(step.batch.seed, step.batch.epoch, index, n, n_positions, f"positions {view}")


def rows_of(features: Features, view: int, places: Int[Tensor, "b p"]) -> Int[Tensor, "b p"]:
    """Where these patches of a view stand in `features.patch`."""
    sizes = [h * w for h, w in features.grids]
    b = len(places)
    item = torch.arange(b, device=places.device)[:, None]
    return b * sum(sizes[:view]) + item * sizes[view] + places
