"""What every exchangeable part is: a module that computes in `forward` and writes state in `update` only."""

from __future__ import annotations

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

    def schedule(self, name: str, value: Scheduled) -> None:
        """Keep `value` as the 0-d tensor `self.name`; a schedule refills it at every `set_time`."""
        if isinstance(value, Schedule):
            self._schedules[name] = value
            value = value(Time())
        self.register_buffer(name, torch.tensor(float(value)), persistent=False)

    def set_time(self, time: Time) -> None:
        """Resolve the scheduled values of this component and of all inside it."""
        for module in self.modules():
            if isinstance(module, Component):
                for name, schedule in module._schedules.items():
                    value: Tensor = getattr(module, name)
                    value.fill_(schedule(time))

    def update(self, outcomes: list[Outcome]) -> None:
        """Called once after each optimiser step with what its micro-batches saw."""
