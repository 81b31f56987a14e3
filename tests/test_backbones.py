"""What timm is asked for, and what is refused before or after it."""

from __future__ import annotations

import pytest
import torch

from sslkit.backbones import Timm

VIT = "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("vit_tinny", {}, "name='vit_tinny' is not a model of timm"),
        (VIT, {"pretrained": True}, "'pretrained' does not belong there: load weights with sslkit.backbones.weights"),
        (VIT, {"num_classes": 10}, "'num_classes' does not belong there: a backbone has no classifier"),
        (VIT, {"drop_path_rate": 0.1}, "'drop_path_rate' does not belong there: give drop_path"),
        (VIT, {"depht": 1}, "timm could not make 'vit_tiny_patch16_224' with options=.*'depht': 1.*depht"),
        (VIT, {"depth": 1, "norm_layer": "none such"}, "KeyError: 'none such'"),
        (VIT, {"depth": 1, "num_heads": 0}, "ZeroDivisionError"),
        ("resnet18", {"block": "none such"}, "AttributeError"),
        ("convnext_atto", {"depths": [1]}, "IndexError"),
    ],
)
def test_a_model_that_cannot_be_is_refused_with_its_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        Timm(name, options=options)


def test_patches_that_do_not_fill_the_grid_are_refused():
    options = {"depth": 1, "img_size": 48, "dynamic_img_pad": True}
    backbone = Timm("vit_tiny_patch16_224", options=options)
    assert backbone(torch.zeros(1, 3, 48, 48))[2] == (3, 3)
    with pytest.raises(ValueError, match=r"patches of \(16, 192\) of a view of 50 x 50 px, but they .*\(9, 192\)"):
        backbone(torch.zeros(1, 3, 50, 50))


@pytest.mark.parametrize("name, options", [("mobilenetv3_small_050", {}), ("resnet18", {"global_pool": "catavgmax"})])
def test_image_vectors_may_be_wider_than_patches(name, options):
    backbone = Timm(name, options=options).eval()
    image, patches, grid = backbone(torch.zeros(2, 3, 64, 64))
    assert image.shape == (2, backbone.dim) and patches.shape == (2, grid[0] * grid[1], backbone.patch_dim)
    assert backbone.dim > backbone.patch_dim


def test_an_image_vector_of_another_width_than_the_model_says_is_refused():
    backbone = Timm("resnet18")
    backbone.dim = 7
    with pytest.raises(ValueError, match=r"resnet18 .* makes an image vector of shape \(512,\) .* they must be \(7,\)"):
        backbone(torch.zeros(2, 3, 64, 64))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_a_teacher_has_no_dropout_of_any_kind(name):
    backbone = Timm(name, options={"drop_rate": 0.5}).without_drop_path().train()
    for module in backbone.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(backbone(pixels)[0], backbone(pixels)[0])
