"""How many patches are hidden, and where."""

from __future__ import annotations

import numpy as np
import pytest

from sslkit.maskings import Blocks, Random


def masks_of(masking, size, n=400):
    """Masks of several views, on their grid."""
    masks = np.stack([masking(size, np.random.default_rng(seed)) for seed in range(n)])
    side = int(masks.shape[1] ** 0.5)
    return masks.reshape(n, side, side)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("size", [32, 48, 224])
def test_random_masks_hide_exactly_their_share(share, size):
    masks = masks_of(Random(share=share), size, n=20)
    n = (size // 16) ** 2
    assert (masks.sum(axis=(1, 2)) == round(share * n)).all()


def test_random_masks_hide_every_patch_equally_often():
    rates = masks_of(Random(share=0.25), 64, n=4000).mean(axis=0)
    assert rates == pytest.approx(np.full((4, 4), 0.25), abs=0.035)  # five standard deviations


def test_sets_of_a_random_mask_are_all_drawn():
    assert len({mask.tobytes() for mask in masks_of(Random(patch_size=16, share=0.5), 32)}) == 6  # 2 of 4


@pytest.mark.parametrize("size", [64, 96, 224])
@pytest.mark.parametrize("low, high", [(0.1, 0.5), (0.3, 0.3), (0.0, 1.0), (1.0, 1.0)])
def test_blocks_hide_a_share_within_its_range(size, low, high):
    n = (size // 16) ** 2
    shares = masks_of(Blocks(share=(low, high), p=1.0), size, n=1000).mean(axis=(1, 2))
    half = 0.5 / n  # a share comes to a whole number of patches
    assert low - half <= shares.min()
    assert shares.max() <= high + half
    deviation = (high - low) / 12**0.5
    assert shares.mean() == pytest.approx((low + high) / 2, abs=4 * deviation / 1000**0.5 + half)
    assert shares.std() == pytest.approx(deviation, abs=0.1 * deviation + half)


def test_blocks_hide_something_as_often_as_asked():
    hides = masks_of(Blocks(p=0.3), 64, n=2000).any(axis=(1, 2))
    assert hides.mean() == pytest.approx(0.3, abs=0.05)
    assert not masks_of(Blocks(p=0.0), 64).any()


def test_blocks_of_a_quarter_are_one_rectangle():
    for mask in masks_of(Blocks(patch_size=8, share=(0.25, 0.25), p=1.0, aspect=(1, 1), smallest=1.0), 64):
        rows, columns = np.nonzero(mask)
        assert np.ptp(rows) == np.ptp(columns) == 3  # 4 x 4 of 8 x 8


@pytest.mark.parametrize("aspect, taller", [((4, 4), True), ((0.25, 0.25), False)])
def test_an_aspect_above_one_makes_blocks_high(aspect, taller):
    for mask in masks_of(Blocks(share=(0.08, 0.08), p=1.0, aspect=aspect, smallest=1.0), 224, n=50):
        rows, columns = np.nonzero(mask)
        assert (np.ptp(rows) > np.ptp(columns)) == taller


def neighbours(masks):
    """Mean share of hidden patches among the four around a hidden one."""
    wide = np.pad(masks, ((0, 0), (1, 1), (1, 1))).astype(float)
    around = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
    return around[masks].mean() / 4


def test_blocks_hide_patches_beside_one_another_where_random_masks_spread_them():
    assert neighbours(masks_of(Random(share=0.3), 224)) == pytest.approx(0.3, abs=0.03)
    assert neighbours(masks_of(Blocks(share=(0.3, 0.3), p=1.0), 224)) > 0.7


def test_every_patch_is_hidden_at_times():
    rates = masks_of(Blocks(p=1.0), 224, n=2000).mean(axis=0)
    assert rates.min() > 0.04
    np.testing.assert_allclose(rates, rates[::-1, ::-1], atol=0.06)  # no side is preferred


@pytest.mark.parametrize("masking", [Blocks(patch_size=16, p=1.0), Random(patch_size=16)])
def test_a_view_smaller_than_a_patch_is_refused(masking):
    with pytest.raises(ValueError, match="patch_size=16, but a view has only 8 pixels"):
        masking(8, np.random.default_rng(0))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(patch_size=0), "patch_size=0"),
        (dict(share=(0.5, 0.1)), r"share=\(0.5, 0.1\)"),
        (dict(share=(0.5, 1.1)), "share=.*from 0 to 1"),
        (dict(aspect=(0, 1)), "aspect=.*above 0"),
        (dict(p=2), "p=2"),
        (dict(smallest=-0.1), "smallest=-0.1"),
    ],
)
def test_a_wrong_argument_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Blocks(**wrong)
