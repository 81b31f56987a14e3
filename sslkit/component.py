"""What every exchangeable part is: a module that computes in `forward` and writes state in `update` only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from sslkit.distributed import Scope
from sslkit.parameters import Within, parameters, range_of
from sslkit.schedules import Schedule, Scheduled, Time

if TYPE_CHECKING:
    from sslkit.types import Outcome


LARGEST = torch.finfo(torch.float32).max


class Component(nn.Module):
    """Base of all parts. State that must survive a restart is a registered buffer, so a checkpoint has it.

    What a part makes of an image depends on that image and on what is remembered, unless it says otherwise: by `scope`,
    `draws`, or a BatchNorm inside (`sslkit.scopes` makes sentences of it).
    """

    scope: Scope | None = None  # on which other images of its batch: those of this rank, or of all
    switch: ClassVar[str] = "scope"  # the parameter that decides so

    @property
    def draws(self) -> bool:
        """Whether in training it draws from torch's generator, as drop path and dropout do."""
        return False

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
        self._ranges[name] = self._declared(name)
        if isinstance(value, Schedule):
            self._schedules[name] = value
        at_first = value(Time()) if isinstance(value, Schedule) else self._in_range(name, value)  # no run is known yet
        self.register_buffer(name, torch.tensor(float(at_first)), persistent=False)

    def _declared(self, name: str) -> Within:
        """The range of the parameter, from the class that has it: a subclass may hand its own value on."""
        for cls in type(self).__mro__:
            init: Callable[..., Any] | None = vars(cls).get("__init__")
            if init is not None and name in parameters(init):
                return range_of(parameters(init)[name].hint) or Within()
        raise AttributeError(f"{type(self).__name__} has no parameter {name!r} that it could schedule")

    def _in_range(self, name: str, value: float) -> float:
        if value not in self._ranges[name]:
            raise ValueError(f"{name}={value:g}, but it must be {self._ranges[name]}")
        if not abs(value) <= LARGEST:
            raise ValueError(f"{name}={value:g}, but it must be a finite number of single precision")
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
