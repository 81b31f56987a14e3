"""A run before the run: steps on one batch, and what the whole will take."""

from __future__ import annotations

import resource
import time as clock
from itertools import repeat
from typing import Any

import torch

from sslkit import draws
from sslkit.augmenters import Augmenter
from sslkit.config import Config
from sslkit.errors import NotFinite
from sslkit.launch.job import ready
from sslkit.loader import Images, Views
from sslkit.method import Method
from sslkit.optimizer import Optimizer
from sslkit.plan import Plan, plan
from sslkit.precision import autocast
from sslkit.schedules import Time
from sslkit.status import spell
from sslkit.train import device_of, gradients

N_STEPS = 3  # the first one warms up, the others are timed


def rehearse(files: list[str], bindings: list[str]) -> str:
    """Check, describe, and take a few whole steps on one batch where most terms count; nothing is written.

    Raises:
        ConfigError: something is wrong with the configuration.
        NotFinite: the loss does not stay finite.
    """
    from sslkit.commands import describe

    settings = ready(files, bindings)
    arguments = _built(settings)
    where, n_images = device_of(arguments["device"]), arguments["batch_size"]
    steps = _Steps(where, n_images, N_STEPS, **arguments)
    return "\n".join([describe.as_text(settings), *steps.report()])


def try_out(settings: Config, n_images: int = 4) -> None:
    """Take two steps on a few images, on the processor if there is nothing better here; nothing is written.

    What can go wrong in a step of the whole run mostly goes wrong here, in seconds.

    Raises:
        ConfigError: parts of it refuse what they are given.
        NotFinite: the loss does not stay finite.
    """
    arguments = _built(settings)
    where = device_of("auto")
    _Steps(where, min(n_images, arguments["batch_size"]), 2, **arguments)


def _built(settings: Config) -> dict[str, Any]:
    torch.manual_seed(settings.argument("train", "seed").value)
    return settings.build("train")


class _Steps:
    """A few whole steps on one batch, and what they took."""

    def __init__(
        self,
        where: torch.device,
        n_images: int,
        n: int,
        *,
        method: Method,
        data: Images,
        augmenter: Augmenter,
        optimizer: Optimizer,
        batch_size: int,
        accumulate: int,
        n_epochs: int | None,
        n_steps: int | None,
        seed: int,
        precision: Any,
        **_: Any,
    ):
        self.where, self.n_images, self.accumulate = where, n_images, accumulate
        self.length = plan(
            method,
            len(data),
            batch_size=batch_size,
            accumulate=accumulate,
            n_epochs=n_epochs,
            n_steps=n_steps,
            n_ranks=1,
        )
        method.make_room(len(data))
        began = clock.monotonic()
        batch = Views(data, augmenter, seed, augmenter.n_global).first(n_images).to(where)
        self.loading = clock.monotonic() - began
        method.to(where).train()
        optimizer.build(method)
        cast, scaler = autocast(where, precision)
        self.time = _fullest(method, self.length)
        method.set_time(self.time)
        optimizer.set_time(self.time)
        self.took: list[float] = []
        for _step in range(n):
            _wait(where)
            began = clock.monotonic()
            draws.start_generators(seed, 0, 0)
            outcomes, _norm = gradients(method, optimizer, repeat(batch, accumulate), accumulate, cast, scaler)
            scaler.step(optimizer.inner)
            scaler.update()
            method.update(outcomes)
            _wait(where)
            self.took.append(clock.monotonic() - began)
        self.losses = ", ".join(f"{name} {loss.item():.3f}" for name, loss in outcomes[-1].losses.items())
        if not torch.isfinite(outcomes[-1].total):
            raise NotFinite(f"after {n} steps on one batch the loss is not finite ({self.losses})")

    def report(self) -> list[str]:
        """What a person wants to know before a run."""
        step, length = min(self.took[1:]), self.length
        return [
            f"one batch of {self.n_images} images on {self.where}, as in step {self.time.step}: loss {self.losses}",
            f"peak memory: {_peak(self.where)}",
            f"a step takes {step:.3g} s, "
            f"its images {self.loading * self.accumulate:.3g} s on one processor before that",
            f"{length.n_steps} steps of {length.step_size} images ({length.per_epoch} an epoch): "
            f"about {spell(length.n_steps * step)} if the images come fast enough, evaluations not counted",
        ]


def _fullest(method: Method, length: Plan) -> Time:
    """The moment of a run at which most terms count; the latest of several."""
    terms = method.terms.values()
    return max(length.moments(), key=lambda time: (sum(term.counts_at(time) for term in terms), time.step))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB on the accelerator"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB of this process, libraries included"
