"""One interface over timm's models."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import timm
import torch
from jaxtyping import Bool, Float
from timm.layers import DropPath, PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sslkit.backbones import hiding
from sslkit.backbones.base import Backbone
from sslkit.parameters import Share
from sslkit.registry import register

# what timm takes as options but is asked for in another way here; no weights are read or fetched because a file says so
_WEIGHTS = "load weights with sslkit.backbones.weights"
_ELSEWHERE = {
    **dict.fromkeys(("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args"), _WEIGHTS),
    **dict.fromkeys(("pretrained_strict", "pretrained_filter_fn", "checkpoint_path", "cache_dir"), _WEIGHTS),
    "num_classes": "a backbone has no classifier, and a method has heads instead",
    "drop_path_rate": "give drop_path",
    "features_only": "give patch_layer",
    "patch_drop_rate": "hide patches by a mask, and give mask='drop'",
}


@register("backbones")
class Timm(Backbone):
    """Image vector, patch tokens and grid of any ViT, ResNet, ConvNeXt or Swin that timm knows, at any input size.

    The image vector is timm's own (class token, or pooled and normalised as the model does); patches are the model's
    last normalised tokens, row-major over the grid, without class or register tokens.

    Args:
        name: a name for `timm.create_model`, such as `"vit_small_patch16_224"`, or of `RFResNet`: `"rf29_resnet18"`.
        options: further arguments for `timm.create_model`, such as `{"img_size": 96, "depth": 6}`.
        drop_path: stochastic depth of the student, rising linearly over the blocks to this rate; a teacher has none.
        padding: of convolutions. Zeros show a network the border of its view, and so where a patch lies; `"reflect"`
            mirrors the view instead. timm cannot say this of a model: see `pad_by` for one that was exported.
        freeze_patch_embedding: leave the patch projection at its random start (MoCo v3, arXiv:2104.02057).
        patch_layer: which of timm's layers (`model.feature_info`, blocks of a ViT, stages of a ResNet after its stem)
            the patches come out of, counted from 0, or from the end as -1, -2, ...; the end of the network if left out.
            Those of a ViT are normalised as its last ones are, others come as the layer makes them. Where they are not
            as wide as the image vector, they need a head of their own (`Term.target_head`).
        mask: how a ViT hides the patches of a mask. `"token"`: a learned vector, zero at the start, stands in for each
            of them before positions are added (BEiT, iBOT); `"drop"`: they do not enter the blocks, which is faster the
            more are hidden, and come out as zeros (MAE, MSN); images that pass together must hide the same number then.

    Raises:
        ValueError: timm has no such model, it does not take one of the options, or it has no patches to hide.

    Example:
        >>> import torch
        >>> backbone = Timm("vit_tiny_patch16_224", options={"depth": 1, "img_size": 32})
        >>> image, patches, grid = backbone(torch.randn(2, 3, 48, 32))
        >>> tuple(image.shape), tuple(patches.shape), grid
        ((2, 192), (2, 6, 192), (3, 2))
    """

    model: Any  # timm's models agree on their methods, but share no class that has them
    mask_token: nn.Parameter  # outside of the model, which is exported without it

    def __init__(
        self,
        name: str,
        *,
        options: Mapping[str, Any] | None = None,
        drop_path: Share = 0.0,
        padding: Literal["zeros", "reflect"] = "zeros",
        freeze_patch_embedding: bool = False,
        patch_layer: int | None = None,
        mask: Literal["token", "drop"] | None = None,
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
        if self.options.get("global_pool") == "":
            raise ValueError(f"options={self.options}, but without global_pool there is no image vector")
        self.arguments = _any_size(name) | self.options  # what timm builds this architecture from
        self.model = _create(name, self.arguments, drop_path)
        self.padding = padding
        pad_by(self.model, padding)
        self.dim = int(getattr(self.model, "head_hidden_size", None) or self.model.num_features)
        self.n_prefix: int = getattr(self.model, "num_prefix_tokens", 0)
        if freeze_patch_embedding:
            if not hasattr(self.model, "patch_embed"):
                raise ValueError(f"freeze_patch_embedding=True, but {name} has no patch embedding")
            self.model.patch_embed.requires_grad_(False)
        self.patch_layer = None if patch_layer is None else self._layer(patch_layer)
        if patch_layer is not None and mask == "drop":
            raise ValueError(
                f"patch_layer={patch_layer} with mask='drop': timm does not show inner layers without some patches; "
                f"give mask='token'"
            )
        self.mask = mask
        if mask is not None:
            self._prepare_for(mask)

    def _layer(self, number: int) -> int:
        layers = getattr(self.model, "feature_info", None)
        if not hasattr(self.model, "forward_intermediates") or layers is None:
            raise ValueError(f"patch_layer={number}, but timm does not show what is inside of {self.name}")
        if not -len(layers) <= number < len(layers):
            raise ValueError(
                f"patch_layer={number}, but {self.name} has {len(layers)} layers: 0 to {len(layers) - 1}, or -1 to "
                f"{-len(layers)} from the end"
            )
        return number % len(layers)

    @property
    def patch_dim(self) -> int:
        return (
            int(self.model.num_features)
            if self.patch_layer is None
            else int(self.model.feature_info[self.patch_layer]["num_chs"])
        )

    def _prepare_for(self, mask: Literal["token", "drop"]) -> None:
        if not self.has_tokens:
            raise ValueError(f"mask={mask!r}, but {self.name} has no patch tokens to hide; a ViT of timm has")
        if mask == "token":
            self.mask_token = nn.Parameter(torch.zeros(self.model.embed_dim))
        elif self.model.patch_drop is None:
            self.model.patch_drop = hiding.AllPatches()

    @property
    def has_tokens(self) -> bool:
        """Whether it is a ViT, whose patches are tokens from the start."""
        is_vit = isinstance(self.model, VisionTransformer | Eva)
        return is_vit and isinstance(self.model.patch_embed, PatchEmbed)  # not one that mixes patches by convolutions

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"], tuple[int, int]]:
        if mask is None:
            return self._fitting(*self._seen(pixels), pixels)
        self._refuse_unfit(mask, pixels)
        if self.mask == "token":
            with hiding.hooked(self.model.patch_embed, hiding.replacing(mask, self.mask_token)):
                return self._fitting(*self._seen(pixels), pixels)
        kept = hiding.kept(mask)
        with hiding.hooked(self.model.patch_drop, hiding.keeping(kept, self.n_prefix)):
            image, patches, grid = self._seen(pixels)
        return image, hiding.at_their_places(patches, kept, mask.shape[1]), grid

    def _seen(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"], tuple[int, int]]:
        if self.patch_layer is None:
            features = self.model.forward_features(pixels)
            patches, grid = self._spread(features, pixels)
        else:  # in timm's own layout of feature maps, (b, d, h, w)
            layer = self.patch_layer
            features, (there,) = self.model.forward_intermediates(pixels, indices=[layer], norm=self.has_tokens)
            patches, grid = there.flatten(2).mT, (there.shape[2], there.shape[3])
        image = self.model.forward_head(features, pre_logits=True)
        return image, patches, grid

    def _fitting(
        self, image: Tensor, patches: Tensor, grid: tuple[int, int], pixels: Tensor
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The same, if they have the shapes that others count on."""
        if tuple(image.shape[1:]) != (self.dim,) or tuple(patches.shape[1:]) != (grid[0] * grid[1], self.patch_dim):
            raise ValueError(
                f"{self.name} with options={self.options} makes an image vector of shape {tuple(image.shape[1:])} and "
                f"patches of {tuple(patches.shape[1:])} of a view of {pixels.shape[-2]} x {pixels.shape[-1]} px, but "
                f"they must be {(self.dim,)} and {(grid[0] * grid[1], self.patch_dim)}: take another model, other "
                f"options, or views that its patches divide"
            )
        return image, patches, grid

    def _spread(
        self, features: Float[Tensor, "b ..."], pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """The patches in what a model makes, in the layout of its family, and their grid."""
        if features.ndim == 3:  # (b, prefix + n, d)
            return features[:, self.n_prefix :], self._vit_grid(pixels)
        if getattr(self.model, "output_fmt", "NCHW") == "NCHW":
            features = features.permute(0, 2, 3, 1)
        return features.flatten(1, 2), (features.shape[1], features.shape[2])

    def _vit_grid(self, pixels: Tensor) -> tuple[int, int]:
        h, w = self.model.patch_embed.patch_size
        return pixels.shape[-2] // h, pixels.shape[-1] // w

    def _refuse_unfit(self, mask: Tensor, pixels: Tensor) -> None:
        if self.mask is None:
            better = "set Timm.mask = 'token'" if self.has_tokens else f"{self.name} has no patch tokens, take a ViT"
            raise ValueError(f"a view has a mask, but mask=None: {better}, or leave out augmenters.Crop.masking")
        h, w = self._vit_grid(pixels)
        if mask.shape[1] != h * w:
            px = self.model.patch_embed.patch_size[0]
            raise ValueError(
                f"a mask has {mask.shape[1]} patches, but {self.name} sees {h * w} of {px} px in a view of "
                f"{pixels.shape[-2]} x {pixels.shape[-1]} px: the masking should have patch_size={px}"
            )

    @property
    def draws(self) -> bool:
        return any(getattr(module, rate) > 0 for module, rate in self._rates())

    def without_drop_path(self) -> Self:
        for module, rate in self._rates():
            setattr(module, rate, 0.0)
        return self

    def _rates(self) -> Iterator[tuple[nn.Module, str]]:
        """Every module that leaves something out by chance, and its attribute that says how often."""
        for module in self.modules():
            if isinstance(module, DropPath):
                yield module, "drop_prob"
            elif isinstance(module, nn.Dropout):
                yield module, "p"
            elif isinstance(getattr(module, "drop_rate", None), float):  # of dropout without a layer of its own
                yield module, "drop_rate"


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


def origin(name: str) -> str:
    """The Python module that makes a model known to timm; it has to be imported for a model that is not timm's own."""
    return str(inspect.unwrap(timm.model_entrypoint(name)).__module__)


def _any_size(name: str) -> dict[str, Any]:
    """What makes a model accept images of other sizes than the one it was built for."""
    family = origin(name).rpartition(".")[2]
    if family in ("vision_transformer", "eva", "deit", "swin_transformer"):
        return {"dynamic_img_size": True}
    if family == "swin_transformer_v2":
        return {"strict_img_size": False, "always_partition": True}
    return {}
