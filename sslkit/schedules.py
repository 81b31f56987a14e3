"""Numbers that change over a run, each a function of the time alone.

`Scheduled` is what a parameter accepts that a paper may schedule: a plain number or one of these.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from sslkit.parameters import Count, Natural, NonNegative, Share, Within
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


def _length(
    name: str, time: Time, *, epochs: float | None = None, steps: float | None = None, fraction: float | None = None
) -> int:
    """Steps in a stretch given in epochs, in steps, or as a fraction of the run."""
    given = {unit: x for unit, x in (("epochs", epochs), ("steps", steps), ("fraction", fraction)) if x is not None}
    if len(given) > 1:
        said = ", ".join(f"{name}{unit}={x}" for unit, x in given.items())
        raise ValueError(f"{said}: give one of them")
    if fraction is not None:
        return round(fraction * time.n_steps)
    return round(steps if steps is not None else (epochs or 0) * time.steps_per_epoch)


def _ramp(start: float, end: float, i: int, n: int) -> float:
    """Value `i` of `n` evenly spaced values from `start` to `end`, both included."""
    return start if n == 1 else end if i == n - 1 else start + (end - start) * i / (n - 1)  # exactly `end`


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

    Args:
        warmup_epochs, warmup_steps, warmup_fraction: the length of the warm-up, in one of the three (the last is a
            share of the run, so it follows `--steps`); none if left out.

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
        warmup_fraction: Share | None = None,
        warmup_start: float = 0.0,
    ):
        self.start, self.end, self.warmup_start = start, end, warmup_start
        self.warmup = {"epochs": warmup_epochs, "steps": warmup_steps, "fraction": warmup_fraction}
        _length("warmup_", Time(), **self.warmup)

    def __call__(self, time: Time) -> float:
        warmup = _length("warmup_", time, **self.warmup)
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
class Scaled(Schedule):
    """Another schedule, or a number, given per `per` images of a step and scaled to the step's own number of images.

    That is the batch size over all ranks and accumulated batches, so one file suits any number of them.

    Args:
        rule: times their ratio (`"linear"`), or times its square root (`"sqrt"`).

    Source: the linear scaling rule of Goyal et al. (arXiv:1706.02677).
    """

    def __init__(self, value: Scheduled, *, per: Count = 256, rule: Literal["linear", "sqrt"] = "linear"):
        self.value, self.per, self.rule = value, per, rule

    def __call__(self, time: Time) -> float:
        ratio = time.batch_size / self.per
        return at(self.value, time) * (math.sqrt(ratio) if self.rule == "sqrt" else ratio)


@register("schedules")
class Linear(Schedule):
    """A straight line from `start` to `end`, then `end`; over the whole run unless its length is given.

    Args:
        epochs, steps, fraction: the length of the line, in one of the three; the last is a share of the run.
        stepwise: the value changes at the start of an epoch only, both ends included (teacher temperature of DINO).
    """

    def __init__(
        self,
        start: float,
        end: float,
        *,
        epochs: Natural | None = None,
        steps: Natural | None = None,
        fraction: Share | None = None,
        stepwise: bool = False,
    ):
        if stepwise and (steps is not None or fraction is not None):
            raise ValueError(
                f"stepwise=True with steps={steps}, fraction={fraction}: what changes per epoch has a length in epochs"
            )
        self.start, self.end, self.epochs, self.stepwise = start, end, epochs, stepwise
        self.length = {"epochs": epochs, "steps": steps, "fraction": fraction}
        _length("", Time(), **self.length)

    def __call__(self, time: Time) -> float:
        if self.stepwise:
            i, n = time.epoch, time.n_epochs if self.epochs is None else self.epochs
        else:
            is_given = any(x is not None for x in self.length.values())
            i, n = time.step, _length("", time, **self.length) if is_given else time.n_steps
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


@register("schedules")
class Product(Schedule):
    """Several schedules or numbers multiplied."""

    def __init__(self, factors: Sequence[Scheduled]):
        self.factors = tuple(factors)

    def __call__(self, time: Time) -> float:
        return math.prod(at(factor, time) for factor in self.factors)


@register("schedules")
class Rest(Schedule):
    """What another schedule, or a number, leaves of 1.

    Raises:
        ValueError: it is not from 0 to 1, now or when a schedule comes to it.
    """

    def __init__(self, value: Annotated[Scheduled, Within(0, 1)]):
        self.value = value

    def __call__(self, time: Time) -> float:
        value = at(self.value, time)
        if not 0 <= value <= 1:
            raise ValueError(f"value={value:g} at step {time.step}, but it must be from 0 to 1 to leave a rest of 1")
        return 1 - value
