"""One interface over timm's models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, Self

import timm
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from sslkit.backbones.base import Backbone
from sslkit.parameters import Share
from sslkit.registry import register

# what timm takes as options but is asked for in another way here
_ELSEWHERE = {
    "pretrained": "load weights with sslkit.backbones.weights",
    "num_classes": "a backbone has no classifier, and a method has heads instead",
    "drop_path_rate": "give drop_path",
}


@register("backbones")
class Timm(Backbone):
    """Image vector, patch tokens and grid of any ViT, ResNet, ConvNeXt or Swin that timm knows, at any input size.

    The image vector is timm's own (class token, or pooled and normalised as the model does); patches are the model's
    last normalised tokens, row-major over the grid, without class or register tokens.

    Args:
        name: a name for `timm.create_model`, such as `"vit_small_patch16_224"`.
        options: further arguments for `timm.create_model`, such as `{"img_size": 96, "depth": 6}`.
        drop_path: stochastic depth of the student, rising linearly over the blocks to this rate; a teacher has none.
        padding: of convolutions. Zeros show a network the border of its view, and so where a patch lies; `"reflect"`
            mirrors the view instead. timm cannot say this of a model: see `pad_by` for one that was exported.
        freeze_patch_embedding: leave the patch projection at its random start (MoCo v3, arXiv:2104.02057).

    Raises:
        ValueError: timm has no such model, or it does not take one of the options.

    Example:
        >>> import torch
        >>> backbone = Timm("vit_tiny_patch16_224", options={"depth": 1, "img_size": 32})
        >>> image, patches, grid = backbone(torch.randn(2, 3, 48, 32))
        >>> tuple(image.shape), tuple(patches.shape), grid
        ((2, 192), (2, 6, 192), (3, 2))
    """

    model: Any  # timm's models agree on their methods, but share no class that has them

    def __init__(
        self,
        name: str,
        *,
        options: Mapping[str, Any] | None = None,
        drop_path: Share = 0.0,
        padding: Literal["zeros", "reflect"] = "zeros",
        freeze_patch_embedding: bool = False,
    ):
        super().__init__()
        self.name, self.options = name, dict(options or {})
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
            raise ValueError(
                f"name={name!r} is not a model of timm {timm.__version__}; near it: {', '.join(near) or 'none'}"
            )
        for option, instead in _ELSEWHERE.items():
            if option in self.options:
                raise ValueError(f"options={self.options}, but {option!r} does not belong there: {instead}")
        self.arguments = _any_size(name) | self.options  # what timm builds this architecture from
        self.model = _create(name, self.arguments, drop_path)
        self.padding = padding
        pad_by(self.model, padding)
        self.dim = int(self.model.num_features)
        self.n_prefix: int = getattr(self.model, "num_prefix_tokens", 0)
        if freeze_patch_embedding:
            if not hasattr(self.model, "patch_embed"):
                raise ValueError(f"freeze_patch_embedding=True, but {name} has no patch embedding")
            self.model.patch_embed.requires_grad_(False)

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"], tuple[int, int]]:
        features = self.model.forward_features(pixels)
        image = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 3:  # (b, prefix + n, d)
            grid = self._vit_grid(pixels)
            return image, features[:, self.n_prefix :], grid
        if getattr(self.model, "output_fmt", "NCHW") == "NCHW":
            features = features.permute(0, 2, 3, 1)
        grid = (features.shape[1], features.shape[2])
        return image, features.flatten(1, 2), grid

    def _vit_grid(self, pixels: Tensor) -> tuple[int, int]:
        h, w = self.model.patch_embed.patch_size
        return pixels.shape[-2] // h, pixels.shape[-1] // w

    def without_drop_path(self) -> Self:
        for module in self.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
            elif isinstance(module, nn.Dropout):
                module.p = 0.0
        return self


def pad_by(model: nn.Module, mode: Literal["zeros", "reflect"]) -> None:
    """Make every convolution of a network pad by zeros or by its mirrored input."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = mode


def _create(name: str, arguments: dict[str, Any], drop_path: float) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, num_classes=0, drop_path_rate=drop_path, **arguments)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"  # alone, a KeyError says no more than the key
        raise ValueError(f"timm could not make {name!r} with options={arguments}: {reason}") from error
    cls_token = getattr(model, "cls_token", None)
    if isinstance(cls_token, nn.Parameter):
        nn.init.trunc_normal_(cls_token, std=0.02)  # as DINO starts; timm starts it at 1e-6
    return model


def _any_size(name: str) -> dict[str, Any]:
    """What makes a model accept images of other sizes than the one it was built for."""
    family = inspect.unwrap(timm.model_entrypoint(name)).__module__.rpartition(".")[2]
    if family in ("vision_transformer", "eva", "deit", "swin_transformer"):
        return {"dynamic_img_size": True}
    if family == "swin_transformer_v2":
        return {"strict_img_size": False, "always_partition": True}
    return {}
