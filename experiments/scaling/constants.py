"""The constants of this machine: what a step computes, what a batch takes to load, what an exchange takes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist

from experiments.scaling.model import Link
from sslkit import config, draws
from sslkit.loader import Views
from sslkit.plan import plan
from sslkit.train import gradients

SMALL, LARGE = 1, 2**20  # floats of an exchange


@dataclass(frozen=True)
class Taken:
    """Seconds of the clock, and of processors: the latter are what other processes on the machine do not change."""

    seconds: float
    busy: float

    @staticmethod
    def median(work: Callable[[], object], n: int) -> Taken:
        """Of so many calls after a first one."""
        work()
        taken = []
        for _ in range(n):
            began, busy = time.monotonic(), time.process_time()
            work()
            taken.append((time.monotonic() - began, time.process_time() - busy))
        return Taken(statistics.median(s for s, _ in taken), statistics.median(b for _, b in taken))


@dataclass(frozen=True)
class Alone:
    """Of one process: loading a batch, and all of a step on a batch that is there."""

    load: Taken
    compute: Taken


def alone(files: list[str], bindings: list[str], n: int, folder: str) -> Alone:
    """Measured apart from the loop: the same batch again and again, memories as they fill meanwhile."""
    settings = config.load(files, ["train.n_steps = 1000000", *bindings])
    torch.manual_seed(0)
    names = ("method", "optimizer", "data", "augmenter", "batch_size")
    method, optimizer, data, augmenter, batch_size = settings.part("train", *names)
    length = plan(method, len(data), batch_size=batch_size, accumulate=1, n_epochs=None, n_steps=1_000_000, n_ranks=1)
    method.make_room(len(data))
    optimizer.build(method.train())
    views = Views(data, augmenter, 0, augmenter.n_global)
    load = Taken.median(partial(views.first, batch_size), n)
    batch, scaler = views.first(batch_size), torch.amp.GradScaler(enabled=False)

    def step() -> None:
        draws.start_generators(0, 0, 0)
        method.set_time(length.at(0))
        optimizer.set_time(length.at(0))
        outcomes, _ = gradients(method, optimizer, [batch], 1, contextlib.nullcontext(), scaler)
        optimizer.inner.step()
        method.update(outcomes)

    return Alone(load, Taken.median(step, n))


@dataclass(frozen=True)
class Links:
    """By seconds of the clock, and of processors of one rank."""

    clock: Link
    busy: Link


def links(n: int, folder: str) -> Links:
    """Those between the ranks of this group, from sums of one number and of a million."""
    small, large = (torch.ones(size) for size in (SMALL, LARGE))
    few = Taken.median(partial(dist.all_reduce, small), 10 * n)
    many = Taken.median(partial(dist.all_reduce, large), n)
    world = dist.get_world_size()
    passing = 2 * (world - 1) / world * large.nbytes

    def link(call: float, whole: float) -> Link:
        return Link(call, passing / max(1e-9, whole - call))

    return Links(link(few.seconds, many.seconds), link(few.busy, many.busy))
