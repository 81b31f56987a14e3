"""Which patches of a view are compared, and with the vector of which image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
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


def with_images(
    step: Step, patches: Features, views: Sequence[tuple[int, int]], n_positions: int | None
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Rows of patches, the rows of the image vectors that they are compared with, and weights of sum 1.

    Pairs of views weigh the same, and so do the patches of a view.

    Args:
        patches: the features that the patches are of.
        views: of the patches and of the image vector.
    """
    b, device = len(step.batch.index), step.batch.index.device
    item = torch.arange(b, device=device)[:, None]
    patch, image, weight = [], [], []
    for here, there in views:
        places = drawn(step, patches, here, n_positions)
        patch.append(rows_of(patches, here, places).flatten())
        image.append((there * b + item).expand_as(places).flatten())
        weight.append(torch.full((places.numel(),), 1 / (len(views) * places.numel()), device=device))
    return torch.cat(patch), torch.cat(image), torch.cat(weight)
