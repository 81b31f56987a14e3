"""What is asked of Slurm by its own commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sslkit.errors import ConfigError, SlurmError

_TIMEOUT_S = 60
_ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"),
    *("PREEMPTED", "REVOKED"),
}


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job."""

    state: str  # as Slurm writes it: PENDING, RUNNING, ...
    reason: str = ""  # why it waits
    script: Path | None = None  # what was given to sbatch, as long as the job has not ended

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED


def is_there() -> bool:
    """Whether this machine can submit to a Slurm."""
    return shutil.which("sbatch") is not None


def refuse_none() -> None:
    """Refuse a machine without Slurm, or where it does not answer.

    Raises:
        ConfigError: naming what is missing.
    """
    if not is_there():
        raise ConfigError("--slurm: there is no sbatch on this machine; submit where Slurm's commands are")
    try:
        partitions()
    except SlurmError as error:
        raise ConfigError(
            f"--slurm: Slurm does not answer here; is this a machine to submit from? ({error})"
        ) from error


def partitions() -> dict[str, str]:
    """Names of the partitions, and the longest time that each allows; the default one first."""
    found = {}
    for line in _asked("sinfo", "--noheader", "--format=%P|%l").splitlines():
        name, _, limit = line.strip().partition("|")
        found[name] = limit
    order = sorted(found, key=lambda name: not name.endswith("*"))
    return {name.rstrip("*"): found[name] for name in order}


def is_up(partition: str | None) -> bool:
    """Whether any machine of a partition works at the moment; where none does, a job has to wait for one."""
    chosen = [] if partition is None else [f"--partition={partition}"]
    found = _asked("sinfo", "--noheader", "--Node", "--format=%t", *chosen).split()
    return any(state.rstrip("*~#!%$@^-+") in ("idle", "alloc", "mix", "comp", "resv", "plnd") for state in found)


def nodes(partition: str | None) -> set[str]:
    """Names of the machines of a partition, or of all."""
    chosen = [] if partition is None else [f"--partition={partition}"]
    return set(_asked("sinfo", "--noheader", "--Node", "--format=%n", *chosen).split())


def refusal(script: str) -> str:
    """Why Slurm would not take a script, without submitting it; empty if it would."""
    done = _run(["sbatch", "--test-only"], script)
    said = re.sub(r"^(sbatch|allocation failure): (error: )?", "", done.stderr.strip(), flags=re.MULTILINE)
    return said.replace("allocation failure: ", "") if done.returncode else ""


def states(jobs: Iterable[str]) -> dict[str, JobState]:
    """What Slurm knows of jobs, of those still there and, where it keeps accounts, of those gone."""
    asked = sorted(set(jobs))
    if not asked or not is_there():
        return {}
    found: dict[str, JobState] = {}
    try:
        for line in _asked("sacct", "-n", "-P", "-X", f"-j{','.join(asked)}", "-oJobID,State").splitlines():
            job, _, state = line.partition("|")
            found |= dict.fromkeys(_parts(job), JobState(state.split(" ")[0]))
    except SlurmError:  # without accounting
        pass
    try:
        shown = _asked("squeue", "--noheader", "--array", f"--jobs={','.join(asked)}", "--format=%i|%T|%r|%o")
    except SlurmError:  # it says so of jobs that it has forgotten
        shown = ""
    for line in shown.splitlines():
        job, state, reason, script = line.split("|", 3)
        found[job] = JobState(state, "" if reason == "None" else reason, Path(script))
    return found


def _parts(job: str) -> list[str]:
    """The jobs that a line stands for: those of an array that have not begun share one, as `52_[0-2,5%1]`."""
    array, bracket, parts = job.partition("_[")
    if not bracket:
        return [job]
    ranges = re.findall(r"(?<=[\[,])(\d+)(?:-(\d+))?(?:[:](\d+))?(?=[,%\]])", f"[{parts}")  # it may end in `...`
    return [
        f"{array}_{n}"
        for first, last, step in ranges
        for n in range(int(first), int(last or first) + 1, int(step or "1"))
    ]


def is_cancelled(job: str) -> bool:
    """Whether somebody has cancelled a job that still ends, where Slurm keeps accounts."""
    try:
        return _asked("sacct", "-n", "-P", "-X", f"-j{job}", "-oState").startswith("CANCELLED")
    except SlurmError:
        return False


def requeue(job: str) -> None:
    """Let Slurm start a job anew, under the same number.

    Raises:
        SlurmError: it does not.
    """
    _asked("scontrol", "requeue", job)


def cancel(job: str) -> None:
    """End a job, or take it out of the queue; the run is asked to save first.

    Raises:
        SlurmError: there is no such job, or it is somebody else's.
    """
    _asked("scancel", job)


def _asked(*words: str) -> str:
    done = _run(words)
    if done.returncode:
        raise SlurmError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _run(words: Sequence[str], said: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, input=said, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{words[0]}: {error}") from error
