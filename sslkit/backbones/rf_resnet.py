"""ResNets whose patches see windows of a chosen size: timm's, with some of the 3x3 convolutions made 1x1.

`rf_named` has those that timm knows by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from jaxtyping import Float
from timm.layers import DropPath, LayerType, create_classifier, get_act_layer, get_norm_layer
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, downsample_conv
from torch import Tensor, nn

from sslkit.backbones import windows
from sslkit.parameters import Count, Natural, Share, checked

Block = type[BasicBlock | Bottleneck]
Kernels = int | Sequence[int | Sequence[int | Sequence[int]]]

_SPATIAL = {BasicBlock: ("conv1", "conv2"), Bottleneck: ("conv2",)}  # what is 3x3 in a plain ResNet


class RFResNet(ResNet):
    """A ResNet of timm of which each 3x3 convolution may be 1x1 instead, so that a patch sees a window of known size.

    Parameters have the names of timm's ResNets, so that weights of these load where shapes agree. `forward_features`
    gives the patches; `forward_head` averages them, and an MLP that keeps their width may follow.

    Args:
        block: timm's `BasicBlock` or `Bottleneck`.
        layers: blocks of each of the four stages.
        kernels: size of the convolutions that are 3x3 in a plain ResNet, each 3 or 1: one of a `Bottleneck`, two of a
            `BasicBlock`. A number stands for everything below it: `(3, 3, (3, 1), 1)` are stages 1 and 2, and the first
            of the two blocks of stage 3; `(3, 3, ((3, 1), 1), 1)` is only the first convolution of that block.
        stem: `"7x7"` with stride 2 and max-pooling, as for ImageNet; `"3x3"` with stride 1 and no pooling, as for small
            images; `"1x1+3x3"`, the same behind a convolution of single pixels (BagNet).
        strides: of the stages.
        stride_on: which convolution of a `Bottleneck` has the stride of its stage: the first `"1x1"` (v1,
            arXiv:1512.03385), or the one behind it that is `"3x3"` in a plain ResNet (v1.5: torchvision's and timm's).
            Windows of v1 are larger.
        channels: width of the stages, before the expansion of a `Bottleneck`; the stem is as wide as the first.
        mlp_layers: linear layers behind the pooling, BatchNorm and ReLU between them.
        mlp_hidden: width between them; that of the patches if None.
        receptive_field: pixels that a patch should see; any if None.
        drop_path_rate: stochastic depth, rising linearly over the blocks to this rate.

    Raises:
        ValueError: `receptive_field` is not what `windows.receptive_field` computes, or an argument does not fit.

    Source: arXiv:2501.02860 bounds the receptive field of a ResNet and adds an MLP, but neither its layers nor those of
    the MLP are known to us; all of it is ours here. BagNet (arXiv:1904.00760) is 1x1 convolutions but for some first.

    Example:
        >>> net = RFResNet(BasicBlock, (1, 1, 1, 1), kernels=(3, 3, 1, 1), channels=(8, 8, 8, 8), receptive_field=51)
        >>> net.window
        Window(size=51, stride=32, start=-25)
    """

    def __init__(
        self,
        block: Block,
        layers: Sequence[Count],
        *,
        kernels: Kernels,
        stem: Literal["7x7", "3x3", "1x1+3x3"] = "7x7",
        strides: Sequence[Count] = (1, 2, 2, 2),
        stride_on: Literal["1x1", "3x3"] = "3x3",
        channels: Sequence[Count] = (64, 128, 256, 512),
        mlp_layers: Natural = 0,
        mlp_hidden: Count | None = None,
        receptive_field: int | None = None,
        num_classes: Natural = 1000,
        in_chans: Count = 3,
        global_pool: Literal["avg", "max", "avgmax", ""] = "avg",
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        drop_rate: Share = 0.0,
        drop_path_rate: Share = 0.0,
        zero_init_last: bool = True,
    ):
        nn.Module.__init__(self)  # timm's would build the plain network
        refuse_other_than_stages(layers=layers, strides=strides, channels=channels)
        if stride_on == "1x1" and block is BasicBlock:
            raise ValueError("stride_on='1x1', but a BasicBlock has no 1x1 convolution: its first one has the stride")
        if mlp_hidden is not None and mlp_layers < 2:
            raise ValueError(f"mlp_hidden={mlp_hidden}, but with mlp_layers={mlp_layers} there is no hidden layer")
        self.num_classes, self.in_chans = num_classes, in_chans
        self.grad_checkpointing = False
        parts = {"act_layer": get_act_layer(act_layer), "norm_layer": get_norm_layer(norm_layer)}

        n_in = channels[0]
        conv, pool = _stem(stem, in_chans, n_in)
        self.add_module("conv1", conv)
        self.bn1 = parts["norm_layer"](n_in)
        self.act1 = parts["act_layer"](inplace=True)
        self.add_module("maxpool", pool)
        reduction = windows.receptive_field(conv).stride
        self.feature_info = [{"num_chs": n_in, "reduction": reduction, "module": "act1"}]
        reduction = windows.receptive_field(nn.Sequential(conv, pool)).stride
        step = drop_path_rate / (sum(layers) - 1)
        for s, (width, stride, sizes) in enumerate(zip(channels, strides, _sizes(kernels, block, layers), strict=True)):
            stage = nn.Sequential()
            for b, of_block in enumerate(sizes):
                drop_path = step * (sum(layers[:s]) + b)
                stage.append(_block(block, n_in, width, of_block, stride if b == 0 else 1, stride_on, drop_path, parts))
                n_in = width * block.expansion
            self.add_module(f"layer{s + 1}", stage)
            reduction *= stride
            self.feature_info.append({"num_chs": n_in, "reduction": reduction, "module": f"layer{s + 1}"})

        self.num_features = self.head_hidden_size = n_in
        self.global_pool, self.fc = create_classifier(n_in, num_classes, pool_type=global_pool)
        self.mlp = _mlp(mlp_layers, n_in, mlp_hidden or n_in)
        self.head_drop = nn.Dropout(drop_rate)
        self.init_weights(zero_init_last=zero_init_last)
        self.window = windows.receptive_field(self)
        if receptive_field not in (None, self.window.size):
            raise ValueError(
                f"receptive_field={receptive_field}, but these layers, kernels and strides make it {self.window.size}: "
                f"give that number, or others of them"
            )

    def forward_head(self, x: Float[Tensor, "b d h w"], pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        if x.ndim == 2:  # a map that is not pooled stays what it is
            x = self.mlp(x)
        x = self.head_drop(x)
        return x if pre_logits else self.fc(x)


checked(RFResNet)


def refuse_other_than_stages(**numbers: Any) -> None:
    """Refuse what has not one number for each stage.

    Raises:
        ValueError: naming the argument and its value.
    """
    for name, given in numbers.items():
        is_each = isinstance(given, Sequence) and all(isinstance(number, int) and number > 0 for number in given)
        if not is_each or len(given) != 4:
            raise ValueError(f"{name}={given!r}, but it must have one number above 0 for each of the 4 stages")


def _stem(kind: str, in_chans: int, width: int) -> tuple[nn.Module, nn.Module]:
    if kind == "7x7":
        return nn.Conv2d(in_chans, width, 7, 2, padding=3, bias=False), nn.MaxPool2d(3, 2, padding=1)
    if kind == "3x3":
        return nn.Conv2d(in_chans, width, 3, padding=1, bias=False), nn.Identity()
    pixels = nn.Conv2d(in_chans, width, 1, bias=False)  # no norm between the two, as published
    return nn.Sequential(pixels, nn.Conv2d(width, width, 3, padding=1, bias=False)), nn.Identity()


def _sizes(kernels: Kernels, block: Block, layers: Sequence[int]) -> list[list[list[int]]]:
    """The kernel size of every spatial convolution of every block of every stage."""
    sizes: list[list[list[int]]] = []
    for s, (of_stage, n_blocks) in enumerate(zip(_each(kernels, 4, "kernels", "stages"), layers, strict=True)):
        sizes.append([])
        for b, of_block in enumerate(_each(of_stage, n_blocks, f"kernels[{s}]", "blocks")):
            name = f"kernels[{s}][{b}]"
            sizes[s].append(_each(of_block, len(_SPATIAL[block]), name, "convolutions"))
            if not all(size in (1, 3) for size in sizes[s][b]):
                raise ValueError(f"{name}={of_block!r}, but a convolution has kernel size 1 or 3")
    return sizes


def _each(given: Any, n: int, name: str, parts: str) -> list[Any]:
    """What is given for each of `n` parts, or one number for all of them."""
    if given in (1, 3):
        return [given] * n
    if not isinstance(given, Sequence) or len(given) != n:
        raise ValueError(f"{name}={given!r}, but it must be 1, 3, or one entry for each of {n} {parts}")
    return list(given)


def _block(
    block: Block,
    n_in: int,
    width: int,
    sizes: list[int],
    stride: int,
    stride_on: str,
    drop_path: float,
    parts: dict[str, Any],
) -> nn.Module:
    n_out = width * block.expansion
    shortcut = None
    if stride != 1 or n_in != n_out:
        shortcut = downsample_conv(n_in, n_out, 1, stride, norm_layer=parts["norm_layer"])
    made = block(n_in, width, stride, shortcut, drop_path=DropPath(drop_path) if drop_path else None, **parts)
    for name, size in zip(_SPATIAL[block], sizes, strict=True):
        if size == 1:
            old = getattr(made, name)
            setattr(made, name, nn.Conv2d(old.in_channels, old.out_channels, 1, old.stride, bias=False))
    if stride_on == "1x1":
        made.conv1.stride, made.conv2.stride = made.conv2.stride, made.conv1.stride
    return made


def _mlp(n_layers: int, width: int, hidden: int) -> nn.Module:
    if n_layers == 0:
        return nn.Identity()
    widths = [width, *[hidden] * (n_layers - 1)]
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], width))
