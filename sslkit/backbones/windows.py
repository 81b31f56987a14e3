"""The window of pixels that one position of a feature map can depend on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from timm.layers import DropPath
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

_EACH_ALONE = (  # nothing passes between positions
    nn.Identity,
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    nn.Dropout,
    nn.Dropout2d,
    DropPath,
)
_ACROSS = (nn.MultiheadAttention, nn.GLU, nn.Softmax, nn.Softmin, nn.LogSoftmax)  # beside activations, but see more
_BY_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)  # these and no subclass: timm's pad by the size of the image


@dataclass(frozen=True)
class Window:
    """Which pixels of an axis each position of a map can depend on; the same in height and width.

    Position `n` sees `size` pixels, the first of them `start + n * stride`; those beyond the image are padding.
    """

    size: int = 1
    stride: int = 1
    start: int = 0

    def pixels(self, position: int) -> range:
        """Those that one position sees, as if the image had no end."""
        first = self.start + position * self.stride
        return range(first, first + self.size)

    def _behind(self, kernel: int, stride: int, padding: int, dilation: int) -> Window:
        return Window(
            self.size + dilation * (kernel - 1) * self.stride, self.stride * stride, self.start - padding * self.stride
        )

    def _with(self, other: Window) -> Window:
        start = min(self.start, other.start)
        return Window(max(self.start + self.size, other.start + other.size) - start, self.stride, start)


def receptive_field(model: nn.Module) -> Window:
    """What a position of the last feature map sees, in evaluation.

    For a chain of layers with kernel `k`, stride `s`, padding `p` and dilation `d`, from a pixel (size 1, stride 1,
    start 0) on:

        size += d (k - 1) stride,  start -= p stride,  stride *= s

    and of two branches that are added, the smallest window that holds both. It is an upper bound: what a trained
    network makes of its window may be less, and strides wider than the kernels before them leave gaps.

    Takes timm's ResNets up to their pooling, their blocks, and `nn.Sequential` of these, of convolutions, and of
    pooling by windows. Padding by zeros shows a position where the image ends, but no pixel beyond its window. Nor does
    padding by mirrored pixels, as long as no layer pads more than half its kernel: a mirrored pixel is then nearer to
    the centre of the window than the place that it fills. In training BatchNorm lets positions see one another.

    Raises:
        ValueError: a part may see more than a window (squeeze-and-excitation, attention, pooling over the image,
            statistics over positions), is not known to this function, or is not square.

    Example:
        >>> receptive_field(nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, padding=1)))
        Window(size=11, stride=4, start=-5)
    """
    return _through(model, Window(), type(model).__name__)


def _through(module: nn.Module, seen: Window, name: str) -> Window:
    if isinstance(module, ResNet):
        return _chain(takewhile(lambda part: part[0] != "global_pool", module.named_children()), seen, name)
    if isinstance(module, BasicBlock | Bottleneck):
        main = ((part, child) for part, child in module.named_children() if part != "downsample")
        shortcut = seen if module.downsample is None else _through(module.downsample, seen, f"{name}.downsample")
        return _chain(main, seen, name)._with(shortcut)
    if type(module) is nn.Sequential:
        return _chain(module.named_children(), seen, name)
    if type(module) in _BY_WINDOWS:
        if getattr(module, "padding_mode", "zeros") == "circular":
            raise ValueError(f"{name} has padding_mode='circular', by which it sees the other end of the image")
        return seen._behind(*(_side(module, what, name) for what in ("kernel_size", "stride", "padding", "dilation")))
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        raise ValueError(f"{name} has no running statistics, so that each position sees all others")
    if isinstance(module, _EACH_ALONE) or _is_activation(module):
        return seen
    raise ValueError(
        f"{name} is a {type(module).__name__}, of which it is not known that it sees no more than a window; known are "
        f"convolutions, pooling by windows, BatchNorm, activations, and timm's ResNets and nn.Sequential of these"
    )


def _is_activation(module: nn.Module) -> bool:
    """Whether it is a function of each number alone, of torch or timm; both keep theirs in modules of that name."""
    is_kept_there = type(module).__module__.startswith(("torch.nn.modules.activation", "timm.layers.activations"))
    return is_kept_there and not isinstance(module, _ACROSS)


def _chain(parts: Iterable[tuple[str, nn.Module]], seen: Window, name: str) -> Window:
    for part, module in parts:
        seen = _through(module, seen, f"{name}.{part}")
    return seen


def _side(module: nn.Module, what: str, name: str) -> int:
    """A number of a layer that must be the same in height and width."""
    given = getattr(module, what, 1)  # AvgPool2d has no dilation
    height, width = given if isinstance(given, tuple) else (given, given)
    if height != width or isinstance(given, str):
        raise ValueError(f"{name} has {what}={given!r}, but it must be one number for height and width")
    return int(height)
