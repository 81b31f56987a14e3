"""The parts of a backbone that run one after another."""

from __future__ import annotations

from torch import nn

from sslkit.backbones.base import Backbone


def blocks(backbone: Backbone) -> list[nn.Module]:
    """The layers that a model of timm names (`model.feature_info`): blocks of a ViT, stages of others.

    None of any other backbone, which does not say what its parts are.
    """
    model = getattr(backbone, "model", None)
    if not isinstance(model, nn.Module):
        return []
    named = dict(model.named_modules())
    info = getattr(model, "feature_info", None)
    found = [named.get(str(layer.get("module"))) for layer in info] if isinstance(info, list) else []
    return [block for block in dict.fromkeys(found) if block is not None and any(True for _ in block.parameters())]


def are_alike(modules: list[nn.Module]) -> bool:
    """Whether several modules are of one class, with parameters of the same names and shapes."""
    kinds = [(type(module), [(name, p.shape) for name, p in module.named_parameters()]) for module in modules]
    return len(kinds) > 1 and all(kind == kinds[0] for kind in kinds)
