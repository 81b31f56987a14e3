"""What is done inside a rank: at a moment of a step, or on the way of a file to the disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.faults.start import Inside
from sslkit import checkpoint, train
from sslkit.loader import Views
from sslkit.log import Log
from sslkit.method import Method
from sslkit.types import Outcome

Act = Callable[[], None]
MOMENTS = {  # of a step: where, and whether before or after it
    "as the step begins": (Method, "set_time", "before"),
    "after the forward pass": (Method, "forward", "after"),
    "after the backward pass": (train, "gradients", "after"),
    "after the update": (Method, "update", "after"),
    "as the step ends": (Log, "tick", "after"),
}
_step = -1  # of this process


def kill() -> None:
    """End this process as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """Stop this process where it is."""
    os.kill(os.getpid(), signal.SIGSTOP)


def at_step(step: int, moment: str, act: Act, rank: int | None = None) -> Inside:
    """Do something at that moment of that step, in one rank or in all."""

    def inside(this: int) -> None:
        _follow_steps()
        if rank in (None, this):
            owner, name, when = MOMENTS[moment]
            _wrap(owner, name, lambda *given: act() if _step == step else None, when)

    return inside


def around_rename(pattern: str, nth: int, act: Act, when: str = "before") -> Inside:
    """Do something before or after the `nth` file of such a name gets it."""
    seen = 0

    def count(source: Any, target: Any) -> None:
        nonlocal seen
        if Path(target).match(pattern):
            seen += 1
            if seen == nth:
                act()

    return lambda rank: _wrap(os, "replace", count, when)


def while_written(nth: int, act: Act) -> Inside:
    """Do something before the `nth` piece of a checkpoint is written; each has some fifty."""
    seen = 0

    def count(*given: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == nth:
            act()

    return lambda rank: _wrap(checkpoint._Hashed, "write", count, "before")


def before_old_ones_go(nth: int, act: Act) -> Inside:
    """Do something before old checkpoints are dropped for the `nth` time."""
    seen = 0

    def count(*given: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == nth:
            act()

    return lambda rank: _wrap(checkpoint, "prune", count, "before")


def poisoned(what: str, step: int, rank: int, value: float = float("nan")) -> Inside:
    """Put a number that is none into a `loss`, into a `gradient` or into the `pixels` of a view."""

    def inside(this: int) -> None:
        _follow_steps()
        if this != rank:
            return
        before = Method.forward

        def forward(self: Method, batch: Any, *given: Any) -> Outcome:
            if what == "pixels" and _step == step:
                batch.views[0].pixels[0, 0, 0, 0] = value
            outcome = before(self, batch, *given)
            if what == "loss" and _step == step:
                outcome.losses[next(reversed(outcome.losses))] *= value
            if what == "gradient" and _step == step:
                parameter = next(p for p in self.student.parameters() if p.requires_grad)
                parameter.register_hook(lambda gradient: torch.full_like(gradient, value))
            return outcome

        Method.forward = forward  # type: ignore[method-assign]

    return inside


def worker_killed(nth: int, rank: int) -> Inside:
    """Kill the loader process that makes the `nth` batch of a rank before it does."""
    seen = 0

    def count(*given: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == nth and torch.utils.data.get_worker_info() is not None:
            kill()

    return lambda this: _wrap(Views, "__getitems__", count, "before") if this == rank else None


def _follow_steps() -> None:
    def note(method: Method, time: Any) -> None:
        global _step
        _step = time.step

    if not hasattr(Method.set_time, "follows"):
        _wrap(Method, "set_time", note, "before")
        Method.set_time.follows = True  # type: ignore[attr-defined]


def _wrap(owner: Any, name: str, call: Callable[..., None], when: str) -> None:
    inner = getattr(owner, name)

    def wrapped(*given: Any, **named: Any) -> Any:
        if when == "before":
            call(*given)
        result = inner(*given, **named)
        if when == "after":
            call(*given)
        return result

    setattr(owner, name, wrapped)
