"""What augmenters keep to."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image

from sslkit.contracts.component import ComponentContract
from sslkit.contracts.inputs import picture
from sslkit.types import Key, View

KEY = Key(seed=1, epoch=2, index=3)


class AugmenterContract(ComponentContract[Any]):
    """Views that their key alone decides, each with a box inside its source."""

    role = "augmenters"

    def make(self) -> Any:
        """An augmenter of items of one image, or of two."""
        raise NotImplementedError

    def views(self, augmenter: Any, images: Sequence[Image], key: Key = KEY) -> list[View]:
        """All views of an item."""
        made: list[View] = augmenter(images, key)
        return made

    def test_it_says_how_many_views_are_global(self) -> None:
        augmenter = self.component()
        assert 1 <= augmenter.n_global <= len(self.views(augmenter, item()))

    def test_a_view_is_three_planes_of_finite_numbers(self) -> None:
        for view in self.views(self.component(), item()):
            assert view.pixels.ndim == 3
            assert view.pixels.shape[0] == 3
            assert view.pixels.dtype == torch.float32
            assert view.pixels.isfinite().all()

    def test_views_of_one_place_all_have_a_mask_or_none(self) -> None:
        augmenter = self.component()
        for views in zip(*(self.views(augmenter, item(), Key(0, 0, index)) for index in range(4)), strict=True):
            mask = View.stack(views).mask
            assert mask is None or (mask.dtype, mask.ndim) == (torch.bool, 2)

    @pytest.mark.parametrize("size", [(96, 80), (1, 1), (300, 2), (2, 300)])
    def test_the_box_of_a_view_lies_in_its_source(self, size: tuple[int, int]) -> None:
        images = item(*size)
        for view in self.views(self.component(), images):
            assert (view.box.shape, view.size.shape, view.flip.shape) == ((4,), (2,), ())
            assert (view.box.dtype, view.size.dtype, view.flip.dtype) == (torch.float32, torch.float32, torch.bool)
            assert view.size.tolist() == list(images[view.source].size)
            (left, top, width, height), (right, bottom) = view.box.tolist(), view.size.tolist()
            assert width > 0
            assert height > 0
            assert left >= 0
            assert top >= 0
            assert left + width <= right
            assert top + height <= bottom

    def test_the_same_key_draws_the_same_views(self) -> None:
        augmenter, again = self.component(), self.component()
        first = self.views(augmenter, item())
        torch.manual_seed(7)
        np.random.seed(7)
        self.views(again, item(), Key(seed=1, epoch=2, index=4))  # what was drawn before does not matter
        assert_same_views(self.views(again, item()), first)

    @pytest.mark.parametrize("other", [Key(0, 2, 3), Key(1, 0, 3), Key(1, 2, 0)], ids=["seed", "epoch", "index"])
    def test_another_key_draws_other_views(self, other: Key) -> None:
        augmenter = self.component()
        pairs = zip(self.views(augmenter, item()), self.views(augmenter, item(), other), strict=True)
        assert not all(torch.equal(x.pixels, y.pixels) for x, y in pairs)

    def test_a_copy_in_another_process_draws_the_same(self) -> None:
        augmenter = self.component()
        again = pickle.loads(pickle.dumps(augmenter))
        assert_same_views(self.views(again, item()), self.views(augmenter, item()))

    def test_the_images_stay_as_they_were(self) -> None:
        images = item()
        self.views(self.component(), images)
        for here, there in zip(images, item(), strict=True):
            assert np.array_equal(np.asarray(here), np.asarray(there))


def item(width: int = 96, height: int = 80) -> list[Image]:
    """An image and a partner of another size."""
    return [picture(width, height), picture(width + 3, height + 5, seed=1)]


def assert_same_views(here: list[View], there: list[View]) -> None:
    for x, y in zip(here, there, strict=True):
        assert x.source == y.source
        for name in ("pixels", "box", "flip", "size", "mask"):
            a, b = getattr(x, name), getattr(y, name)
            assert (a is None and b is None) or torch.equal(a, b), name
