"""Patches that a mask hides: what may not depend on them, and what a ViT makes of the rest."""

from __future__ import annotations

import pytest
import timm
import torch

from sslkit.backbones import Timm
from sslkit.backbones.weights import export_timm, from_authors, load

TINY = dict(depth=2, embed_dim=24, num_heads=3, patch_size=8, img_size=32)
ROTARY = dict(depth=2, embed_dim=48, num_heads=3, img_size=32, patch_size=8)
MODELS = {
    "class token": ("vit_tiny_patch16_224", TINY),
    "class token and registers": ("vit_small_patch14_reg4_dinov2", TINY),
    "one register, no class token, pooled": ("test_vit2", dict(depth=2, patch_size=8, img_size=32)),
    "class and distillation token": ("deit_tiny_distilled_patch16_224", TINY),
    "rotary positions and registers": ("vit_small_patch16_dinov3", ROTARY),
    "absolute and rotary positions": ("eva02_tiny_patch14_224", ROTARY),
    "fixed size": ("vit_tiny_patch16_224", TINY | dict(dynamic_img_size=False)),
}
WAYS = ("token", "drop")


def vit(model="class token", *, mask=None, seed=0):
    name, options = MODELS[model]
    torch.manual_seed(seed)
    backbone = Timm(name, options=options, mask=mask).double().eval()
    for name, parameter in backbone.model.named_parameters():
        if name.startswith(("blocks", "pos_embed", "reg_token")):
            torch.nn.init.normal_(parameter, std=0.2)  # the usual start is almost the identity
    if mask == "token":
        torch.nn.init.normal_(backbone.mask_token)
    return backbone


def images(b=3, h=32, w=32, seed=0):
    return torch.randn(b, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(b=3, n=16, k=5, seed=1):
    """`k` hidden patches of each image."""
    order = torch.rand(b, n, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    return order < k


def by_patch(pixels, side=8):
    """(b, n, 3 * side * side), row-major over the grid, sharing no memory."""
    b, _, h, w = pixels.shape
    parts = pixels.unfold(2, side, side).unfold(3, side, side)
    return parts.permute(0, 2, 3, 1, 4, 5).reshape(b, (h // side) * (w // side), -1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_no_output_depends_on_the_pixels_of_a_hidden_patch(model, way):
    backbone, pixels, mask = vit(model, mask=way), images().requires_grad_(), mask_of()
    image, patches, _ = backbone(pixels, mask)
    (gradient,) = torch.autograd.grad(image.square().sum() + patches.square().sum(), pixels)
    moved = by_patch(gradient).abs().amax(dim=2) > 0
    assert torch.equal(moved, ~mask)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_without_a_mask_and_with_one_that_hides_nothing_it_is_the_backbone_without_the_option(model, way):
    plain, masked, pixels = vit(model), vit(model, mask=way), images()
    load(masked.model, plain.model.state_dict())
    nothing = torch.zeros(3, 16, dtype=torch.bool)
    for expected, here, there in zip(plain(pixels), masked(pixels), masked(pixels, nothing), strict=True):
        torch.testing.assert_close(here, expected, rtol=0, atol=0)
        torch.testing.assert_close(there, expected, rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_a_token_takes_the_place_of_hidden_patches_before_their_positions_are_added(model):
    backbone, pixels, mask = vit(model, mask="token"), images(), mask_of()
    embed, token = backbone.model.patch_embed, backbone.mask_token
    embedded = embed(pixels)
    flat = embedded.flatten(1, -2).clone()
    flat[mask] = token
    embed.forward = lambda _: flat.view_as(embedded)
    by_hand = backbone(pixels)
    del embed.forward
    for here, there in zip(backbone(pixels, mask)[:2], by_hand[:2], strict=True):
        assert torch.equal(here, there)
    assert torch.equal(Timm(*MODELS[model][:1], options=MODELS[model][1], mask="token").mask_token, 0 * token.float())


@pytest.mark.parametrize("model", ["class token", "class token and registers", "one register, no class token, pooled"])
def test_dropping_is_running_the_blocks_on_the_tokens_that_are_kept(model):
    backbone, pixels, mask = vit(model, mask="drop"), images(), mask_of()
    vit_ = backbone.model
    n_prefix = vit_.num_prefix_tokens
    tokens = vit_._pos_embed(vit_.patch_embed(pixels))
    image, patches, grid = backbone(pixels, mask)
    assert grid == (4, 4)
    for b in range(3):
        kept = [token for i, token in enumerate(tokens[b]) if i < n_prefix or not mask[b, i - n_prefix]]
        out = vit_.norm(vit_.blocks(torch.stack(kept)[None]))
        torch.testing.assert_close(image[b], vit_.forward_head(out, pre_logits=True)[0])
        torch.testing.assert_close(patches[b, ~mask[b]], out[0, n_prefix:])
        assert (patches[b, mask[b]] == 0).all()


@pytest.mark.parametrize("model", ["rotary positions and registers", "absolute and rotary positions"])
def test_dropping_keeps_the_rotary_positions_of_what_is_kept(model):
    backbone, pixels, mask = vit(model, mask="drop"), images(), mask_of()
    attended = []

    def only_seen(query, key, value, **_):
        """Attention over all tokens, in which nobody looks at a hidden patch."""
        hidden = torch.cat([torch.zeros(3, key.shape[2] - 16, dtype=torch.bool), mask], dim=1)
        attended.append(hidden.shape)
        scores = query @ key.mT / query.shape[-1] ** 0.5
        return scores.masked_fill(hidden[:, None, None], -torch.inf).softmax(dim=-1) @ value

    dropped = backbone(pixels, mask)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", only_seen)
        blind = backbone(pixels)
    assert len(attended) == 2
    torch.testing.assert_close(dropped[1][~mask], blind[1][~mask])
    pooled = torch.stack([patches[~hidden].mean(dim=0) for patches, hidden in zip(blind[1], mask, strict=True)])
    torch.testing.assert_close(dropped[0], backbone.model.fc_norm(pooled))


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_lies_row_major_over_a_view_of_another_size(way):
    backbone, pixels = vit(mask=way), images(2, 24, 40).requires_grad_()
    mask = mask_of(2, 15, 4)
    image, patches, grid = backbone(pixels, mask)
    assert grid == (3, 5) and patches.shape == (2, 15, 24)
    (gradient,) = torch.autograd.grad(image.square().sum() + patches.square().sum(), pixels)
    assert torch.equal(by_patch(gradient).abs().amax(dim=2) > 0, ~mask)


def test_the_gradient_reaches_the_mask_token_only_through_hidden_patches():
    backbone, mask = vit(mask="token"), mask_of()
    backbone(images(), mask)[0].sum().backward()
    assert backbone.mask_token.grad.abs().sum() > 0
    backbone.mask_token.grad = None
    backbone(images(), torch.zeros_like(mask))[0].sum().backward()
    assert (backbone.mask_token.grad == 0).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_a_masked_pass_works_without_values(model, way):
    with torch.device("meta"):
        backbone = Timm(MODELS[model][0], options=MODELS[model][1], mask=way)
        image, patches, grid = backbone(torch.ones(2, 3, 32, 32), torch.zeros(2, 16, dtype=torch.bool))
        (image.sum() + patches.sum()).backward()
    assert patches.shape == (2, 16, backbone.dim) and grid == (4, 4)


@pytest.mark.parametrize("way", WAYS)
def test_a_pass_leaves_nothing_behind(way):
    backbone, pixels = vit(mask=way), images()
    before = backbone(pixels)
    backbone(pixels, mask_of())
    with pytest.raises(RuntimeError):
        backbone(torch.zeros(3, 1, 32, 32, dtype=torch.float64), mask_of())  # fails within the model
    for here, there in zip(backbone(pixels), before, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in backbone.modules())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["class token", "rotary positions and registers"])
def test_an_export_knows_nothing_of_masks(model, way, tmp_path):
    backbone = vit(model, mask=way).float()
    export_timm(backbone, tmp_path / "out", image_size=32)
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = images().float()
    with torch.no_grad():
        torch.testing.assert_close(again.forward_features(pixels), backbone.model.forward_features(pixels))
    assert not any("mask" in name for name in again.state_dict())


def test_the_mask_token_of_an_authors_checkpoint_is_found():
    state = {f"module.backbone.{name}": x for name, x in vit().float().model.state_dict().items()}
    token = torch.randn(1, 24)
    for theirs in ("masked_embed", "mask_token"):
        renamed = from_authors(state | {f"module.backbone.{theirs}": token})
        backbone = Timm("vit_tiny_patch16_224", options=TINY, mask="token")
        load(backbone, {name.removeprefix("backbone."): x for name, x in renamed.items()})
        assert torch.equal(backbone.mask_token, token[0])


# what is refused


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_r_s16_p8_224"])
def test_a_network_without_patch_tokens_of_their_own_has_nothing_to_hide(name, way):
    with torch.device("meta"), pytest.raises(ValueError, match=f"mask='{way}', but {name} has no patch tokens to hide"):
        Timm(name, mask=way)


@pytest.mark.parametrize("mask", [None, "token", "drop"])
def test_patches_are_hidden_by_a_mask_or_not_at_all(mask):
    with pytest.raises(ValueError, match=r"'patch_drop_rate' does not belong there: hide patches by a mask"):
        Timm("vit_tiny_patch16_224", options=TINY | dict(patch_drop_rate=0.5), mask=mask)


@pytest.mark.parametrize(
    "backbone, message",
    [
        (
            lambda: vit(),
            r"a view has a mask, but mask=None: set Timm.mask = 'token', or leave out augmenters.Crop.masking",
        ),
        (lambda: Timm("resnet18").double(), "mask=None: resnet18 has no patch tokens, take a ViT, or leave out"),
    ],
)
def test_a_mask_that_the_backbone_was_not_told_to_use_is_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        backbone()(images(), mask_of())


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_of_another_grid_is_refused_with_both_numbers(way):
    message = "a mask has 4 patches, but vit_tiny_patch16_224 sees 16 of 8 px in a view of 32 x 32 px: .* patch_size=8"
    with pytest.raises(ValueError, match=message):
        vit(mask=way)(images(), mask_of(n=4, k=1))


def test_images_that_keep_different_numbers_cannot_be_dropped_from_together():
    mask = mask_of()
    mask[0, mask[0].nonzero()[0]] = False
    with pytest.raises(ValueError, match=r"mask='drop'.*11 to 12 are kept.*maskings.Random.*Timm.mask = 'token'"):
        vit(mask="drop")(images(), mask)
    vit(mask="token")(images(), mask)


def test_inner_layers_cannot_leave_patches_out():
    with pytest.raises(ValueError, match="patch_layer=-2 with mask='drop'"):
        Timm("vit_tiny_patch16_224", options={"depth": 2, "img_size": 32}, patch_layer=-2, mask="drop")
