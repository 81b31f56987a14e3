"""Analytic patch positions against the authors' pooled coordinate maps."""

import torch

from sslkit.geometry import patch_positions
from sslkit.types import View


def test_positions_agree_inside_to_a_twentieth_of_a_pixel_and_at_the_border_to_their_interpolation(reference):
    z = reference("patch_positions.npz")
    top, left, height, width = z["boxes_top_left_height_width"].T.float()
    b, side = len(top), z["crop_size"] // z["patch_size"]
    view = View(
        pixels=torch.zeros(b, 3, 1, 1),
        box=torch.stack([left, top, width, height], dim=1),
        flip=z["flipped"].bool(),
        size=z["image_size"].flip(0).float().expand(b, 2),
    )
    ours = patch_positions(view, (side, side)).mT
    away = (ours - z["positions_xy"]).abs().unflatten(-1, (side, side))
    assert away.max() < 0.6
    assert away[..., 1:-1, 1:-1].max() < 0.05
