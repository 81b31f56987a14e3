"""What every exchangeable part is: a module that computes in `forward` and writes state in `update` only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sslkit.schedules import Schedule, Scheduled, Time

if TYPE_CHECKING:
    from sslkit.types import Outcome


class Component(nn.Module):
    """Base of all parts. State that must survive a restart is a registered buffer, so a checkpoint has it."""

    def __init__(self) -> None:
        super().__init__()
        self._schedules: dict[str, Schedule] = {}
        self._ranges: dict[str, tuple[float, float]] = {}

    def schedule(self, name: str, value: Scheduled, *, least: float = -math.inf, most: float = math.inf) -> None:
        """Keep `value` as the 0-d tensor `self.name`; a schedule refills it at every `set_time`.

        Raises:
            ValueError: the value is out of its range, now or when a schedule comes to it.
        """
        self._ranges[name] = least, most
        if isinstance(value, Schedule):
            self._schedules[name] = value
            value = value(Time())
        self.register_buffer(name, torch.tensor(self._in_range(name, value)), persistent=False)

    def _in_range(self, name: str, value: float) -> float:
        least, most = self._ranges[name]
        if not least <= value <= most:
            raise ValueError(f"{name}={value:g}, but it must be " + _spell(least, most))
        return float(value)

    def set_time(self, time: Time) -> None:
        """Resolve the scheduled values of this component and of all inside it."""
        for module in self.modules():
            if isinstance(module, Component):
                for name, schedule in module._schedules.items():
                    value: Tensor = getattr(module, name)
                    value.fill_(module._in_range(name, schedule(time)))

    def update(self, outcomes: list[Outcome]) -> None:
        """Called once after each optimiser step with what its micro-batches saw."""


def _spell(least: float, most: float) -> str:
    return f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
