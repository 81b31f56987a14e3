"""What maskings keep to."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from jaxtyping import Bool

from sslkit.contracts.component import ComponentContract
from sslkit.maskings import Masking


class MaskingContract(ComponentContract[Masking]):
    """A mask over the square patch grid of a view, which the size of the view and the generator alone decide."""

    role = "maskings"

    def make(self) -> Masking:
        """A masking for views of 32 pixels and more."""
        raise NotImplementedError

    def masks(self, size: int = 32, n: int = 50) -> list[Bool[np.ndarray, " n"]]:
        """What it hides of several views."""
        masking = self.component()
        return [masking(size, np.random.default_rng(seed)) for seed in range(n)]

    @pytest.mark.parametrize("size", [32, 64, 224])
    def test_a_mask_has_one_truth_for_each_patch_of_a_square_grid(self, size: int) -> None:
        masks = self.masks(size)
        side = int(np.sqrt(masks[0].size))
        assert {mask.shape for mask in masks} == {(side**2,)}
        assert {mask.dtype for mask in masks} == {np.dtype(bool)}

    def test_a_view_of_twice_the_size_has_twice_the_patches_on_a_side(self) -> None:
        assert len(self.masks(64)[0]) == 4 * len(self.masks(32)[0])

    def test_it_hides_some_patches_of_some_view_and_not_all_of_every_view(self) -> None:
        hidden = np.stack(self.masks())
        assert hidden.any()
        assert not hidden.all()

    def test_the_generator_alone_decides(self) -> None:
        masking, rng = self.component(), np.random.default_rng(5)
        again = copy.deepcopy(rng)
        first = [masking(32, rng) for _ in range(4)]
        np.random.seed(7)
        assert np.array_equal(first, [masking(32, again) for _ in range(4)])

    def test_views_draw_their_masks_apart(self) -> None:
        assert len({mask.tobytes() for mask in self.masks(64)}) > 1
