"""Views against torchvision and PIL given the same draws, and what their draws depend on."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as TF

from sslkit import geometry
from sslkit.augmenters import Crop, Crops, Recipe, colour
from sslkit.maskings import Blocks, Random
from sslkit.registry import components
from sslkit.types import Key, View

PLAIN = dict(flip_p=0, jitter_p=0, grayscale_p=0)
ALWAYS = dict(flip_p=1, jitter_p=1, grayscale_p=0, blur_p=1, solarise_p=1)
ORACLES = {
    "brightness": TF.adjust_brightness,
    "contrast": TF.adjust_contrast,
    "saturation": TF.adjust_saturation,
    "hue": TF.adjust_hue,
}


def picture(width: int = 96, height: int = 80, seed: int = 0) -> Image.Image:
    """Smooth shapes, edges and noise, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    smooth[height // 3 : height // 2, : width // 2] = (250, 20, 60)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


def planes(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()


def drawn(crop: Crop, n: int = 2000, size: tuple[int, int] = (480, 360)) -> list:
    return [crop.draw(size, Key(seed=3, epoch=0, index=i), 0) for i in range(n)]


# operations


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_jitter_is_torchvisions(name, factor):
    image = picture()
    x, operation = planes(image), getattr(colour, name)
    exact = ORACLES[name](x / 255, factor) * 255  # torchvision's grey weights have 4 digits
    torch.testing.assert_close(operation(x, factor), exact, atol=0.05, rtol=0)
    # PIL rounds the grey or the mean to whole levels and then cuts off the fraction
    assert (operation(x, factor) - planes(ORACLES[name](image, factor))).abs().max() < 1.5


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.07, 0.5])
def test_hue_is_torchvisions(turn):
    image = picture()
    exact = TF.adjust_hue(planes(image) / 255, turn) * 255
    torch.testing.assert_close(colour.hue(planes(image), turn), exact, atol=1e-2, rtol=0)
    gap = (colour.hue(planes(image), turn) - planes(TF.adjust_hue(image, turn))).abs()
    # PIL keeps the hue in steps of 6 levels for a saturated colour: one lost in the pixel, one in `turn` and one where
    # 255 wraps to 256; saturation and value lose one level each
    assert gap.max() < 3 * 6 + 2
    assert gap.mean() < 2


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.floats(-0.5, 0.5))
def test_hue_keeps_value_and_saturation_and_turns_back(rgb, turn):
    x = torch.tensor(rgb).float().view(3, 1, 1)
    turned = colour.hue(x, turn)
    torch.testing.assert_close(torch.stack(turned.aminmax()), torch.stack(x.aminmax()), atol=1e-2, rtol=0)
    torch.testing.assert_close(colour.hue(turned, -turn), x, atol=5e-2, rtol=0)


def test_grayscale_is_pils_to_half_a_level():
    image = picture()
    assert (colour.grayscale(planes(image)) - planes(TF.to_grayscale(image, 3))).abs().max() < 0.51


@pytest.mark.parametrize("threshold", [0, 60, 128, 256])
def test_solarise_is_pils(threshold):
    image = picture()
    assert colour.solarise(planes(image), threshold).equal(planes(ImageOps.solarize(image, threshold)))


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_blur_is_pils(radius):
    image = picture()
    gap = (colour.blur(planes(image), radius) - planes(image.filter(ImageFilter.GaussianBlur(radius)))).abs()
    assert gap.mean() < 1.2  # PIL rounds to whole levels after each of six passes
    m = 4 * int(radius + 1)
    assert gap[:, m:-m, m:-m].max() < 3.5


@given(st.floats(0.1, 10))
def test_a_blur_kernel_has_the_variance_of_its_gaussian(radius):
    side = colour.blur_kernel(radius)
    assert 2 * sum(side) - side[0] == pytest.approx(1)
    assert 2 * sum(w * i**2 for i, w in enumerate(side)) == pytest.approx(radius**2, rel=0.05)


@pytest.mark.parametrize("operation", [*ORACLES, "grayscale", "solarise", "blur"])
def test_an_operation_leaves_its_input_alone(operation):
    x = planes(picture())
    before = x.clone()
    getattr(colour, operation)(x, *([] if operation == "grayscale" else [0.4]))
    assert x.equal(before)


# whole views


def by_torchvision(image: Image.Image, crop: Crop, recipe: Recipe, jitters_on: Callable) -> torch.Tensor:
    """The levels that a recipe leads to, jitters applied to what `jitters_on` makes of the resized PIL image."""
    left, top, width, height = recipe.box
    size = [crop.size, crop.size]
    resized = TF.resized_crop(image, top, left, height, width, size, InterpolationMode.BICUBIC)
    x = jitters_on(TF.hflip(resized) if recipe.flip else resized)
    for name, factor in recipe.jitter:
        x = ORACLES[name](x, factor)
    x = v2.functional.rgb_to_grayscale(x, 3) if recipe.grayscale else x
    if isinstance(x, torch.Tensor):
        x = colour.blur(255 * x, recipe.blur_px) / 255 if recipe.blur_px else x
        return 255 * (TF.solarize(x, crop.solarise_threshold / 255) if recipe.solarise else x)
    x = x.filter(ImageFilter.GaussianBlur(recipe.blur_px)) if recipe.blur_px else x
    return planes(ImageOps.solarize(x, int(crop.solarise_threshold)) if recipe.solarise else x)


@pytest.mark.parametrize("index", range(12))
def test_a_view_is_what_torchvision_makes_of_the_same_draws(index):
    image, key = picture(150, 110, seed=index), Key(seed=0, epoch=1, index=index)
    crop = Crop(size=64, blur_p=0.5, solarise_p=0.3)
    recipe = crop.draw(image.size, key, view=0)
    levels = 255 * (crop(image, key).pixels * torch.tensor(crop.std)[:, None, None])
    levels += 255 * torch.tensor(crop.mean)[:, None, None]
    unrounded = by_torchvision(image, crop, recipe, TF.to_tensor)
    # torch's resize has weights of 16 bits: one level off in up to a third of the pixels, amplified by jitters
    assert (levels - unrounded).abs().mean() < 0.5
    assert (levels - unrounded).abs().max() < 4
    # PIL cuts off the fraction in three jitters (each up to 1 level, amplified by the next) and rounds in six blurs
    no_hue = dataclasses.replace(recipe, jitter=tuple(j for j in recipe.jitter if j[0] != "hue"))
    by_pil = by_torchvision(image, crop, no_hue, lambda x: x)
    shown = crop.render(torch.from_numpy(np.array(image)), no_hue).pixels
    shown = 255 * (shown * torch.tensor(crop.std)[:, None, None] + torch.tensor(crop.mean)[:, None, None])
    assert (shown - by_pil).abs().mean() < 3


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [16, 64, 224])
def test_a_plain_view_is_torchvisions_resized_crop_to_one_level(size, interpolation):
    image, crop = picture(), Crop(size=size, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1), **PLAIN)
    view = crop(image, Key(0, 0, 5))
    left, top, width, height = (int(n) for n in view.box)
    expected = TF.resized_crop(image, top, left, height, width, [size, size], InterpolationMode(interpolation))
    assert (255 * view.pixels - planes(expected)).abs().max() < 1.01
    assert view.pixels.is_contiguous()


def test_pixels_show_what_the_geometry_says():
    ramp = np.zeros((200, 240, 3), np.uint8)  # the levels are the pixel indices
    ramp[..., 0], ramp[..., 1] = np.arange(240), np.arange(200)[:, None]
    augment = Crops(global_crops=[Crop(size=64, jitter_p=0, grayscale_p=0, mean=(0, 0, 0), std=(1, 1, 1), n=6)])
    for view in augment([Image.fromarray(ramp)], Key(0, 0, 0)):
        shown = torch.nn.functional.avg_pool2d(255 * view.pixels[:2], 16).flatten(1).T
        assert (geometry.patch_positions(View.stack([view]), (4, 4))[0] - shown).abs().max() < 0.6


def test_both_probabilities_of_certainty_are_honoured():
    image, key = picture(), Key(0, 0, 0)
    never = Crop(size=32, scale=(1, 1), ratio=(1.2, 1.2), blur_p=0, solarise_p=0, **PLAIN)
    for i in range(30):
        nothing = never.draw(image.size, dataclasses.replace(key, index=i), 0)
        assert (nothing.flip, nothing.jitter, nothing.grayscale, nothing.blur_px, nothing.solarise) == (
            False,
            (),
            False,
            0,
            False,
        )
        everything = Crop(**{**ALWAYS, "grayscale_p": 1}).draw(image.size, dataclasses.replace(key, index=i), 0)
        assert everything.flip and everything.grayscale and everything.solarise
        assert len(everything.jitter) == 4 and 0.1 <= everything.blur_px <= 2
    mirrored = Crop(size=32, scale=(1, 1), ratio=(1.2, 1.2), jitter_p=0, grayscale_p=0, flip_p=1)
    assert mirrored(image, key).pixels.equal(never(image, key).pixels.flip(-1))
    gray = Crop(size=32, grayscale_p=1, mean=(0, 0, 0), std=(1, 1, 1))(image, key).pixels
    assert gray[0].equal(gray[1]) and gray[0].equal(gray[2])


# draws


def test_boxes_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    ours = np.array([r.box for r in drawn(Crop(**PLAIN), n=4000)], float)
    theirs = v2.RandomResizedCrop(224, scale=(0.25, 1.0))
    canvas = torch.zeros(3, 360, 480)
    params = [theirs.make_params([canvas]) for _ in range(4000)]
    expected = np.array([[p["left"], p["top"], p["width"], p["height"]] for p in params], float)

    def features(b: np.ndarray) -> np.ndarray:
        return np.column_stack([b, b[:, 2] * b[:, 3], np.log(b[:, 2] / b[:, 3])])

    for a, b in zip(features(ours).T, features(expected).T, strict=True):
        grid = np.sort(np.concatenate([a, b]))
        cdf = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b)]
        assert np.abs(cdf[0] - cdf[1]).max() < 0.036  # Kolmogorov-Smirnov at 1 in 100, one pair of fixed draws


def test_colour_draws_have_the_stated_rates_and_ranges():
    recipes = drawn(Crop(blur_p=0.1, solarise_p=0.2), n=3000)
    for share, p in (
        (np.mean([r.flip for r in recipes]), 0.5),
        (np.mean([bool(r.jitter) for r in recipes]), 0.8),
        (np.mean([r.grayscale for r in recipes]), 0.2),
        (np.mean([r.blur_px > 0 for r in recipes]), 0.1),
        (np.mean([r.solarise for r in recipes]), 0.2),
    ):
        assert share == pytest.approx(p, abs=0.03)
    jitters = [r.jitter for r in recipes if r.jitter]
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        factors = np.array([dict(j)[name] for j in jitters])
        assert low <= factors.min() and factors.max() <= high
        assert factors.mean() == pytest.approx((low + high) / 2, abs=0.02)
        assert factors.std() == pytest.approx((high - low) / 12**0.5, rel=0.05)
    orders, counts = np.unique([",".join(n for n, _ in j) for j in jitters], return_counts=True)
    assert len(orders) == 24 and counts.min() > len(jitters) / 24 / 2
    radii = np.array([r.blur_px for r in drawn(Crop(blur_p=1), n=2000)])
    assert radii.min() >= 0.1 and radii.max() <= 2 and radii.mean() == pytest.approx(1.05, abs=0.05)


def test_changing_one_probability_leaves_the_other_draws_alone():
    for a, b in zip(drawn(Crop(), 50), drawn(Crop(blur_p=1, solarise_p=1), 50), strict=True):
        assert a == dataclasses.replace(b, blur_px=0.0, solarise=False)


def test_a_mask_leaves_the_other_draws_alone():
    masked = Crop(masking=Blocks(p=1.0))
    for a, b in zip(drawn(Crop(), 50), drawn(masked, 50), strict=True):
        assert a.mask is None and b.mask is not None
        assert a == dataclasses.replace(b, mask=None)


def test_a_mask_is_drawn_by_its_key_and_its_view_alone():
    crop, key = Crop(size=64, masking=Random(patch_size=16)), Key(0, 1, 2)
    masks = [crop(picture(), key, view).mask for view in (0, 1)]
    assert not masks[0].equal(masks[1])
    assert crop(picture(200, 100), key, 0).mask.equal(masks[0])  # it is of the view, whatever the image
    again = Crop(size=64, masking=Random(patch_size=16), jitter_p=0, scale=(0.1, 0.2))
    assert again(picture(), key, 1).mask.equal(masks[1])
    for other in (Key(1, 1, 2), Key(0, 0, 2), Key(0, 1, 3)):
        assert not crop(picture(), other, 0).mask.equal(masks[0])


def test_only_the_kinds_that_are_masked_have_masks_and_these_lie_on_the_patch_grid():
    augment = Crops(global_crops=[Crop(size=64, masking=Blocks(8), n=2)], local_crops=[Crop(size=32)])
    items = [augment([picture()], Key(0, 0, index)) for index in range(5)]
    shapes = [[None if v.mask is None else tuple(v.mask.shape) for v in views] for views in items]
    assert shapes == [[(64,), (64,), None]] * 5
    batched = [View.stack(views) for views in zip(*items, strict=True)]
    assert batched[0].mask.shape == (5, 64) and batched[0].mask.dtype == torch.bool and batched[2].mask is None
    assert batched[0].mask[3].equal(items[3][0].mask)


def test_a_mask_moves_with_its_view():
    view = Crop(size=32, masking=Random(8))(picture(), Key(0, 0, 0))
    assert view.to("meta").mask.is_meta
    assert Crop(size=32)(picture(), Key(0, 0, 0)).to("meta").mask is None


def test_views_of_which_only_some_have_a_mask_are_not_stacked():
    views = [Crop(size=32, masking=masking)(picture(), Key(0, 0, 0)) for masking in (Random(8), None)]
    with pytest.raises(ValueError, match="1 of 2 views have a mask"):
        View.stack(views)


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 10**6), st.sampled_from([(0.05, 0.25), (0.25, 1.0)]))
def test_a_box_is_inside_its_image(width, height, index, scale):
    left, top, w, h = Crop(scale=scale).draw((width, height), Key(0, 0, index), 0).box
    assert left >= 0 and top >= 0 and w >= 1 and h >= 1 and left + w <= width and top + h <= height


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5000, 3), (3, 5000), (2, 2)])
def test_an_image_of_odd_size_has_views(size):
    for view in Crops(global_crops=[Crop(size=32, n=3, **ALWAYS)])(
        [Image.new("RGB", size, (9, 200, 30))], Key(0, 0, 0)
    ):
        assert view.pixels.shape == (3, 32, 32) and view.pixels.isfinite().all()
        assert view.size.tolist() == list(size)


# items

PAIR_AND_LOCALS = dict(
    global_crops=[Crop(size=48, blur_p=1.0), Crop(size=48, blur_p=0.1, solarise_p=0.2)],
    local_crops=[Crop(size=24, scale=(0.05, 0.25), n=2), Crop(size=16, scale=(0.05, 0.25))],
)


def test_views_come_globals_first_with_their_own_sizes_and_records():
    augment = Crops(**PAIR_AND_LOCALS)
    views = augment([picture()], Key(0, 0, 0))
    assert augment.n_global == 2
    assert [v.pixels.shape for v in views] == [(3, n, n) for n in (48, 48, 24, 24, 16)]
    assert len({tuple(v.box.tolist()) for v in views}) == 5
    for v in views:
        assert (v.pixels.dtype, v.box.dtype, v.flip.dtype, v.size.dtype) == (
            torch.float32,
            torch.float32,
            torch.bool,
            torch.float32,
        )
        assert v.flip.shape == () and v.size.tolist() == [96, 80]
    batch = View.stack([views[0], views[1]])
    assert batch.pixels.shape == (2, 3, 48, 48) and batch.flip.shape == (2,)


def test_a_partner_fills_the_views_of_its_source():
    one, two = picture(), Image.new("RGB", (50, 70), (255, 255, 255))
    augment = Crops(global_crops=[Crop(size=32), Crop(size=32, source=1, jitter_p=0)])
    views = augment([one, two], Key(0, 0, 4))
    assert [v.source for v in views] == [0, 1]
    assert views[1].size.tolist() == [50, 70]
    assert views[1].pixels.flatten(1).std(dim=1).max() < 1e-5
    with pytest.raises(ValueError, match=r"1 images.*source=1"):
        augment([one], Key(0, 0, 4))


def digest(key: Key) -> int:
    views = Crops(**PAIR_AND_LOCALS)([picture()], key)
    return zlib.crc32(b"".join(v.pixels.numpy().tobytes() + v.box.numpy().tobytes() for v in views))


def test_views_depend_on_their_key_alone():
    keys = [Key(seed=s, epoch=e, index=i) for s in (0, 1) for e in (0, 1) for i in (0, 1)]
    forward = {key: digest(key) for key in keys}
    torch.manual_seed(1)
    np.random.seed(1)
    assert {key: digest(key) for key in reversed(keys)} == forward
    assert len(set(forward.values())) == len(keys)


def test_another_process_makes_the_same_views():
    key = Key(seed=5, epoch=2, index=11)
    program = f"from test_augmenters import Key, digest; print(digest({key!r}))"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert printed.returncode == 0, printed.stderr
    assert int(printed.stdout) == digest(key)


def test_an_augmenter_survives_a_pickle():
    augment = Crops(**PAIR_AND_LOCALS)
    again = pickle.loads(pickle.dumps(augment))
    for a, b in zip(augment([picture()], Key(0, 0, 1)), again([picture()], Key(0, 0, 1)), strict=True):
        assert a.pixels.equal(b.pixels) and a.box.equal(b.box)


# errors


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(size=0), "size=0"),
        (dict(size=-3), "size=-3"),
        (dict(scale=(0.5, 0.2)), r"scale=\(0.5, 0.2\)"),
        (dict(scale=(0, 1)), r"scale=\(0, 1\)"),
        (dict(scale=(0.5, 1.5)), "scale=.*above 0 and at most 1"),
        (dict(ratio=(2,)), "ratio="),
        (dict(interpolation="cubic"), "interpolation='cubic'.*bicubic"),
        (dict(flip_p=1.5), "flip_p=1.5.*from 0 to 1"),
        (dict(blur_p=-0.1), "blur_p=-0.1"),
        (dict(brightness=-1), "brightness=-1"),
        (dict(hue=0.6), r"hue=0.6.*0.5"),
        (dict(blur_px=(2, 1)), "blur_px="),
        (dict(solarise_threshold=300), "solarise_threshold=300"),
        (dict(std=(1, 0, 1)), "std=.*above 0"),
        (dict(mean=(1, 0)), "mean="),
        (dict(std=(1, 1)), "std="),
        (dict(size=31.5), "size=31.5.*whole"),
        (dict(source=-1), "source=-1"),
        (dict(n=0), "n=0"),
    ],
)
def test_a_wrong_argument_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Crop(**wrong)


def test_wrong_crops_and_images_are_named():
    with pytest.raises(ValueError, match="global_crops"):
        Crops(global_crops=[])
    with pytest.raises(TypeError, match=r"local_crops.*Crop"):
        Crops(global_crops=[Crop()], local_crops=[96])
    with pytest.raises(ValueError, match="'L'"):
        Crops(global_crops=[Crop()])([Image.new("L", (10, 10))], Key(0, 0, 0))


def test_both_are_registered():
    assert {"Crop": Crop, "Crops": Crops}.items() <= components("augmenters").items()
