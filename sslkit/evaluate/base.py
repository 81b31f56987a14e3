"""What all protocols share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Backbone = Callable[[Tensor], tuple[Tensor, Tensor, tuple[int, int]]]


class Evaluation:
    """A backbone to what its frozen features are good for, as numbers by name."""

    headline: str  # the number that stands for all

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, Any]:
        raise NotImplementedError

    def check(self, backbone: Backbone) -> None:
        """Refuse with a ValueError, before the run, a backbone or settings with which it cannot work."""
