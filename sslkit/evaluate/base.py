"""What all protocols share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Backbone = Callable[[Tensor], tuple[Tensor, Tensor, tuple[int, int]]]


class Evaluation:
    """A backbone to what its frozen features are good for, as numbers by name."""

    headline: str  # the number that stands for all

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, Any]:
        raise NotImplementedError

    def check(self, backbone: Backbone) -> None:
        """Refuse with a ValueError, before the run, a backbone or settings with which it cannot work."""


@contextmanager
def evaluating(backbone: Callable[..., Any]) -> Iterator[None]:
    """Every part of a module in evaluation mode inside, in its own mode again after; other callables are left alone."""
    modes = {m: m.training for m in backbone.modules()} if isinstance(backbone, nn.Module) else {}
    try:
        if isinstance(backbone, nn.Module):
            backbone.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def outputs_at(backbone: Backbone, image_size: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """What the backbone makes of two black squares of `image_size` pixels.

    Raises:
        ValueError: it does not take images of this size.
    """
    with evaluating(backbone), torch.no_grad():
        try:
            parameters = backbone.parameters() if isinstance(backbone, nn.Module) else iter(())
            device = next((p.device for p in parameters), None)
            return backbone(torch.zeros(2, 3, image_size, image_size, device=device))
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ValueError(f"image_size={image_size} does not suit the backbone: {error}") from error
