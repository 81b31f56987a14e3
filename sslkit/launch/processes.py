"""Runs in processes of their own on this machine: several ranks of one, and what is done when one of them fails."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from sslkit import interruption, rendezvous, status

GRACE_S = 15.0  # for the other ranks to end by themselves once one has failed
LAST_S = 300.0  # the same once one has finished: they have nothing more to say to one another, so nobody misses one
_PR_SET_PDEATHSIG = 1


def run(words: Sequence[str], n: int, run_dir: Path) -> int:
    """Run `sslkit` with these words on `n` ranks; the exit code of the one that failed first comes back, else 0.

    Signals are handed on to all ranks, which save and stop; a second Ctrl-C ends them. When one fails, the others end
    with it: by themselves as soon as they miss it, or killed after a while. Killed itself, this process takes the ranks
    with it.
    """
    group = _Group(_started(words, n))
    with _handed_on(group.hand_on):
        failed = group.wait()
    if failed is None:
        return 0
    if group.hung is not None:
        _say(f"rank {group.hung} hung for {LAST_S:.0f} s after another had finished, and was killed", run_dir)
        return 1
    code = group.ranks[failed].returncode
    if group.interrupts > 1:
        return 128 + signal.SIGINT
    if code < 0 and code not in (-signal.SIGINT, -signal.SIGTERM):
        _say(
            f"rank {failed} was killed by {signal.Signals(-code).name}"
            f"{' (out of memory?)' if code == -signal.SIGKILL else ''}; the same command goes on from the newest "
            f"checkpoint in {run_dir}",
            run_dir,
        )
    return 128 - code if code < 0 else code


def _say(why: str, run_dir: Path) -> None:
    """Say why a run failed, also where one looks for it later; its ranks know less."""
    click.echo(f"error: {why}", err=True)
    with contextlib.suppress(OSError):
        if status.read(run_dir):
            status.Status(run_dir).change("failed", message=why)


def run_alone(words: Sequence[str]) -> int:
    """Run a command to which signals are handed on, so that what it does can be saved; its exit code comes back."""
    process = subprocess.Popen(words, preexec_fn=_leave_with_parent, start_new_session=True)
    with _handed_on(lambda number, frame: process.send_signal(number)):
        code = process.wait()
    return 128 - code if code < 0 else code


@contextmanager
def _handed_on(to: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals that ask to stop go there while this lasts."""
    before = {number: signal.signal(number, to) for number in (*interruption.STOP, interruption.REQUEUE)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def python_module(name: str) -> list[str]:
    """The command that runs a module of ours in another process, and nothing from the folder that one is in.

    `-m` would import from there first; where this process does so as well, it is the folder of the code.
    """
    safe = [] if os.getcwd() in map(os.path.abspath, sys.path) else ["-P"]
    return [sys.executable, *safe, "-m", name]


def _started(words: Sequence[str], n: int) -> list[subprocess.Popen[bytes]]:
    meeting = uuid.uuid4().hex
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, rendezvous.processors() // n))}
    return [
        subprocess.Popen(
            [*python_module("sslkit"), *words],
            env={
                **os.environ,
                **threads,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(n),
                "LOCAL_WORLD_SIZE": str(n),
                rendezvous.MEETING: meeting,
            },
            preexec_fn=_leave_with_parent,
            start_new_session=True,  # Ctrl-C reaches this process alone, which hands it on once
        )
        for rank in range(n)
    ]


class _Group:
    def __init__(self, ranks: Sequence[subprocess.Popen[bytes]]):
        self.ranks = ranks
        self.hung: int | None = None
        self.interrupts = 0

    def hand_on(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 1:  # ranks that wait for one another in an exchange would not hear it
            number = signal.SIGKILL
        for process in self.ranks:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self) -> int | None:
        """Until all have ended; the rank that failed first comes back."""
        failed, until = None, float("inf")
        while any(process.poll() is None for process in self.ranks):
            time.sleep(0.05)
            if failed is None:
                failed = self._failed()
                if failed is not None:
                    until = time.monotonic() + GRACE_S
                elif until == float("inf") and any(process.poll() == 0 for process in self.ranks):
                    until = time.monotonic() + LAST_S
            if time.monotonic() > until:
                running = [rank for rank, process in enumerate(self.ranks) if process.poll() is None]
                self.hung = running[0] if running and failed is None else self.hung
                for rank in running:
                    self.ranks[rank].kill()
        return failed if failed is not None else self._failed()

    def _failed(self) -> int | None:
        """The rank that ended with a failure; one that was killed is a cause, one that says so may be a consequence."""
        codes = {rank: process.poll() for rank, process in enumerate(self.ranks)}
        bad = [rank for rank, code in codes.items() if code]
        return min(bad, key=lambda rank: ((codes[rank] or 0) >= 0, rank)) if bad else None


def _leave_with_parent() -> None:
    """Be asked to stop when the parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
