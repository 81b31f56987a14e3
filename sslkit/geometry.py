"""Where the patches of a view lie in the source image, from its crop box and flip alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit.types import View


def patch_positions(view: View, grid: tuple[int, int]) -> Float[Tensor, "b n 2"]:
    """Centre (x, y) of every patch in source pixel indices, row-major over `grid` (height, width).

    A crop of left edge x0 and width w seen on g columns has the centre of column q at x0 + w (q + 1/2) / g - 1/2,
    columns counted from the right when flipped. It equals the mean over a patch of a resampled map of pixel
    coordinates, as the authors of CrIBo compute it, up to their interpolation at the crop border.
    """
    h, w = grid
    box, device = view.box, view.box.device
    across = (torch.arange(w, device=device) + 0.5) / w
    x = torch.where(view.flip[:, None], 1 - across, across) * box[:, 2:3] + box[:, 0:1] - 0.5
    y = (torch.arange(h, device=device) + 0.5) / h * box[:, 3:4] + box[:, 1:2] - 0.5
    return torch.stack([x[:, None, :].expand(-1, h, -1), y[:, :, None].expand(-1, -1, w)], dim=-1).flatten(1, 2)


def patch_boxes(view: View, grid: tuple[int, int]) -> Float[Tensor, "b n 4"]:
    """(left, top, right, bottom) of every patch in source pixels, row-major over `grid`; pixel edges, not centres."""
    h, w = grid
    half = torch.stack([view.box[:, 2] / w, view.box[:, 3] / h], dim=-1)[:, None] / 2
    centre = patch_positions(view, grid) + 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def overlap(here: View, there: View, grid_here: tuple[int, int], grid_there: tuple[int, int]) -> Float[Tensor, "b n m"]:
    """Share of each patch of `here` that each patch of `there` covers, 0 to 1; rows sum to the share that is shared."""
    a, b = patch_boxes(here, grid_here)[:, :, None], patch_boxes(there, grid_there)[:, None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    return sides.prod(dim=-1) / (a[..., 2:] - a[..., :2]).prod(dim=-1)


def correspondence(
    here: View, there: View, grid_here: tuple[int, int], grid_there: tuple[int, int]
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """For each patch of `here` the patch of `there` that holds its centre, and whether there is one."""
    h, w = grid_there
    place = (patch_positions(here, grid_here) + 0.5 - there.box[:, None, :2]) / there.box[:, None, 2:]
    inside = ((place >= 0) & (place < 1)).all(dim=-1)
    x = torch.where(there.flip[:, None], 1 - place[..., 0], place[..., 0])
    column = (x * w).floor().long().clamp(0, w - 1)
    row = (place[..., 1] * h).floor().long().clamp(0, h - 1)
    return row * w + column, inside
