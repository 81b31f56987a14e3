"""What timm is asked for, and what is refused before or after it."""

from __future__ import annotations

import pytest

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
