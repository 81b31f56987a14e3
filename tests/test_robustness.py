import colorsys
import io
import math
import runpy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from sslkit import config
from sslkit.datasets import Scenes
from sslkit.errors import NotFinite
from sslkit.evaluate import Adversarial, Corruptions, InternalMasking, LinearProbe, Robustness
from sslkit.evaluate.base import evaluating
from sslkit.evaluate.perturbations import Perturbation, Shown
from sslkit.evaluate.perturbations.adversarial import ascend
from sslkit.evaluate.perturbations.corruptions import boxes, disc, looked_up, poisson
from sslkit.evaluate.pixels import normalised, to_levels
from tests.conftest import ROOT
from tests.labelled import SIDE, noise, of_one_colour_a_class, pixels_as_they_are

CORRUPTIONS = Corruptions().kinds
NOISE = ("gaussian_noise", "shot_noise", "impulse_noise")
DRAWN = (*NOISE, "glass_blur", "motion_blur")
BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")


def shown(levels, *, index=None, truth=None, seed=0, classify=None):
    n = len(levels)
    index, truth = (torch.arange(n) if x is None else torch.as_tensor(x) for x in (index, truth))
    right = torch.ones(n, dtype=torch.bool) if classify is None else classify(levels).argmax(dim=1) == truth
    return Shown(levels, truth, right, index, seed)


def scenes(n=6, size=64):
    data = Scenes(n_images=n, size=size, objects=(1, 1), seed=3)
    return torch.stack([to_levels(data[i].image, size) for i in range(n)])


def squares(n, height, width, *, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def corrupted(images, kind, severity):
    return Corruptions()(images, kind, severity, unused)


def unused(levels):
    raise AssertionError("a perturbation that is no attack looks at no classifier")


# --- corruptions


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_images_are_further_from_themselves_at_each_severity(kind):
    images = shown(scenes())
    distance = [(corrupted(images, kind, s) - images.levels).square().mean().item() for s in range(1, 6)]
    if kind == "glass_blur":  # the second severity shuffles once, the first twice
        assert distance[0] < distance[2] and distance[1:] == sorted(distance[1:])
    else:
        assert distance[0] > 0 and distance == sorted(distance) and len(set(distance)) == 5


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("size", [(33, 47), (64, 64), (9, 8), (2, 5)])
def test_images_of_any_size_keep_it_and_their_range(kind, size):
    levels = squares(3, *size)
    for severity in (1, 5):
        found = corrupted(shown(levels), kind, severity)
        assert found.shape == levels.shape and found.dtype == levels.dtype
        assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_what_becomes_of_an_image_does_not_depend_on_the_others_of_its_batch(kind):
    levels, index = squares(5, 20, 23), torch.tensor([4, 40, 0, 7, 8])
    expected = corrupted(shown(levels, index=index), kind, 3)
    for order in ([3], [4, 2], [1, 0, 3, 2, 4]):
        found = corrupted(shown(levels[order], index=index[order]), kind, 3)
        torch.testing.assert_close(found, expected[order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_number_of_an_image_and_the_seed_decide_what_is_drawn_for_it(kind):
    levels = squares(1, 20, 23).expand(2, -1, -1, -1)
    state = torch.get_rng_state()
    one, other = corrupted(shown(levels, index=[3, 4]), kind, 3)
    again, _ = corrupted(shown(levels, index=[3, 9]), kind, 3)
    seeded, _ = corrupted(shown(levels, index=[3, 9], seed=1), kind, 3)
    assert torch.equal(one, again)
    assert torch.equal(one, other) == torch.equal(one, seeded) == (kind not in DRAWN)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_drawn_twice():
    asked = []

    class Recording(Shown):
        def uniform(self, n, use):
            asked.append(use)
            return super().uniform(n, use)

    right = torch.ones(2, dtype=torch.bool)
    images = Recording(squares(2, 9, 9), torch.tensor([0, 1]), right, torch.tensor([0, 1]), 0)
    for kind in CORRUPTIONS:
        corrupted(images, kind, 3)
    masked(images, "random", 0.5)
    plane = Plane((9, 9))
    Adversarial()(replace(images, truth=plane(images.levels).argmax(dim=1)), "pgd", 1.0, plane)
    assert len(asked) == len(set(asked)) == 3 + 3 + 1 + 1 + 1  # noise, glass in three rounds, motion, masks, starts


@pytest.mark.parametrize("kind", [*BLURS, "contrast", "pixelate"])
def test_an_image_of_one_colour_cannot_be_blurred(kind):
    levels = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(1, 3, 40, 33)
    torch.testing.assert_close(corrupted(shown(levels), kind, 5), levels)


def test_contrast_keeps_the_mean_of_every_channel_and_shrinks_the_rest():
    levels = squares(2, 21, 30)
    mean = levels.mean(dim=(2, 3), keepdim=True)
    for severity, share in zip(range(1, 6), (0.4, 0.3, 0.2, 0.1, 0.05), strict=True):
        found = corrupted(shown(levels), "contrast", severity)
        torch.testing.assert_close(found.mean(dim=(2, 3), keepdim=True), mean)
        torch.testing.assert_close(found - mean, share * (levels - mean), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "zoom_blur", "pixelate"])
def test_what_is_even_at_the_borders_keeps_its_mean(kind):
    levels = torch.full((1, 3, 80, 80), 0.5)
    levels[:, :, 30:50, 30:50] = squares(1, 20, 20)
    for severity in (2, 5):  # pixelated by whole numbers
        found = corrupted(shown(levels), kind, severity)
        # glass and zoom weigh pixels unequally
        tolerance = 2e-3 if kind in ("glass_blur", "zoom_blur") else 1e-5
        assert found.mean().item() == pytest.approx(levels.mean().item(), abs=tolerance)


@pytest.mark.parametrize("severity, deviation", list(zip(range(1, 6), (0.08, 0.12, 0.18, 0.26, 0.38), strict=True)))
def test_gaussian_noise_is_normal_up_to_where_it_is_cut(severity, deviation):
    found = corrupted(shown(torch.full((4, 3, 60, 60), 0.5)), "gaussian_noise", severity).flatten() - 0.5
    normal = torch.distributions.Normal(0.0, deviation)
    for edge in (-0.4, -deviation, -0.05, 0.0, 0.1, deviation, 0.45):
        below = normal.cdf(torch.tensor(edge)).item()
        slack = 4 * math.sqrt(below * (1 - below) / len(found)) + 1e-9
        assert (found < edge).float().mean().item() == pytest.approx(below, abs=slack)


def test_the_noise_of_two_severities_differs_by_its_scale_alone():
    images = shown(torch.full((1, 3, 20, 20), 0.5))
    weak, strong = (corrupted(images, "gaussian_noise", s) - 0.5 for s in (1, 2))
    inside = strong.abs() < 0.5
    torch.testing.assert_close(strong[inside], weak[inside] * 1.5, atol=1e-6, rtol=0)


def poisson_by_loop(rate, chance):
    """The smallest count up to which the distribution has more than this chance."""
    part = below = math.exp(-rate)
    n = 0
    while below <= chance:
        n += 1
        part *= rate / n
        below += part
    return n


@pytest.mark.parametrize("most", [3, 12, 60])
def test_poisson_counts_equal_a_loop(most):
    draw = torch.Generator().manual_seed(0)
    rate = torch.cat([torch.tensor([0.0, most, most]), torch.rand(300, generator=draw) * most]).double()
    chance = torch.cat([torch.tensor([0.9, 0.0, 1 - 2**-24]), torch.rand(300, generator=draw)]).double()
    expected = [poisson_by_loop(r, c) for r, c in zip(rate.tolist(), chance.tolist(), strict=True)]
    assert poisson(rate, chance, most=most).tolist() == expected


@pytest.mark.parametrize("severity, counts", list(zip(range(1, 6), (60, 25, 12, 5, 3), strict=True)))
def test_shot_noise_has_the_mean_and_the_variance_of_counted_light(severity, counts):
    level = 0.3
    found = corrupted(shown(torch.full((4, 3, 60, 60), level)), "shot_noise", severity).flatten()
    assert ((found * counts).round() - found * counts).abs().max() < 1e-4
    n = len(found)
    cut = 0.01 if counts < 12 else 1e-4  # counts above those of white are cut off
    assert found.mean().item() == pytest.approx(level, abs=4 * math.sqrt(level / counts / n) + cut)
    assert found.var().item() == pytest.approx(level / counts, rel=0.15 if counts < 12 else 0.05)


@pytest.mark.parametrize("severity, share", list(zip(range(1, 6), (0.03, 0.06, 0.09, 0.17, 0.27), strict=True)))
def test_impulse_noise_makes_as_many_levels_black_as_white(severity, share):
    levels = 0.1 + 0.8 * squares(4, 60, 60)
    found = corrupted(shown(levels), "impulse_noise", severity)
    slack = 4 * math.sqrt(share / 2 / levels.numel())
    for level in (0, 1):
        assert (found == level).float().mean().item() == pytest.approx(share / 2, abs=slack)
    left = (found != 0) & (found != 1)
    assert torch.equal(found[left], levels[left])


def test_a_disc_is_round_has_the_area_of_its_radius_and_is_a_point_where_that_is_small():
    for radius in (0.0, 0.3, 0.5):
        assert disc(radius, "cpu").tolist() == [[1.0]]
    for radius in (0.9, 2.0, 2.86, 10.0):
        weight = disc(radius, "cpu")
        assert weight.sum().item() == pytest.approx(1)
        assert torch.equal(weight, weight.mT) and torch.equal(weight, weight.flip(0))
        assert 1 / weight.max().item() == pytest.approx(math.pi * radius**2, rel=0.2 if radius < 1 else 0.06)
    assert disc(10.0, "cpu").shape == (21, 21)


@pytest.mark.parametrize("kind", ["defocus_blur", "motion_blur"])
def test_lengths_of_blurs_are_in_proportion_to_the_side(kind):
    spread = {}
    for side in (112, 224):
        point = torch.zeros(1, 3, side, side)
        point[:, :, side // 2, side // 2] = 1
        mass = corrupted(shown(point), kind, 5)[0, 0]
        place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).float()
        mean = (place * mass).sum(dim=(1, 2)) / mass.sum()
        variance = ((place - mean[:, None, None]).square().sum(dim=0) * mass).sum() / mass.sum()
        spread[side] = variance.sqrt().item()
    assert spread[224] == pytest.approx(2 * spread[112], rel=0.03)


def test_motion_leaves_a_trail_to_one_side_along_the_angle_that_is_drawn():
    images = shown(torch.zeros(20, 3, 101, 101))
    images.levels[:, :, 50, 50] = 1
    angle = (images.uniform(1, "motion blur")[:, 0] - 0.5) * math.pi / 2
    place = torch.stack(torch.meshgrid(torch.arange(101) - 50, torch.arange(101) - 50, indexing="xy")).float()
    for mass, turn in zip(corrupted(images, "motion_blur", 4)[:, 0], angle.tolist(), strict=True):
        assert mass.sum().item() == pytest.approx(1, abs=1e-4)
        x, y = (place * mass).sum(dim=(1, 2)).tolist()  # pixels are looked up ahead, so the trail is behind
        assert math.atan2(-y, -x) == pytest.approx(turn, abs=0.01)
        assert math.hypot(x, y) > 3


def test_zooming_keeps_the_middle_and_looks_up_the_rest_nearer_to_it():
    levels = torch.zeros(1, 1, 9, 9)
    levels[..., :] = torch.arange(9.0)  # the level is the place
    x = torch.arange(9) - 4.0
    place = torch.stack(torch.meshgrid(x, x, indexing="xy"), dim=-1)[None]
    found = looked_up(levels, place * (1 / 2 - 1))
    torch.testing.assert_close(found[0, 0, 0], 4 + x / 2)


def test_pixels_are_looked_up_between_pixels_and_reflected_at_borders():
    row = torch.tensor([1.0, 5, 2, 8])
    levels = row.expand(1, 1, 3, 4)
    for shift, expected in {
        0.0: [1, 5, 2, 8],
        1.0: [5, 2, 8, 8],
        -2.0: [5, 1, 1, 5],
        0.5: [3, 3.5, 5, 8],
        0.25: [2, 4.25, 3.5, 8],
    }.items():
        found = looked_up(levels, torch.tensor([shift, 0.0]))
        torch.testing.assert_close(found[0, 0], row.new_tensor(expected).expand(3, 4), atol=1e-5, rtol=0)
    found = looked_up(levels.mT, torch.tensor([0.0, 1.0]))  # x comes first
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([5.0, 2, 8, 8]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side, n", [(8, 4), (7, 3), (5, 5), (64, 19), (9, 1)])
def test_boxes_share_every_pixel_out_once(side, n):
    weight = boxes(side, n)
    fine = 1000  # small parts of a pixel, each in one box
    counted = torch.zeros(n, side)
    for part in range(side * fine):
        counted[min(int((part + 0.5) / fine * n / side), n - 1), part // fine] += n / side / fine
    torch.testing.assert_close(weight, counted, atol=2 * n / side / fine, rtol=0)
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(n))


def test_pixelating_averages_squares():
    levels = squares(1, 12, 12)
    found = corrupted(shown(levels), "pixelate", 2)  # half as many
    torch.testing.assert_close(found, F.avg_pool2d(levels, 2).repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_brightness_raises_the_value_alone():
    levels = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    levels[0, :, 0, 0] = 0
    found = corrupted(shown(levels), "brightness", 2)
    for before, after in zip(levels[0].flatten(1).mT.tolist(), found[0].flatten(1).mT.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2)), abs=1e-5)


@pytest.mark.parametrize("severity, quality", list(zip(range(1, 6), (25, 18, 15, 10, 7), strict=True)))
def test_jpeg_is_what_is_stored_and_read_again(severity, quality):
    levels = scenes(2)
    stored = io.BytesIO()
    Image.fromarray((levels[1] * 255).round().byte().permute(1, 2, 0).numpy()).save(stored, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(stored))).permute(2, 0, 1) / 255
    assert torch.equal(corrupted(shown(levels), "jpeg", severity)[1], expected)


# --- masks


def masked(images, position, size):
    return InternalMasking()(images, position, size, unused)


@pytest.mark.parametrize("height, width", [(8, 8), (9, 12), (7, 5)])
@pytest.mark.parametrize("size", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("position", ["centre", "random"])
def test_a_square_is_hidden_and_nothing_else(height, width, size, position):
    levels = squares(20, height, width)
    found = masked(shown(levels), position, size)
    side = round(size * min(height, width))
    for before, after in zip(levels, found, strict=True):
        changed = (before != after).any(dim=0)
        rows, columns = changed.any(dim=1).nonzero()[:, 0], changed.any(dim=0).nonzero()[:, 0]
        assert changed.sum() == side**2 and len(rows) == len(columns) == side
        if side:
            top, left = int(rows[0]), int(columns[0])
            assert changed[top : top + side, left : left + side].all()
            assert position == "random" or (top, left) == ((height - side) // 2, (width - side) // 2)
            torch.testing.assert_close(normalised(after)[:, changed], torch.zeros(3, side**2))


def test_every_place_within_the_image_is_as_likely():
    levels = torch.ones(4000, 3, 6, 5)
    found = masked(shown(levels), "random", 0.6)[:, 0] != 1  # squares of 3 pixels, 4 x 3 places
    corner = [(int(m.any(dim=1).nonzero()[0]), int(m.any(dim=0).nonzero()[0])) for m in found]
    count = np.unique(corner, axis=0, return_counts=True)[1]
    assert len(count) == 12
    assert np.abs(count - 4000 / 12).max() < 4 * math.sqrt(4000 / 12)


def test_places_are_keyed_by_the_image_and_the_same_for_all_sizes():
    levels = torch.ones(4, 3, 40, 40)
    expected = masked(shown(levels, index=[5, 6, 7, 8]), "random", 0.3)
    assert torch.equal(masked(shown(levels[:2], index=[7, 6]), "random", 0.3), expected[[2, 1]])
    assert not torch.equal(expected[0], expected[1])
    larger = masked(shown(levels, index=[5, 6, 7, 8]), "random", 0.6)
    assert ((larger != 1) | (expected == 1)).all()  # a square at the same relative place holds the smaller


# --- attacks


class Plane:
    """Two classes, scored linearly in the levels."""

    def __init__(self, size, *, seed=0):
        self.weight = torch.randn(3 * size[0] * size[1], 2, generator=torch.Generator().manual_seed(seed)).double()

    def __call__(self, levels):
        return (levels - 0.5).flatten(1).double() @ self.weight

    def loss(self, levels, truth):
        return F.cross_entropy(self(levels), truth, reduction="none")


def pictures_right_of(classify, n=40, size=(6, 7)):
    levels = squares(n, *size)
    return shown(levels, truth=classify(levels).argmax(dim=1))


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
@pytest.mark.parametrize("radius", [0.5, 4.0, 60.0, 400.0])
def test_attacks_on_a_plane_find_the_worst_of_all_changes(kind, radius):
    plane = Plane((6, 7))
    images = pictures_right_of(plane)
    found = Adversarial()(images, kind, radius, plane)
    away = (plane.weight[:, 1] - plane.weight[:, 0]).sign().view(3, 6, 7).float()  # towards class 1
    worst = images.levels + radius / 255 * away * (1 - 2 * images.truth)[:, None, None, None]
    worst = worst.clamp(0, 1)  # each level by itself, so the clipped one is the worst of those allowed
    torch.testing.assert_close(found, worst, atol=1e-6, rtol=0)
    assert (plane.loss(found, images.truth) > plane.loss(images.levels, images.truth)).all()


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(4))


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
@pytest.mark.parametrize("radius", [0.0, 1.0, 30.0])
def test_no_level_leaves_the_radius_or_the_range(kind, radius):
    model = network()
    images = shown(squares(9, 6, 6), truth=[0, 1, 2, 3, 0, 1, 2, 3, 4], classify=model)
    found = Adversarial(n_steps=3, step=2.0)(images, kind, radius, model)
    assert (found - images.levels).abs().max() <= radius / 255 + 1e-6
    assert found.min() >= 0 and found.max() <= 1
    if radius == 0:
        assert torch.equal(found, images.levels)


def test_more_steps_do_more_harm_on_a_network():
    model = network()
    levels = squares(60, 6, 6)
    images = shown(levels, truth=model(levels).argmax(dim=1))

    def harm(kind, n_steps):
        found = Adversarial(n_steps=n_steps)(images, kind, 8.0, model)
        return F.cross_entropy(model(found), images.truth).item()

    assert F.cross_entropy(model(levels), images.truth).item() < harm("pgd", 2) < harm("pgd", 20)
    assert harm("fgsm", 1) < harm("pgd", 20)


def test_images_that_are_wrong_already_are_left_alone():
    plane = Plane((6, 7))
    right = pictures_right_of(plane)
    truth = torch.where(torch.arange(40) % 3 == 0, 1 - right.truth, right.truth)
    truth[:3] = torch.tensor([2, 2, 2])  # a class that the classifier does not have
    wrong = plane(right.levels).argmax(dim=1) != truth
    for kind in ("fgsm", "pgd"):
        found = Adversarial()(shown(right.levels, truth=truth, classify=plane), kind, 8.0, plane)
        changed = (found != right.levels).flatten(1).any(dim=1)
        assert torch.equal(changed, ~wrong)
    nobody = shown(right.levels, truth=torch.full((40,), 2), classify=plane)
    assert torch.equal(Adversarial()(nobody, "pgd", 8.0, plane), right.levels)


def test_starts_of_pgd_are_drawn_by_image_and_lie_within_the_radius():
    plane = Plane((6, 7))
    images = pictures_right_of(plane)
    levels = 0.2 + 0.6 * images.levels
    images = shown(levels, truth=plane(levels).argmax(dim=1))
    started = []

    def recording(levels):
        started.append(levels.detach())
        return plane(levels)

    attack = Adversarial(n_steps=1)
    expected = attack(images, "pgd", 8.0, recording)
    change = (started[0] - images.levels) * 255 / 8
    assert change.abs().max() <= 1 + 1e-5 and change.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.02)
    order = torch.tensor([7, 30, 2])
    some = shown(levels[order], truth=images.truth[order], index=order)
    torch.testing.assert_close(attack(some, "pgd", 8.0, plane), expected[order], atol=1e-6, rtol=0)
    assert not torch.equal(attack(replace(images, seed=1), "pgd", 8.0, plane), expected)


def test_a_step_goes_along_the_sign_of_the_gradient_and_nowhere_without_one():
    levels = torch.full((1, 3, 1, 1), 0.5)

    def first_up_second_down(x):
        return torch.stack([3 * x[:, 0] - x[:, 1], 0 * x[:, 0]], dim=1).flatten(1)

    found = ascend(levels, levels, torch.tensor([0]), first_up_second_down, radius=0.1, step=0.03, n_steps=2)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.44, 0.56, 0.5]))


# --- the protocol


class Counting(Perturbation):
    """Images as they are, or all black."""

    kinds, strengths = ("same", "black"), (1.0, 2.5)

    def __init__(self):
        self.images = []

    def __call__(self, shown, kind, strength, classify):
        self.images.append(shown)
        return shown.levels * (kind == "same")


def answer(perturbations, *, train=None, val=None, backbone=pixels_as_they_are, **changes):
    probe = LinearProbe(
        train=train or of_one_colour_a_class(60, 6, seed=1),
        val=val or of_one_colour_a_class(40, 6, seed=2),
        **dict(image_size=SIDE, penalties=(1e-2,)) | changes,
    )
    return Robustness(probe=probe, perturbations=perturbations)(backbone, "cpu")


def test_numbers_are_means_of_means_and_ratios_are_to_the_clean_accuracy():
    val = of_one_colour_a_class(40, 6, seed=2)
    val.labels[:8] = [5 - y for y in val.labels[:8]]  # all of these are wrong: 5 - y is never y
    found = answer({"one": Counting(), "other": InternalMasking(sizes=(0.0,))}, val=val)
    assert (found["accuracy"], found["n_val"]) == (0.8, 40)
    same, black = found["one"]["same"], found["one"]["black"]
    assert same["1"] == same["2.5"] == dict(robust_accuracy=0.8, ratio=1.0)
    chance = black["1"]["robust_accuracy"]
    assert chance in {val.labels.count(label) / 40 for label in range(6)}  # black images are all of one class
    assert black["robust_accuracy"] == black["2.5"]["robust_accuracy"] == pytest.approx(chance)
    assert black["ratio"] == pytest.approx(chance / 0.8)
    assert found["one"]["robust_accuracy"] == pytest.approx((0.8 + chance) / 2)
    assert found["other"]["centre"]["0"]["robust_accuracy"] == 0.8
    assert found["robust_accuracy"] == pytest.approx(((0.8 + chance) / 2 + 0.8) / 2)
    assert found["ratio"] == pytest.approx(found["robust_accuracy"] / 0.8)


def test_nothing_done_leaves_the_clean_accuracy_which_is_the_probes():
    train, val = noise(80, 3, seed=3), noise(50, 3, seed=4)
    found = answer({"no": Adversarial(radii=(0,)), "none": InternalMasking(sizes=(0,))}, train=train, val=val)
    probe = LinearProbe(train=train, val=val, image_size=SIDE, penalties=(1e-2,))
    expected = probe(pixels_as_they_are, "cpu")["accuracy"]
    assert 0 < expected < 1
    accuracies = [
        found["accuracy"],
        *(found["no"][kind]["0"]["robust_accuracy"] for kind in ("fgsm", "pgd")),
        *(found["none"][kind]["0"]["robust_accuracy"] for kind in ("centre", "random")),
    ]
    assert accuracies == [expected] * 5


def test_accuracy_equals_a_loop_over_images():
    train, val = of_one_colour_a_class(60, 6, seed=1), noise(30, 6, seed=5)
    masking = InternalMasking(sizes=(0.5,))
    found = answer({"masking": masking}, train=train, val=val)
    probe = LinearProbe(train=train, val=val, image_size=SIDE, penalties=(1e-2,))
    fitted = probe.fit(pixels_as_they_are, "cpu")
    for kind in ("centre", "random"):
        right = 0
        for i in range(30):
            sample = val[i]
            image = shown(to_levels(sample.image, SIDE)[None], index=[i])
            scores = fitted.classifier(pixels_as_they_are(normalised(masking(image, kind, 0.5, unused)))[0])
            right += fitted.classes[scores.argmax()].item() == sample.label
        assert found["masking"][kind]["0.5"]["robust_accuracy"] == right / 30


EVERYTHING = dict(
    corruptions=Corruptions(severities=(1, 4)),
    masking=InternalMasking(sizes=(0.25, 0.5)),
    adversarial=Adversarial(radii=(1.0, 8.0), n_steps=2),
)


@pytest.mark.parametrize("changes", [dict(batch_size=1), dict(batch_size=7), dict(n_workers=1)])
def test_neither_batches_nor_workers_change_the_result(changes):
    given = dict(train=noise(50, 3, seed=11), val=noise(30, 3, seed=12))
    assert answer(EVERYTHING, **given, **changes) == answer(EVERYTHING, **given)


def test_images_keep_their_number_when_only_some_are_used():
    whole, some = Counting(), Counting()
    answer({"all": whole})
    answer({"some": some}, n_val=11)
    drawn = some.images[0].index.tolist()
    assert len(drawn) == 11 and drawn != list(range(11))
    assert whole.images[0].index.tolist() == list(range(40))
    assert torch.equal(some.images[0].levels, whole.images[0].levels[drawn])


def test_the_training_images_are_read_once_and_never_perturbed():
    train, counting = of_one_colour_a_class(60, 6, seed=1), Counting()
    answer({"one": counting, "other": counting}, train=train)
    assert train.read == list(range(60))
    assert all(len(images.levels) == 40 for images in counting.images)


def test_without_a_right_image_there_is_no_ratio():
    val = of_one_colour_a_class(40, 6, seed=2)
    val.labels = [5 - y for y in val.labels]  # all of these are wrong: 5 - y is never y
    found = answer({"masking": InternalMasking(sizes=(0.5,))}, val=val)
    assert (found["accuracy"], found["robust_accuracy"], found["ratio"]) == (0, 0, None)


def test_features_that_are_no_numbers_are_refused_of_images_as_they_are_and_wrong_of_perturbed_ones():
    def broken(where):
        def backbone(pixels):
            image, patches, grid = pixels_as_they_are(pixels)
            return image.masked_fill(where(pixels)[:, None], torch.nan), patches, grid

        return backbone

    masking, middle = {"masking": InternalMasking(sizes=(0.5,), positions=("centre",))}, SIDE // 2
    found = answer(masking, backbone=broken(lambda pixels: pixels[:, 0, middle, middle] == 0))
    assert found["accuracy"] == 1 and found["robust_accuracy"] == 0
    with pytest.raises(NotFinite, match=r"NaN or infinite features of train\[0\]"):
        answer(masking, backbone=broken(lambda pixels: pixels[:, 0, 0, 0] < torch.inf))


def test_images_of_one_pixel_are_refused_by_corruptions_alone():
    with pytest.raises(ValueError, match="image_size=1, but an image of one pixel cannot be corrupted"):
        Corruptions().check(pixels_as_they_are, 1)
    tiny = shown(squares(2, 2, 2))
    for kind in CORRUPTIONS:
        assert corrupted(tiny, kind, 5).shape == (2, 3, 2, 2)


def test_strengths_that_differ_little_have_entries_of_their_own():
    found = answer({"masking": InternalMasking(sizes=(0.1234567, 0.1234568), positions=("centre",))})
    assert list(found["masking"]["centre"])[2:] == ["0.1234567", "0.1234568"]


class Small(nn.Module):
    """A backbone with a part that is frozen, and one that trains differently from how it is evaluated."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1)
        self.norm.eval()
        self.first.requires_grad_(False)

    def forward(self, pixels):
        maps = self.second(F.relu(self.norm(self.first(pixels))))
        return maps.mean(dim=(2, 3)), maps.flatten(2).mT, tuple(maps.shape[2:])


def test_modes_and_gradients_of_the_backbone_are_as_before_whatever_happens():
    backbone = Small().train()
    backbone.norm.eval()
    modes = [m.training for m in backbone.modules()]
    answer(EVERYTHING, backbone=backbone)
    with pytest.raises(RuntimeError, match="stop"), evaluating(backbone):
        assert not any(p.requires_grad for p in backbone.parameters())
        assert not any(m.training for m in backbone.modules())
        raise RuntimeError("stop")
    assert [m.training for m in backbone.modules()] == modes
    asks = {name: p.requires_grad for name, p in backbone.named_parameters()}
    assert {name for name, asked in asks.items() if not asked} == {"first.weight", "first.bias"}
    assert all(p.grad is None for p in backbone.parameters())


def test_a_backbone_that_passes_no_gradient_is_refused_before_the_run_where_it_would_be_attacked():
    def blind(pixels):
        return pixels_as_they_are(pixels.detach())

    probe = LinearProbe(train=noise(30, 3, seed=1), val=noise(9, 3, seed=2), image_size=SIDE)
    Robustness(probe=probe, perturbations={"masking": InternalMasking()}).check(blind)
    Robustness(probe=probe, perturbations={"attack": Adversarial()}).check(pixels_as_they_are)
    with pytest.raises(ValueError, match="the backbone passes no gradient to the pixels"):
        Robustness(probe=probe, perturbations={"attack": Adversarial()}).check(blind)


@pytest.mark.parametrize(
    "make, message",
    [
        (dict, r"perturbations=\{\}, but it must have one"),
        (lambda: {"ratio": InternalMasking()}, "a perturbation is called 'ratio', which is the name of a result"),
        (lambda: {"a": InternalMasking(sizes=())}, "the perturbation 'a' has no kind or no strength"),
        (lambda: {"a": Corruptions(kinds=())}, "the perturbation 'a' has no kind or no strength"),
        (lambda: {"a": Corruptions(kinds=("fog",))}, r"kinds=\('fog',\), but it must be made of 'gaussian_noise' or "),
        (lambda: {"a": Corruptions(severities=(0, 1))}, r"severities=\(0, 1\), but it must be made of numbers from 1"),
        (lambda: {"a": InternalMasking(sizes=(1.5,))}, r"sizes=\(1\.5,\), but it must be made of numbers from 0 to 1"),
        (lambda: {"a": InternalMasking(positions=("left",))}, r"positions=\('left',\)"),
        (lambda: {"a": Adversarial(radii=(-1.0,))}, r"radii=\(-1\.0,\), but it must be made of numbers at least 0"),
        (lambda: {"a": Adversarial(n_steps=0)}, "n_steps=0, but it must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        answer(make())


FEW = ("memory/datasets.Scenes.n_images = 24", "val/datasets.Scenes.n_images = 5", "Corruptions.severities = (5,)")


def test_the_protocol_of_objects_runs_without_data():
    settings = config.load(["gin/protocols/objects_robustness.gin"], [*FEW, "Adversarial.n_steps = 1"])
    protocol, backbone = settings.part("evaluation", "protocol"), Small()
    protocol.check(backbone)
    found = protocol(backbone, "cpu")
    assert list(found["corruptions"])[2:] == list(CORRUPTIONS)
    assert list(found["masking"]["centre"])[2:] == ["0.125", "0.25", "0.375", "0.5", "0.625"]
    assert list(found["adversarial"])[2:] == ["fgsm", "pgd"]


def test_the_protocols_of_objects_look_at_the_scenes_that_runs_on_objects_evaluate_on():
    ours = config.load(["gin/protocols/objects_linear.gin"]).part("evaluation", "protocol")
    theirs = config.load(["gin/byol.gin"]).part("train", "evaluations")["knn"]
    assert ours.image_size == theirs.image_size
    for mine, other in ((ours.train, theirs.train), (ours.val, theirs.val)):
        assert len(mine) == len(other)
        assert vars(mine.samples) == vars(other.samples)


def test_the_sheet_of_corruptions_has_a_row_for_each():
    sheet = runpy.run_path(str(ROOT / "docs" / "corruptions.py"))["sheet"]()
    with Image.open(ROOT / "docs" / "corruptions.png") as shown_in_the_docs:
        assert shown_in_the_docs.size == sheet.size
    assert sheet.height == 16 + len(CORRUPTIONS) * 68
