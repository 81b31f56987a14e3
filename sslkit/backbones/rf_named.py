"""The ResNets of bounded receptive field that `timm.create_model` knows once this module is imported.

Options of `RFResNet` override theirs. Where they change what a patch sees, `receptive_field` has to be given as well,
as a number: timm leaves out an option that is None.
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck

from sslkit.backbones.rf_resnet import RFResNet, refuse_other_than_stages


def _cfg(grid: int, first_conv: str = "conv1") -> dict[str, Any]:
    """What timm keeps of a model: no weights, and how images would be prepared."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (grid, grid),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_conv,
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(  # where timm looks
    {
        "rf99_resnet50": _cfg(7),
        "rf29_resnet18": _cfg(28),
        "bagnet9": _cfg(28, "conv1.0"),
        "bagnet17": _cfg(28, "conv1.0"),
        "bagnet33": _cfg(28, "conv1.0"),
    }
)


@register_model
def rf99_resnet50(pretrained: bool = False, **options: Any) -> RFResNet:
    """A ResNet-50 (v1) whose patches see 99 pixels: 3x3 convolutions in stages 1 and 2 only, and an MLP of two layers.

    A receptive-field-matched reconstruction of RF99-ResNet50 (arXiv:2501.02860), not the paper's network, the layers of
    which are not known to us. It has 22.5 M parameters without a classifier, 8.4 M of them in the MLP, whose depth and
    width are ours. The paper's has 23.7 M, which we could not reproduce: docs/rf_resnet.md has the search.
    """
    ours = dict(block=Bottleneck, layers=(3, 4, 6, 3), kernels=(3, 3, 1, 1), stride_on="1x1", mlp_layers=2)
    return _create("rf99_resnet50", pretrained, ours | dict(receptive_field=99) | options)


@register_model
def rf29_resnet18(pretrained: bool = False, **options: Any) -> RFResNet:
    """A ResNet-18 for small images whose patches see 29 pixels: 3x3 up to the first convolution of stage 3, and an MLP.

    A receptive-field-matched reconstruction of RF29-ResNet18 (arXiv:2501.02860), not the paper's network, the layers of
    which are not known to us. It has 2.8 M parameters without a classifier, 0.5 M of them in the MLP of two layers,
    which is ours.
    """
    layers = options.get("layers", (2, 2, 2, 2))
    refuse_other_than_stages(layers=layers)
    kernels = (3, 3, ((3, 1), *[1] * (layers[2] - 1)), 1)
    ours = dict(block=BasicBlock, layers=layers, kernels=kernels, stem="3x3", mlp_layers=2)
    return _create("rf29_resnet18", pretrained, ours | dict(receptive_field=29) | options)


@register_model
def bagnet9(pretrained: bool = False, **options: Any) -> RFResNet:
    """BagNet-9 (arXiv:1904.00760): a 3x3 convolution in the stem and in the first block of stages 1 and 2."""
    return _bagnet("bagnet9", (3, 3, 1, 1), 9, pretrained, options)


@register_model
def bagnet17(pretrained: bool = False, **options: Any) -> RFResNet:
    """BagNet-17 (arXiv:1904.00760): a 3x3 convolution in the stem and in the first block of stages 1 to 3."""
    return _bagnet("bagnet17", (3, 3, 3, 1), 17, pretrained, options)


@register_model
def bagnet33(pretrained: bool = False, **options: Any) -> RFResNet:
    """BagNet-33 (arXiv:1904.00760): a 3x3 convolution in the stem and in the first block of every stage."""
    return _bagnet("bagnet33", (3, 3, 3, 3), 33, pretrained, options)


def _bagnet(name: str, first: tuple[int, ...], seen: int, pretrained: bool, options: dict[str, Any]) -> RFResNet:
    """A ResNet-50 of 1x1 convolutions behind the `first` of each stage, all but the last stage with stride 2.

    Difference: the authors' convolutions pad nothing and their shortcuts are cropped at the lower right, so maps shrink
    (224 pixels to 24 x 24 for BagNet-33). Ours pad, as a ResNet does: every stride-th pixel is the centre of a window
    (28 x 28). Their names for the two convolutions of the stem are `conv1` and `conv2`, ours `conv1.0` and `conv1.1`.
    """
    layers = options.get("layers", (3, 4, 6, 3))
    refuse_other_than_stages(layers=layers)
    kernels = [(size, *[1] * (n_blocks - 1)) for size, n_blocks in zip(first, layers, strict=True)]
    ours = dict(block=Bottleneck, layers=layers, kernels=kernels, stem="1x1+3x3", strides=(2, 2, 2, 1))
    return _create(name, pretrained, ours | dict(receptive_field=seen) | options)


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> RFResNet:
    model: RFResNet = build_model_with_cfg(RFResNet, name, pretrained, **options)
    return model
