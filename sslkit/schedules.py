"""Numbers that change over a run, each a function of the time alone.

`Scheduled` is what a parameter accepts that a paper may schedule: a plain number or one of these.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from sslkit.parameters import Natural, NonNegative
from sslkit.registry import register


@dataclass(frozen=True)
class Time:
    """A moment of a run: `step` of `n_steps`, of which `steps_per_epoch` make one pass over the data.

    `batch_size` is what one step takes over all ranks.
    """

    step: int = 0
    n_steps: int = 1
    steps_per_epoch: int = 1
    batch_size: int = 256

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def n_epochs(self) -> int:
        return math.ceil(self.n_steps / self.steps_per_epoch)


class Schedule:
    """A number at each moment of a run."""

    def __call__(self, time: Time) -> float:
        raise NotImplementedError


Scheduled = float | Schedule


def at(value: Scheduled, time: Time) -> float:
    """The number that `value` stands for at `time`."""
    return value(time) if isinstance(value, Schedule) else float(value)


def _length(prefix: str, epochs: float | None, steps: int | None, time: Time) -> int:
    """Steps in a stretch given in epochs or in steps."""
    if epochs is not None and steps is not None:
        raise ValueError(f"{prefix}epochs={epochs} and {prefix}steps={steps}, but one of the two is needed, not both")
    return steps if steps is not None else round((epochs or 0) * time.steps_per_epoch)


def _ramp(start: float, end: float, i: int, n: int) -> float:
    """Value `i` of `n` evenly spaced values from `start` to `end`, both included."""
    return start if n == 1 else start + (end - start) * i / (n - 1)


@register("schedules")
class Constant(Schedule):
    """The same number throughout."""

    def __init__(self, value: float):
        self.value = value

    def __call__(self, time: Time) -> float:
        return self.value


@register("schedules")
class Cosine(Schedule):
    """Half a cosine from `start` to `end` over the run, after a linear warm-up from `warmup_start` to `start`.

    The warm-up includes both ends, so `start` is met twice; `end` is approached and met one step after the last.

    Source: DINO (arXiv:2104.14294), `cosine_scheduler`; CrIBo and AdaSim use the same.

    Example:
        >>> halfway = Cosine(1.0, 0.0)(Time(step=5, n_steps=10))
        >>> round(halfway, 6)
        0.5
    """

    def __init__(
        self,
        start: float,
        end: float,
        *,
        warmup_epochs: NonNegative | None = None,
        warmup_steps: Natural | None = None,
        warmup_start: float = 0.0,
    ):
        self.start, self.end, self.warmup_start = start, end, warmup_start
        self.warmup_epochs, self.warmup_steps = warmup_epochs, warmup_steps
        _length("warmup_", warmup_epochs, warmup_steps, Time())

    def __call__(self, time: Time) -> float:
        warmup = _length("warmup_", self.warmup_epochs, self.warmup_steps, time)
        if time.step < warmup:
            return _ramp(self.warmup_start, self.start, time.step, warmup)
        phase = min(1.0, (time.step - warmup) / max(1, time.n_steps - warmup))
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * phase))


@register("schedules")
class ScaledCosine(Cosine):
    """A `Cosine` whose `start` is given per 256 images of a step, and whose `end` is not scaled.

    Source: the learning rate of DINO, CrIBo and AdaSim; linear scaling rule of Goyal et al. (arXiv:1706.02677).
    """

    def __call__(self, time: Time) -> float:
        scaled = copy.copy(self)
        scaled.start = self.start * time.batch_size / 256
        return Cosine.__call__(scaled, time)


@register("schedules")
class Linear(Schedule):
    """A straight line from `start` to `end`, then `end`; over the whole run unless `epochs` or `steps` is given.

    Args:
        stepwise: the value changes at the start of an epoch only, both ends included (teacher temperature of DINO).
    """

    def __init__(
        self,
        start: float,
        end: float,
        *,
        epochs: Natural | None = None,
        steps: Natural | None = None,
        stepwise: bool = False,
    ):
        if stepwise and steps is not None:
            raise ValueError(f"steps={steps} with stepwise=True: a value that changes per epoch is given in epochs")
        self.start, self.end, self.epochs, self.steps, self.stepwise = start, end, epochs, steps, stepwise
        _length("", epochs, steps, Time())

    def __call__(self, time: Time) -> float:
        if self.stepwise:
            i, n = time.epoch, time.n_epochs if self.epochs is None else self.epochs
        else:
            given = self.epochs is not None or self.steps is not None
            i, n = time.step, _length("", self.epochs, self.steps, time) if given else time.n_steps
        return self.end if i >= n else _ramp(self.start, self.end, i, n)


@register("schedules")
class Piecewise(Schedule):
    """The value of the latest epoch in `values` that has begun, such as `{0: 0.0, 1: 1.0}` for "from epoch 1 on"."""

    def __init__(self, values: Mapping[NonNegative, float]):
        if 0 not in values:
            raise ValueError(f"values={dict(values)}, but it must say what holds from epoch 0 on")
        self.values = dict(sorted(values.items()))

    def __call__(self, time: Time) -> float:
        begun = [e for e in self.values if e * time.steps_per_epoch <= time.step]
        return self.values[begun[-1]]
