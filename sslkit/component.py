"""What every exchangeable part is: a module that computes in `forward` and writes state in `update` only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sslkit.parameters import Within, parameters, range_of
from sslkit.schedules import Schedule, Scheduled, Time

if TYPE_CHECKING:
    from sslkit.types import Outcome


class Component(nn.Module):
    """Base of all parts. State that must survive a restart is a registered buffer, so a checkpoint has it."""

    def __init__(self) -> None:
        super().__init__()
        self._schedules: dict[str, Schedule] = {}
        self._ranges: dict[str, Within] = {}

    def schedule(self, name: str, value: Scheduled) -> None:
        """Keep `value` as the 0-d tensor `self.name`; a schedule refills it at every `set_time`.

        Its range is the one that the parameter `name` declares.

        Raises:
            ValueError: the value is out of its range, now or when a schedule comes to it.
        """
        made: Callable[..., Any] = type(self)
        declared = parameters(made).get(name)
        self._ranges[name] = (range_of(declared.hint) if declared else None) or Within()
        if isinstance(value, Schedule):
            self._schedules[name] = value
            value = value(Time())
        self.register_buffer(name, torch.tensor(self._in_range(name, value)), persistent=False)

    def _in_range(self, name: str, value: float) -> float:
        if value not in self._ranges[name]:
            raise ValueError(f"{name}={value:g}, but it must be {self._ranges[name]}")
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
