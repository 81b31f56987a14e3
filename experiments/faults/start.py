"""One start of a run: its ranks forked from this process, which has imported everything, or the real command."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.faults.shipped import ROOT
from sslkit import config, ending, rendezvous
from sslkit.launch import job as job_module
from sslkit.launch.job import Job

GRACE_S = 40.0  # after the first rank has failed, on a machine that may have other work
LONGEST_S = 600.0
Inside = Callable[[int], None]  # what is changed in a rank before it starts, told its number


def nothing(rank: int) -> None:
    """Change nothing."""


class Start:
    """Processes of one start, and what they have said.

    Args:
        forked: else the command is run as a user types it.
        inside: for forked ranks.
    """

    def __init__(
        self,
        file: str,
        bindings: Sequence[str],
        run_dir: Path,
        said: Path,
        *,
        ranks: int,
        forked: bool,
        inside: Inside = nothing,
        environment: dict[str, str] | None = None,
    ):
        self.n, self.said, self.codes = ranks, said, dict[int, int]()
        self.hung: set[int] = set()
        self.overdue: list[int] = []
        words = ["--gin", file, *(word for binding in bindings for word in ("--set", binding)), "--out", str(run_dir)]
        self.command: subprocess.Popen[bytes] | None = None
        if forked:
            meeting = uuid.uuid4().hex
            places = [_place(rank, ranks, meeting) for rank in range(ranks)]
            job = Job([file], list(bindings), str(run_dir), ["python", "-m", "sslkit.launch", *words])
            self.pids = [_fork(job, rank, place, said, inside) for rank, place in enumerate(places)]
        else:
            several = ["--processes", str(ranks)] if ranks > 1 else []
            given = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
            with said.open("ab") as out:
                self.command = subprocess.Popen(
                    [sys.executable, "-m", "sslkit.launch", *words, *several],
                    cwd=ROOT, env={**os.environ, **given}, stdout=out, stderr=out, start_new_session=True,
                )  # fmt: skip
            self.pids = [self.command.pid]

    @property
    def text(self) -> str:
        """What all ranks have said, also in starts before."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""

    def is_over(self) -> bool:
        """Whether all have ended."""
        for i, pid in enumerate(self.pids):
            if i not in self.codes:
                with contextlib.suppress(ChildProcessError):
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        self.codes[i] = os.waitstatus_to_exitcode(status)
        if self.command is not None and 0 in self.codes:
            self.command.returncode = self.codes[0]
        return len(self.codes) == len(self.pids)

    def ranks(self) -> list[int]:
        """Process ids of the ranks; those of a command once they are there."""
        if self.command is None or self.n == 1:
            return self.pids
        for _ in range(2000):
            found = {}
            for pid in _children(self.command.pid):
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    found |= {int(word[5:]): pid for word in words if word.startswith(b"RANK=")}
            if len(found) == self.n or self.is_over():
                return [found[rank] for rank in sorted(found)]
            time.sleep(0.01)
        return []

    def send(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one rank, or to all; those of a command get most from it."""
        handed_on = rank is None and self.command is not None and number != signal.SIGKILL
        targets = self.pids if handed_on else self.ranks() if rank is None else self.ranks()[rank : rank + 1]
        if number == signal.SIGKILL and rank is None:
            targets = [*self.pids, *targets]
        for pid in dict.fromkeys(targets):
            if pid not in self.pids or self.pids.index(pid) not in self.codes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        if number == signal.SIGSTOP:
            self.hung |= set(range(self.n)) if rank is None else {rank}

    def wait(self) -> list[int]:
        """Until all have ended; the exit codes come back. Who does not by itself is killed and stands in `overdue`."""
        began, until = time.monotonic(), float("inf")
        while not self.is_over():
            time.sleep(0.01)
            if self.command is None and until == float("inf") and any(self.codes.values()):
                until = time.monotonic() + GRACE_S
            left = {i for i in range(len(self.pids)) if i not in self.codes}
            if self.command is None and self.codes and left <= self.hung:  # as `launch.processes` does after a while
                self._kill(left)
            if time.monotonic() > min(until, began + LONGEST_S):
                self.overdue += sorted(left - self.hung)
                self._kill(left)
        return [self.codes[i] for i in range(len(self.pids))]

    def _kill(self, left: set[int]) -> None:
        for i in left:
            for pid in [*(_children(self.pids[i]) if self.command is not None else []), self.pids[i]]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _place(rank: int, n: int, meeting: str) -> dict[str, str]:
    if n == 1:
        return {}
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, rendezvous.MEETING: meeting}
    return {name: str(value) for name, value in names.items()}


def _fork(job: Job, rank: int, place: dict[str, str], said: Path, inside: Inside) -> int:
    """A process that runs the job as a command would; its number comes back."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # not to outlive the experiment
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        logging.getLogger().handlers.clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(place)
        job_module.refuse_wrong = lambda settings, problems, n_ranks: config.refuse(problems)  # what is right stays so
        inside(rank)
        ending.quietly(job, show_traceback=False)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
