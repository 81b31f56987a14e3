"""What backbones keep to."""

from __future__ import annotations

import torch

from sslkit.backbones import Backbone
from sslkit.batch_norm import BatchNorm
from sslkit.contracts.component import ComponentContract
from sslkit.contracts.inputs import normal


class BackboneContract(ComponentContract[Backbone]):
    """An image vector and a grid of patches for images of any shape."""

    role = "backbones"

    def make(self) -> Backbone:
        """A small backbone for images of 32 pixels height and 32 or 48 pixels width."""
        raise NotImplementedError

    def test_it_makes_an_image_vector_and_a_grid_of_patches(self) -> None:
        backbone = self.component()
        image, patches, (h, w) = backbone(normal(2, 3, 32, 48))
        assert image.shape == (2, backbone.dim)
        assert patches.shape == (2, h * w, backbone.dim)
        assert h < w

    def test_without_drop_path_two_passes_in_training_agree(self) -> None:
        backbone = self.component().train().without_drop_path()
        x = normal(2, 3, 32, 32)
        for here, there in zip(backbone(x)[:2], backbone(x)[:2], strict=True):
            assert torch.equal(here, there)

    def test_images_meet_in_batch_norm_alone_unless_its_scope_says_so(self) -> None:
        backbone, x = self.component().train().without_drop_path(), normal(4, 3, 32, 32)
        has_norm = any(isinstance(module, BatchNorm) for module in backbone.modules())
        parts = torch.cat([backbone(half)[0] for half in x.split(2)])
        is_same = torch.allclose(parts, backbone(x)[0], rtol=1e-3, atol=1e-5)
        assert is_same == (backbone.scope is None and not has_norm)

    def test_it_draws_in_training_only_if_it_says_so(self) -> None:
        backbone, x, made = self.component().train(), normal(2, 3, 32, 32), []
        for seed in (0, 1):
            torch.manual_seed(seed)
            made.append(backbone(x)[0])
        assert torch.equal(*made) == (not backbone.draws)

    def test_pixels_that_a_mask_hides_change_nothing_or_masks_are_refused(self) -> None:
        backbone, x = self.component().eval(), normal(2, 3, 32, 32)
        _, seen, (h, w) = backbone(x)
        mask, other = torch.zeros(2, h * w, dtype=torch.bool), x.clone()
        mask[:, 1] = True
        other[..., : 32 // h, 32 // w : 2 * 32 // w] += 1
        try:
            here = backbone(x, mask)
        except ValueError:
            return
        for a, b in zip(here[:2], backbone(other, mask)[:2], strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(here[1], seen)

    def test_it_can_be_tried_out_before_there_is_data(self) -> None:
        with torch.device("meta"):
            backbone = self.component()
            image, _, _ = backbone(torch.ones(2, 3, 32, 32))
        assert image.shape == (2, backbone.dim)
