"""Geometry of views against resampled coordinate maps, slow loops and torchvision's key points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode, v2
from torchvision.tv_tensors import KeyPoints

from sslkit import geometry
from sslkit.types import View

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "patch_positions.npz"
WIDTH, HEIGHT = 120, 90


def view(box: tuple[float, ...], flip: bool = False) -> View:
    """A batch of one view, without pixels."""
    return View(torch.zeros(1, 3, 1, 1), torch.tensor([box]).float(), torch.tensor([flip]), torch.tensor([[120.0, 90]]))


@st.composite
def views(draw: st.DrawFn) -> View:
    width, height = draw(st.integers(4, WIDTH)), draw(st.integers(4, HEIGHT))
    left, top = draw(st.integers(0, WIDTH - width)), draw(st.integers(0, HEIGHT - height))
    return view((left, top, width, height), draw(st.booleans()))


grids = st.tuples(st.integers(1, 7), st.integers(1, 7))


def resampled_positions(v: View, grid: tuple[int, int], patch: int = 16) -> torch.Tensor:
    """The direct form: the map of pixel indices, cropped, resized, flipped and averaged over patches."""
    left, top, width, height = (int(n) for n in v.box[0])
    indices = torch.stack(torch.meshgrid(torch.arange(120.0), torch.arange(90.0), indexing="xy"))
    size = [grid[0] * patch, grid[1] * patch]
    seen = v2.functional.resized_crop(indices, top, left, height, width, size, InterpolationMode.BICUBIC)
    seen = seen.flip(-1) if v.flip[0] else seen
    return torch.nn.functional.avg_pool2d(seen, patch).flatten(1).T


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference arrays are not beside the repository")
def test_positions_are_those_of_the_authors_coordinate_map():
    arrays = np.load(REFERENCE)
    top, left, height, width = torch.from_numpy(arrays["boxes_top_left_height_width"]).float().unbind(1)
    expected = torch.from_numpy(arrays["positions_xy"]).mT
    side = int(arrays["crop_size"]) // int(arrays["patch_size"])
    batch = View(
        pixels=torch.zeros(len(top), 3, 1, 1),
        box=torch.stack([left, top, width, height], dim=1),
        flip=torch.from_numpy(arrays["flipped"]).bool(),
        size=torch.from_numpy(arrays["image_size"]).flip(0).float().expand(len(top), 2),
    )
    gap = (geometry.patch_positions(batch, (side, side)) - expected).abs().view(-1, side, side, 2)
    assert gap.max() < 0.6
    assert gap[:, 1:-1, 1:-1].max() < 0.05


@settings(max_examples=40, deadline=None)
@given(views(), grids)
def test_positions_are_the_mean_of_a_resampled_coordinate_map(v, grid):
    gap = (geometry.patch_positions(v, grid)[0] - resampled_positions(v, grid)).abs()
    edges = torch.cat([v.box[0, :2], v.box[0, :2] + v.box[0, 2:]])
    reach = 2 * torch.maximum(torch.ones(2), v.box[0, 2:] / 16 / torch.tensor(grid).flip(0))  # of the bicubic filter
    room = (geometry.patch_boxes(v, grid)[0] - edges).abs().view(-1, 2, 2).amin(dim=1)
    assert gap.max() < 0.6
    assert (gap * (room >= reach)).max() < 0.05


@settings(deadline=None)
@given(views(), grids)
def test_positions_are_where_torchvision_moves_the_patch_centres_from(v, grid):
    left, top, width, height = (int(n) for n in v.box[0])
    h, w = grid
    source = geometry.patch_positions(v, grid)[0] + 0.5  # pixel edges: torchvision scales key points about 0
    points = KeyPoints(source, canvas_size=(HEIGHT, WIDTH))
    seen = v2.functional.resized_crop(points, top, left, height, width, [h * 16, w * 16])
    if v.flip[0]:  # and flips them as pixel indices
        seen = v2.functional.horizontal_flip(KeyPoints(seen - 0.5, canvas_size=(h * 16, w * 16))) + 0.5
    y, x = torch.meshgrid(torch.arange(h) * 16 + 8.0, torch.arange(w) * 16 + 8.0, indexing="ij")
    torch.testing.assert_close(torch.as_tensor(seen), torch.stack([x, y], -1).view(-1, 2), atol=1e-3, rtol=0)


@given(views(), grids)
def test_patches_tile_the_box(v, grid):
    boxes = geometry.patch_boxes(v, grid)[0]
    left, top, width, height = v.box[0]
    torch.testing.assert_close(boxes.amin(0)[:2], torch.stack([left, top]), atol=1e-4, rtol=0)
    torch.testing.assert_close(boxes.amax(0)[2:], torch.stack([left + width, top + height]), atol=1e-4, rtol=0)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    torch.testing.assert_close(area.sum(), width * height, atol=0, rtol=1e-4)
    torch.testing.assert_close((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5, geometry.patch_positions(v, grid)[0])


@given(views(), grids)
def test_a_flip_reverses_the_columns(v, grid):
    mirrored = View(v.pixels, v.box, ~v.flip, v.size)
    here, there = (geometry.patch_positions(x, grid).view(*grid, 2) for x in (v, mirrored))
    torch.testing.assert_close(here, there.flip(1), atol=1e-4, rtol=0)


@given(views(), views(), grids, grids)
def test_overlap_rows_sum_to_the_share_of_the_patch_inside_the_other_box(here, there, grid, other):
    covered = geometry.overlap(here, there, grid, other)[0].sum(-1)
    a, (left, top, width, height) = geometry.patch_boxes(here, grid)[0], there.box[0]
    low, high = torch.maximum(a[:, :2], torch.stack([left, top])), torch.stack([left + width, top + height])
    shared = (torch.minimum(a[:, 2:], high) - low).clamp(min=0).prod(-1)
    torch.testing.assert_close(covered, shared / (a[:, 2:] - a[:, :2]).prod(-1), atol=1e-4, rtol=0)


@given(views(), views(), grids, grids)
def test_overlap_areas_are_the_same_from_both_sides(here, there, grid, other):
    def area(v, g):
        return v.box[0, 2] * v.box[0, 3] / (g[0] * g[1])

    one, two = geometry.overlap(here, there, grid, other)[0], geometry.overlap(there, here, other, grid)[0]
    torch.testing.assert_close(one * area(here, grid), (two * area(there, other)).T, atol=1e-2, rtol=1e-4)


@given(views(), views(), grids, grids)
def test_correspondence_finds_the_patch_a_slow_search_finds(here, there, grid, other):
    index, inside = geometry.correspondence(here, there, grid, other)
    boxes = geometry.patch_boxes(there, other)[0]
    for (x, y), found, known in zip(geometry.patch_positions(here, grid)[0] + 0.5, index[0], inside[0], strict=True):
        left, top, right, bottom = boxes.T
        slack = 1e-3  # a centre on the line between two patches belongs to either
        hits = (x > left - slack) & (x < right + slack) & (y > top - slack) & (y < bottom + slack)
        clearly = (x > left + slack) & (x < right - slack) & (y > top + slack) & (y < bottom - slack)
        assert not known or hits[found]
        assert known or not clearly.any()


@given(views(), grids)
def test_a_view_corresponds_with_itself(v, grid):
    index, inside = geometry.correspondence(v, v, grid, grid)
    assert inside.all()
    assert index[0].tolist() == list(range(grid[0] * grid[1]))
    torch.testing.assert_close(geometry.overlap(v, v, grid, grid)[0], torch.eye(len(index[0])), atol=1e-4, rtol=0)


def test_a_batch_is_its_single_views():
    one, two = view((3, 5, 40, 60)), view((0, 10, 90, 30), flip=True)
    both = View(*(torch.cat([getattr(v, n) for v in (one, two)]) for n in ("pixels", "box", "flip", "size")))
    alone = torch.cat([geometry.patch_positions(v, (4, 5)) for v in (one, two)])
    torch.testing.assert_close(geometry.patch_positions(both, (4, 5)), alone)
