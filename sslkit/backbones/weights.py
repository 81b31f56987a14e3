"""Weights in and out: checkpoints in the authors' layout, and export to timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from sslkit.backbones.timm_model import Timm, origin
from sslkit.shown import visible

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FILES = ("config.json", "model.safetensors")  # of an exported model
OUTPUTS = {"last_layer": "image", "last_layer_c": "region"}
MASK_TOKENS = ("backbone.masked_embed", "backbone.mask_token")  # of iBOT and of DINOv2


@dataclass(frozen=True)
class Report:
    """What became of a state dict."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the module, not in the file
    unexpected: tuple[str, ...]  # in the file, not in the module
    misshapen: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} loaded"]
        for what in ("missing", "unexpected", "misshapen"):
            names = getattr(self, what)
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            parts.append(f"{len(names)} {what}" + (f" ({shown})" if names else ""))
        return "; ".join(parts)


def load(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> Report:
    """Copy a state dict into a module and count what matched.

    Raises:
        ValueError: anything is missing, unexpected or misshapen and `strict` is on; nothing has been copied then.
    """
    own = module.state_dict()
    misshapen = [
        f"{name} {tuple(x.shape)} for {tuple(own[name].shape)}"
        for name, x in state.items()
        if isinstance(own.get(name), Tensor) and own[name].shape != x.shape
    ]
    fits = {name: x for name, x in state.items() if isinstance(own.get(name), Tensor) and own[name].shape == x.shape}
    report = Report(
        loaded=tuple(fits),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        misshapen=tuple(misshapen),
    )
    if strict and (report.missing or report.unexpected or report.misshapen):
        raise ValueError(f"the weights do not fit: {report}")
    module.load_state_dict(fits, strict=False)
    return report


def from_authors(state: Mapping[str, Tensor], *, outputs: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """A network's state dict in our names out of one in the layout of DINO's, CrIBo's and AdaSim's checkpoints.

    Takes off `module.`, renames the backbone and the head's layers, and understands both spellings of weight
    normalisation. A `fc_norm` or classifier in the file stays and counts as unexpected.

    Args:
        outputs: our output layer for each of the authors' last layers.
    """
    outputs = OUTPUTS if outputs is None else outputs
    renamed = {}
    for name, x in state.items():
        name = name.removeprefix("module.")
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        if name in MASK_TOKENS:
            name, x = "backbone.mask_token", x.flatten()
        elif name.startswith("backbone."):
            name = "backbone.model." + name.removeprefix("backbone.").replace("register_tokens", "reg_token")
        elif name.startswith("head."):
            layer, _, rest = name.removeprefix("head.").partition(".")
            name = f"heads.0.outputs.{outputs[layer]}.{rest}" if layer in outputs else f"heads.0.{layer}.{rest}"
        renamed[name] = x
    return renamed


def read_authors(path: Path, *, network: str = "teacher") -> dict[str, Tensor]:
    """The state dict of one network of an authors' checkpoint file, in our names.

    Old files hold an argparse namespace beside the weights; that class is the only one let through.

    Raises:
        ValueError: the file has no such network, or it holds more than tensors and plain values.
    """
    import argparse

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            file = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what a pickle holds may raise anything
        raise ValueError(f"{path} cannot be read: {_unreadable(error)}") from error
    known = file if isinstance(file, Mapping) else {}
    if network not in known:
        raise ValueError(f"{path} has no {network!r}; it has: {visible(', '.join(map(str, known)))}")
    state = known[network]
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(f"{network!r} of {path} is no state dict: tensors by name")
    return from_authors(state)


def _unreadable(error: Exception) -> str:
    """Why, without torch's advice to load it all the same."""
    asks = re.search(r"GLOBAL (\S+)", str(error))
    if asks:
        return f"it asks for {visible(asks[1])}, and only tensors and plain values are loaded"
    return "it is no file of torch.save, or holds more than tensors and plain values"


def export_timm(backbone: Timm, folder: Path, *, image_size: int, provenance: Mapping[str, str] | None = None) -> str:
    """Write `model.safetensors` and `config.json` that timm loads; the code that does so comes back.

    Args:
        image_size: pixels of a side that the model was trained at; timm builds the model for it.
        provenance: texts kept in the metadata of the tensor file.

    timm cannot say that a model pads by reflection (`Timm.padding`): the metadata do, and `pad_by` sets it. Nor which
    layer the patches came out of (`Timm.patch_layer`): the code takes them from there. And it does not know an
    architecture that is not its own, such as `rf29_resnet18`, before the `module` of the metadata is imported.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if (folder / file).is_symlink():  # timm would write to where it leads
            (folder / file).unlink()
    model = backbone.model
    config: dict[str, Any] = {
        "input_size": (3, image_size, image_size),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "num_classes": 0,
        **IMAGENET,
    }
    model.pretrained_cfg = {**model.pretrained_cfg, "architecture": backbone.name, **config}
    arguments = {"num_classes": 0, **backbone.arguments}
    save_for_hf(model, str(folder), model_config=config, model_args=arguments, safe_serialization=True)
    tensors = load_file(folder / "model.safetensors")
    module = origin(backbone.name)
    metadata = {"format": "pt", "padding": backbone.padding, "module": module, **(provenance or {})}
    if backbone.patch_layer is not None:
        metadata["patch_layer"] = str(backbone.patch_layer)
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    steps = ["import timm", f"model = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"]
    if not module.startswith("timm."):
        steps.insert(0, f"import {module}")
    is_padded = backbone.padding != "zeros" and any(
        isinstance(m, nn.Conv2d) and any(m.padding) for m in model.modules()
    )
    if is_padded:
        steps.insert(0, "import sslkit.backbones")
        steps.append(f"sslkit.backbones.pad_by(model, {backbone.padding!r})")
    if backbone.patch_layer is not None:
        options = f"indices=[{backbone.patch_layer}], norm={backbone.has_tokens}, intermediates_only=True"
        steps.append(f"patches = lambda pixels: model.forward_intermediates(pixels, {options})[0].flatten(2).mT")
    return "; ".join(steps)
