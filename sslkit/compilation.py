"""Backbones compiled by torch, in place."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sslkit import distributed
from sslkit.backbones import Backbone
from sslkit.backbones.blocks import are_alike, blocks
from sslkit.errors import ConfigError
from sslkit.method import Method


def compile_backbones(method: Method, device: torch.device, *, backend: str = "inductor") -> None:
    """Compile the backbones of student and teacher in place, each part when it first runs; shard them before.

    The blocks of a ViT are compiled each by itself: they are alike, so that one is compiled for all of them. Other
    backbones are compiled whole. Names of parameters stay the same, copies are not compiled, and dropout draws what it
    draws otherwise.

    Args:
        backend: of `torch.compile`; `"aot_eager"` needs no compiler, and is not faster.

    Raises:
        ConfigError: there is no compiler for the device, or the backbone cannot be compiled.
    """
    _refuse_without_compiler(device, backend)
    for backbone in (method.student.backbone, method.teacher.backbone):
        parts = _parts(backbone)
        for part in parts:
            for module in part.modules() if part is not backbone else ():
                if isinstance(module, DropPath) and module.drop_prob:
                    module.__class__ = _ApartDropPath
            options: dict[str, Any] = {"fallback_random": True} if backend == "inductor" else {}
            part.compile(backend=backend, options=options or None)


def off() -> AbstractContextManager[object]:
    """A context in which what is compiled runs as it is written, for images of other sizes than those of training."""
    context: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return context


def _parts(backbone: Backbone) -> list[nn.Module]:
    """What of a backbone is compiled by itself."""
    exchanges = [m for m in backbone.modules() if isinstance(m, nn.SyncBatchNorm)]
    if exchanges and distributed.world_size() > 1:
        raise ConfigError(
            "compile=True, but BatchNorm of the backbone asks the other ranks in the middle of what would be compiled: "
            "give Method.batch_norm_scope = 'rank', or leave out train.compile"
        )
    layers = blocks(backbone)
    if are_alike(layers):
        return layers
    if isinstance(backbone, FSDPModule):
        raise ConfigError(
            "compile=True with shard=True, but the parts of the backbone are not alike: it would be compiled whole, "
            "which its shards prevent; leave out one of the two, or take a ViT"
        )
    return [backbone]


def _refuse_without_compiler(device: torch.device, backend: str) -> None:
    """Compile something small, so that what is missing shows before the run starts."""
    try:
        torch.compile(_something, backend=backend)(torch.ones(8, device=device))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"compile=True, but torch cannot compile for {device.type} here: {reason}") from error


def _something(x: Tensor) -> Tensor:
    return x.sin() + 1


class _ApartDropPath(DropPath):
    """timm's, which is not compiled: each block has its own rate, and would be compiled anew for it."""

    forward = torch.compiler.disable(DropPath.forward)
