"""What ranks hand to one another in the steps of a real run: every call of torch.distributed, with bytes and asker."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslkit import config
from sslkit.batch_norm import SynchronisedBatchNorm
from sslkit.method import Method
from sslkit.train import train
from sslkit.types import Outcome, Queries

PARTS = {"batch_norm": "BatchNorm", "memories": "memory", "partners": "memory", "centerings": "centres"}
PARTS |= {"matchers": "matches"}
PARTS |= {"aligners": "losses", "losses": "losses", "projection": "losses"}


@dataclass(frozen=True)
class Exchange:
    """One call: `bytes` is what this rank hands in, `seconds` are those of the clock, with the wait for the others."""

    kind: str
    bytes: int
    part: str
    seconds: float


@dataclass(frozen=True)
class Seen:
    """Of the steps of one rank, without the first: exchanges, seconds of the clock and of processors, and their sizes.

    `rows` are those of the push to a queue that the last of `steps` makes, `queries` those it asks for; `norms` are the
    channels of each synchronised BatchNorm that a step passes, and whether with gradient.
    """

    steps: list[list[Exchange]]
    seconds: list[float]
    busy: list[float]
    rows: int
    queries: int
    norms: tuple[tuple[int, bool], ...]


@contextlib.contextmanager
def counted() -> Iterator[list[Exchange]]:
    """The sums and gathers that are asked for while a block runs; not what an epoch or a start broadcasts once."""
    calls: list[Exchange] = []
    before = {name: getattr(dist, name) for name in ("all_reduce", "all_gather")}

    def watched(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            handed: Tensor = args[1] if kind == "all_gather" else args[0]
            began = time.monotonic()
            done = call(*args, **kwargs)
            calls.append(Exchange(kind, handed.nbytes, _part(), time.monotonic() - began))
            return done

        return run

    for name, call in before.items():
        setattr(dist, name, watched(name, call))
    try:
        yield calls
    finally:
        for name, call in before.items():
            setattr(dist, name, call)


def _part() -> str:
    """Which part of a step asks: of the frames within sslkit the first that is not of its general parts."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "sslkit" in path.parts and path.stem not in ("distributed", "ops"):
            if path.stem == "train":
                return {"gradients": "gradients", "_agreed": "agreement"}.get(frame.f_code.co_name, "start")
            within = path.with_suffix("").parts
            return PARTS.get(within[within.index("sslkit", len(within) - 3) + 1], "other")
        frame = frame.f_back
    return "other"


def cut(calls: list[Exchange]) -> list[list[Exchange]]:
    """Calls by step: from behind one agreement up to and with the next, so with the update of the step before.

    What is before the first agreement is left out.
    """
    steps, own = [], list[Exchange]()
    for call in calls:
        own.append(call)
        if call.part == "agreement":
            steps.append(own)
            own = []
    return steps[1:]


class Norms:
    """Notes which BatchNorms of a method that exchange are passed, and whether with gradient."""

    def __init__(self, method: Method):
        self.passed: list[tuple[int, bool]] = []
        for network, has_gradient in ((method.student, True), (method.teacher, False)):
            for module in network.modules():
                if isinstance(module, SynchronisedBatchNorm):
                    module.register_forward_hook(self._note(module.num_features, has_gradient))

    def _note(self, channels: int, of_student: bool) -> Callable[..., None]:
        return lambda *_: self.passed.append((channels, of_student and torch.is_grad_enabled()))


def watch(files: list[str], bindings: list[str], n_steps: int, folder: str) -> Seen:
    """Train on this rank for so many steps, and note what they exchange and take."""
    run = Path(folder) / "run"
    run.mkdir(exist_ok=True)
    plain = ("train.log_every = 1000000", "train.n_workers = 0", "train.evaluations = None", "train.pictures = False")
    settings = config.load(files, [*plain, f"train.n_steps = {n_steps}", *bindings])
    torch.manual_seed(0)
    arguments = settings.build("train")
    method, pushed, marks = arguments["method"], list[int](), list[tuple[float, float]]()
    norms = Norms(method)

    def noting_rows(push: Callable[[Queries], None], queries: Queries) -> None:
        pushed.append(queries.dropping_idle().rows.shape[1])
        push(queries)

    def noting_time(update: Callable[[list[Outcome]], None], outcomes: list[Outcome]) -> None:
        update(outcomes)
        marks.append((time.monotonic(), time.process_time()))

    for search in method.searches.values():
        search.memory.push = partial(noting_rows, search.memory.push)
    method.update = partial(noting_time, method.update)
    with counted() as calls:
        train(run_dir=run, **arguments)
    between = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
    of_step = tuple(norms.passed[: len(norms.passed) // n_steps])
    rows, queries = pushed[-2:] if pushed else (0, 0)  # the last push is behind the last agreement
    return Seen(cut(calls), [wall for wall, _ in between], [busy for _, busy in between], rows, queries, of_step)
