import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sslkit import ops
from sslkit.monitors import pictures
from sslkit.types import Batch, Matches, Regions, Rows, Sample, View

GRID = (4, 4)


def view(n, *, left=10.0, flip=False, seed=0):
    return View(
        pixels=torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)),
        box=torch.tensor([left, 5.0, 40.0, 50.0]).expand(n, 4),
        flip=torch.full((n,), flip),
        size=torch.tensor([80.0, 60.0]).expand(n, 2),
    )


def batch_of(n=3):
    return Batch((view(n), view(n, left=30.0, flip=True, seed=1)), 2, torch.arange(n) + 7)


def regions_of(labels, k):
    assignment = ops.per_column(ops.one_hot(labels, k))  # v b n k
    valid = (assignment > 0).any(dim=2).all(dim=0)
    kept = valid.flatten().nonzero()[:, 0]
    item = (kept // k).repeat(len(labels))
    rows = Rows(
        rows=torch.zeros(len(item), 2),
        view=torch.arange(len(labels)).repeat_interleave(len(kept)),
        item=item,
        ids=item + 7,
        weight=torch.ones(len(item)),
    )
    return Regions(
        tuple(range(len(labels))),
        labels,
        assignment,
        valid,
        rows,
        rows,
        kept % k,
        torch.zeros(len(labels), len(kept), 2),
    )


def random_regions(n=3, k=5):
    return regions_of(torch.randint(0, k, (2, n, 16), generator=torch.Generator().manual_seed(2)), k)


def matches_of(regions, weight, ids=4):
    shape = (2, len(regions))
    return Matches(
        index=torch.zeros(shape, dtype=torch.long),
        weight=torch.full(shape, weight),
        rows=torch.zeros(*shape, 2),
        ids=torch.full(shape, ids),
        place=torch.full((*shape, 2), 20.0),
    )


class Asked(dict):
    def __missing__(self, index):
        self[index] = Sample(image=Image.new("RGB", (50, 40), (200, 30, 60)), index=index)
        return self[index]


def size_of(path):
    with Image.open(path) as image:
        image.load()
        assert len(image.convert("L").getcolors()) > 5  # something is drawn
        return image.size


def test_clusters_draws_a_row_for_each_image(tmp_path):
    few, more = tmp_path / "new" / "few.png", tmp_path / "more.png"
    pictures.clusters(batch_of(), random_regions(), (GRID, GRID), few, n_images=1)
    pictures.clusters(batch_of(), random_regions(), (GRID, GRID), more)
    assert size_of(few)[0] == size_of(more)[0]
    assert size_of(few)[1] < size_of(more)[1]


def test_a_view_of_the_partner_is_in_no_picture_of_regions(tmp_path):
    here, there = batch_of().views
    grids, names, asked = (GRID, (2, 2), GRID), ("one", "other"), Asked()
    regions = replace(random_regions(), views=(0, 2))
    for name, seed in zip(names, (4, 5), strict=True):
        batch = Batch((here, replace(view(3, seed=seed), source=1), there), 3, torch.arange(3) + 7)
        pictures.clusters(batch, regions, grids, tmp_path / f"clusters_{name}.png")
        pictures.matches(batch, regions, grids, matches_of(regions, 1.0), asked, tmp_path / f"matches_{name}.png")
    for kind in ("clusters", "matches"):
        one, other = (np.asarray(Image.open(tmp_path / f"{kind}_{name}.png")) for name in names)
        np.testing.assert_array_equal(one, other)


def test_a_region_has_one_colour_wherever_it_lies_and_no_two_share_one():
    valid = torch.ones(32, dtype=torch.bool)
    colors = pictures.region_colors(valid)
    assert len({tuple(c) for c in colors.tolist()}) == 32
    assert torch.cdist(colors[:8], colors[:8])[~torch.eye(8, dtype=torch.bool)].min() > 0.2

    image, here, there = np.zeros((40, 40, 3)), torch.zeros(4, 4).long(), torch.zeros(4, 4).long()
    here[0, 0], there[3, 3] = 2, 2
    drawn = [pictures.overlay(image, labels, valid) for labels in (here, there)]
    np.testing.assert_array_equal(drawn[0][4, 4], drawn[1][36, 36])
    np.testing.assert_array_equal(drawn[0][36, 36], drawn[1][4, 4])
    assert not np.allclose(drawn[0][4, 4], drawn[0][36, 36])


def test_invalid_clusters_are_grey_and_the_others_are_not():
    valid = torch.tensor([True, False, True])
    colors = pictures.region_colors(valid)
    assert colors[1].unique().numel() == 1
    assert all(colors[i].unique().numel() == 3 for i in (0, 2))
    image = np.random.default_rng(0).random((24, 24, 3))
    drawn = pictures.overlay(image, torch.ones(2, 2).long(), valid)
    assert np.ptp(drawn, axis=2).max() < 1e-12


def test_spotlight_keeps_the_region_and_takes_the_colour_of_the_rest():
    image = np.random.default_rng(0).random((40, 40, 3))
    lit = pictures.spotlight(image, torch.eye(2, dtype=torch.bool))
    np.testing.assert_array_equal(lit[:18, :18], image[:18, :18])
    assert np.ptp(lit[:18, 22:], axis=2).max() < 1e-12
    np.testing.assert_allclose(lit[10, 20], pictures.ACCENT)


@pytest.mark.parametrize("flip", [False, True])
def test_the_canvas_puts_a_view_back_where_it_was_cut(flip):
    cut = torch.zeros(1, 3, 2, 2)
    cut[..., 0] = 9.0  # clamps to white; the rest is near the mean colour
    size, box = torch.tensor([[224.0, 112.0]]), torch.tensor([[100.0, 20.0, 40.0, 40.0]])
    canvas = pictures._canvas([View(cut, box, torch.tensor([flip]), size)], 0)
    assert canvas.shape == (112, 224, 3)
    bright, dull = (130, 110) if flip else (110, 130)
    assert canvas[40, bright].min() == 1
    assert canvas[40, dull].max() < 0.6
    np.testing.assert_allclose(canvas[10, 120], 0.93)


def test_matches_asks_for_the_neighbours_of_accepted_regions_only(tmp_path):
    regions = random_regions()
    found = matches_of(regions, 0.0)
    found.weight[1, 2] = 0.7
    found.ids[1, 2] = 11
    images = Asked()
    pictures.matches(batch_of(), regions, (GRID, GRID), found, images, tmp_path / "one.png")
    assert list(images) == [11]
    size_of(tmp_path / "one.png")
    pictures.matches(batch_of(), regions, (GRID, GRID), matches_of(regions, 1.0), images, tmp_path / "all.png")
    assert size_of(tmp_path / "all.png")[1] > size_of(tmp_path / "one.png")[1]


def test_matches_shows_every_image_before_a_second_region_of_one_and_large_regions_first():
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 2).expand(2, 3, 16)
    regions = regions_of(labels, 3)
    chosen = pictures._spread(torch.ones(2, 9, dtype=torch.bool), regions, 5)
    assert [(int(regions.teacher.item[q]), int(regions.cluster[q])) for _, q in chosen[:3]] == [(0, 0), (1, 0), (2, 0)]
    assert len(set(chosen)) == 5


@pytest.mark.parametrize("weight, ids", [(0.0, 4), (1.0, -1)])
def test_no_accepted_match_gives_a_picture_that_says_so(tmp_path, weight, ids):
    regions, images = random_regions(), Asked()
    pictures.matches(batch_of(), regions, (GRID, GRID), matches_of(regions, weight, ids), images, tmp_path / "x.png")
    assert not images
    size_of(tmp_path / "x.png")


def test_a_batch_without_regions_can_be_drawn(tmp_path):
    labels = torch.stack([torch.zeros(3, 16), torch.ones(3, 16)]).long()
    regions = regions_of(labels, 2)
    assert len(regions) == 0
    pictures.clusters(batch_of(), regions, (GRID, GRID), tmp_path / "clusters.png")
    pictures.matches(batch_of(), regions, (GRID, GRID), matches_of(regions, 1.0), Asked(), tmp_path / "matches.png")
    size_of(tmp_path / "clusters.png")


def test_matches_refuses_what_was_not_found_for_these_regions(tmp_path):
    regions = random_regions()
    found = matches_of(regions, 1.0)
    other = Matches(found.index[:, 1:], found.weight, found.rows, found.ids, found.place)
    with pytest.raises(
        ValueError, match=f"found has {len(regions) - 1} queries, but they should be the {len(regions)}"
    ):
        pictures.matches(batch_of(), regions, (GRID, GRID), other, Asked(), tmp_path / "x.png")


def write(path, records, tail=""):
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    return path


def test_curves_groups_numbers_by_prefix_and_takes_the_last_of_a_repeated_step(tmp_path):
    records = [{"step": s, "loss/image": 9.0 - s, "loss/region": 5.0, "lr": 1.0, "note/x": "text"} for s in range(4)]
    records += [{"step": 3, "loss/image": 1.0}, {"step": 4, "dense/miou": 0.5, "loss/image": float("nan")}]
    path = write(tmp_path / "metrics.jsonl", records, tail='{"step": 5, "loss/im')
    found = pictures._read_curves(path)
    assert found == {
        "loss": {"image": {0: 9, 1: 8, 2: 7, 3: 1}, "region": dict.fromkeys(range(4), 5)},
        "dense": {"miou": {4: 0.5}},
    }
    pictures.curves(path, tmp_path / "curves.png")
    size_of(tmp_path / "curves.png")


def test_curves_says_so_when_there_is_nothing_to_draw_and_fails_on_a_broken_line(tmp_path):
    pictures.curves(tmp_path / "absent.jsonl", tmp_path / "absent.png")
    pictures.curves(write(tmp_path / "empty.jsonl", [{"step": 1}]), tmp_path / "empty.png")
    assert size_of(tmp_path / "absent.png") == size_of(tmp_path / "empty.png")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"step": \n{"step": 1, "loss/a": 1}\n')
    with pytest.raises(json.JSONDecodeError):
        pictures.curves(broken, tmp_path / "broken.png")


def test_long_curves_are_smoothed_without_moving_their_mean(tmp_path):
    y = np.random.default_rng(0).normal(size=500)
    smooth = pictures._smoothed(y, 5)
    assert smooth.std() < 0.5 * y.std()
    np.testing.assert_allclose(smooth[250], y[245:256].mean())
    np.testing.assert_allclose(pictures._smoothed(np.ones(9), 3), 1)
    path = write(tmp_path / "long.jsonl", [{"step": s, "loss/a": float(v)} for s, v in enumerate(y)])
    pictures.curves(path, tmp_path / "long.png")


def test_components_follow_the_directions_of_largest_variance():
    scale = torch.tensor([1.0, 9.0, 3.0, 0.1])
    patches = torch.randn(2, 200, 4, generator=torch.Generator().manual_seed(3)) * scale
    found = pictures.components(patches)
    assert found.shape == (2, 200, 3)
    assert found.min() == 0
    assert found.max() == 1
    for c, axis in enumerate((1, 2, 0)):
        pair = torch.stack([found[..., c].flatten(), patches[..., axis].flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.95
    assert pictures.components(patches[..., :2])[..., 2].eq(0.5).all()
    assert pictures.components(torch.ones(1, 5, 4)).isfinite().all()


@pytest.mark.parametrize("n", [1, 3])
def test_pca_draws_the_features_of_a_backbone(tmp_path, n):
    class Pooled(torch.nn.Module):
        def forward(self, pixels):
            assert not self.training
            cells = torch.nn.functional.avg_pool2d(pixels, 8)
            return cells.mean(dim=(2, 3)), cells.flatten(2).mT, tuple(cells.shape[2:])

    backbone = Pooled()
    pictures.pca(backbone, torch.randn(n, 3, 32, 48), tmp_path / "pca.png")
    size_of(tmp_path / "pca.png")
    assert backbone.training


def test_partners_are_drawn_with_the_neighbours_that_there_are(tmp_path):
    asked, images = Asked(), torch.tensor([3, 8])
    neighbours, similarity = torch.tensor([[3, 5], [9, -1]]), torch.tensor([[1.0, 0.9], [0.8, -torch.inf]])
    pictures.partners(images, neighbours, similarity, torch.tensor([5, 8]), asked, tmp_path / "partners.png")
    assert set(asked) == {3, 5, 8, 9}
    assert size_of(tmp_path / "partners.png")[0] > 800
