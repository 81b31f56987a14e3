"""What all protocols share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sslkit.errors import NotFinite

Backbone = Callable[[Tensor], tuple[Tensor, Tensor, tuple[int, int]]]


class Evaluation:
    """A backbone to what its frozen features are good for, as numbers by name."""

    headline: str  # the number that stands for all

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, Any]:
        raise NotImplementedError

    def check(self, backbone: Backbone) -> None:
        """Refuse with a ValueError, before the run, a backbone or settings with which it cannot work."""


def refuse_not_finite(features: Float[Tensor, "b ..."], name: str, index: Int[Tensor, " b"]) -> None:
    """Refuse what a backbone made of the images of these numbers in the data set `name`.

    Raises:
        NotFinite: naming the first image of which it makes NaN or infinity.
    """
    is_finite = features.isfinite().flatten(1).all(dim=1).cpu()
    if not is_finite.all():
        image = int(index.cpu()[~is_finite][0])
        raise NotFinite(f"the backbone makes NaN or infinite features of {name}[{image}], of which no accuracy follows")


@contextmanager
def evaluating(backbone: Callable[..., Any]) -> Iterator[None]:
    """A module in evaluation mode and asking for no gradient of its own, as it was again after; others left alone."""
    module = backbone if isinstance(backbone, nn.Module) else nn.Module()
    modes = {m: m.training for m in module.modules()}
    asks = {p: p.requires_grad for p in module.parameters()}
    try:
        module.eval().requires_grad_(False)
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter, is_asked in asks.items():
            parameter.requires_grad = is_asked


def outputs_at(backbone: Backbone, image_size: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """What the backbone makes of two black squares of `image_size` pixels, which ask for a gradient.

    Raises:
        ValueError: it does not take images of this size.
    """
    with evaluating(backbone), torch.enable_grad():
        try:
            parameters = backbone.parameters() if isinstance(backbone, nn.Module) else iter(())
            device = next((p.device for p in parameters), None)
            return backbone(torch.zeros(2, 3, image_size, image_size, device=device, requires_grad=True))
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ValueError(f"image_size={image_size} does not suit the backbone: {error}") from error
