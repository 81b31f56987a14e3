"""What the benchmarks share: the same inputs through several forms in turn, each time in a process of its own."""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch


class Form(Protocol):
    """One way to a result: construction makes the inputs, `run` is measured, `result` is compared with other forms'."""

    def run(self) -> None: ...
    def result(self) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Measured:
    """`inputs` and `peak` are MB of resident memory, when the inputs stood and at most."""

    seconds: list[float]
    inputs: float
    peak: float
    result: dict[str, np.ndarray]

    @property
    def beyond(self) -> float:
        return self.peak - self.inputs


def alternate(forms: Mapping[str, Callable[[], Form]], args: argparse.Namespace) -> dict[str, Measured]:
    """Every form in `args.rounds` processes, in turn, one process at a time; times of all calls, medians of memory.

    A form is called again in its process until it has run for `args.seconds`; then its first call, which also pays for
    the start of threads, does not count.
    """
    runs: dict[str, list[Measured]] = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name, form in forms.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                runs[name].append(process.submit(_measure, form, args.threads, args.seconds).result())
    return {
        name: Measured(
            seconds=[seconds for run in taken for seconds in run.seconds],
            inputs=statistics.median(run.inputs for run in taken),
            peak=statistics.median(run.peak for run in taken),
            result=taken[0].result,
        )
        for name, taken in runs.items()
    }


def _measure(build: Callable[[], Form], threads: int, enough: float) -> Measured:
    torch.set_num_threads(threads)
    form = build()
    inputs = _peak_mb()
    seconds = [_timed(form.run)]
    peak, result = _peak_mb(), form.result()
    while sum(seconds) < enough:
        seconds.append(_timed(form.run))
    return Measured(seconds[1:] or seconds, inputs, peak, result)


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class Room:
    """The most that the process holds itself while a block runs, in MB beyond what it held before."""

    def __enter__(self) -> Room:
        self.before = self.most = anonymous_mb()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.005):
            self.most = max(self.most, anonymous_mb())

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()
        self.most = max(self.most, anonymous_mb())

    @property
    def peak(self) -> float:
        return self.most - self.before


def anonymous_mb() -> float:
    """Resident memory of this process that is not of files; not known outside Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon")), float("nan"))


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """A line for each result that is not the same, to the last bit, in both."""
    lines = []
    for name, values in one.items():
        wrong = (values != other[name]).reshape(len(values), -1).any(axis=1)
        if wrong.any():
            lines.append(f"{name} differ in {wrong.sum()} of {len(wrong)} rows")
    return lines


def options(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes for each form")
    parser.add_argument("--seconds", type=float, default=2.0, help="a form that takes less is called again")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--growth", action="store_true", help="also at a quarter and at half of the size")
    return parser


def facts(args: argparse.Namespace) -> str:
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores, {args.threads} thread(s), torch {torch.__version__}, CPU, "
        f"{args.rounds} process(es) for each form"
    )


HEADER = (
    "| size | form | median s | fastest s | peak MB | of which beyond the inputs | times faster | times less beyond |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|"
)


def rows(size: str, measured: dict[str, Measured]) -> str:
    """A line of a markdown table for each form; ratios, of medians, are against the first one."""
    lines, first = [], next(iter(measured.values()))
    for name, m in measured.items():
        seconds = statistics.median(m.seconds)
        faster, leaner = statistics.median(first.seconds) / seconds, first.beyond / max(m.beyond, 1.0)
        times, memory = f"{seconds:.3g} | {min(m.seconds):.3g}", f"{m.peak:,.0f} | {m.beyond:,.0f}"
        lines.append(f"| {size} | {name} | {times} | {memory} | {faster:.3g} | {leaner:.3g} |")
    return "\n".join(lines)
