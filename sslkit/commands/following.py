"""Runs that are somewhere at work: which there are, what they say, and how to end one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from sslkit import status
from sslkit.errors import ConfigError
from sslkit.launch import cluster
from sslkit.results import Results
from sslkit.shown import visible
from sslkit.status import job_of, spell

SILENT_S = 600  # without a sign, after which a run on another machine is called silent
_SIGNS = ("status.json", "operative.gin", "slurm/job.json")
_SKIP = {"checkpoints", "code", "pictures", "tensorboard", "neighbours", "slurm"}


@dataclass(frozen=True)
class Run:
    """A run directory, and how its run stands."""

    folder: Path
    state: str
    step: str
    speed: str
    left: str
    probe: str
    where: str
    message: str


def runs(root: Path) -> list[Run]:
    """The run directories at or below a folder, by name.

    Raises:
        ConfigError: there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"there is no folder {root.absolute()}; runs lie in runs/ unless --out says otherwise")
    folders = sorted(_found(root))
    jobs = {folder: job_of(folder) or "" for folder in folders}
    states = cluster.states(job for job in jobs.values() if job)
    return [_run(folder, jobs[folder], states.get(jobs[folder])) for folder in folders]


def table(found: Sequence[Run], root: Path) -> str:
    """Runs as lines under a head, with the reasons of those that failed below."""
    if not found:
        return f"no runs in {root}"
    head = ("run", "state", "step", "images/s", "left", "last probe", "where")
    rows = [tuple(_cell(x) for x in (r.folder, r.state, r.step, r.speed, r.left, r.probe, r.where)) for r in found]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines = ["  ".join(cells).rstrip() for cells in padded]
    lines += [
        visible(f"{run.folder}: {run.message}") for run in found if run.state in ("failed", "lost") and run.message
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return visible(" ".join(str(value).split()))


def _found(root: Path) -> Iterator[Path]:
    if any((root / sign).is_file() for sign in _SIGNS):
        yield root
        return
    try:
        inside = sorted(root.iterdir())
    except OSError:  # of somebody else, perhaps
        return
    for folder in inside:
        if folder.is_dir() and not folder.is_symlink() and folder.name not in _SKIP and not folder.name.startswith("."):
            yield from _found(folder)


def _run(folder: Path, job: str, queued: cluster.JobState | None) -> Run:
    said = status.read(folder)
    state, message = _state(folder, said, queued)
    results = Results(folder)
    at_work = state in ("running", "evaluating")
    return Run(
        folder=folder,
        state=state,
        step=f"{said.get('step', 0)}/{said['n_steps']}" if "n_steps" in said else "-",
        speed=f"{said['images_per_s']:.0f}" if at_work and _is_number(said.get("images_per_s")) else "-",
        left=spell(said["left_s"]) if at_work and _is_number(said.get("left_s")) else "-",
        probe=_probe(results),
        where=f"job {job}" if job else f"{said.get('host', '-')}" + (f" {said.get('pid', '-')}" if at_work else ""),
        message=message,
    )


def _state(folder: Path, said: Mapping[str, Any], queued: cluster.JobState | None) -> tuple[str, str]:
    """How a run stands by what it wrote, by who holds its directory, and by what Slurm says."""
    state, message = str(said.get("state", "new")), str(said.get("message", ""))
    if (folder / "results.json").is_file() and state in ("finished", "new"):
        return "finished", ""
    if queued is not None and queued.state == "PENDING":
        return "queued", queued.reason
    if state in ("starting", "running", "evaluating"):
        holder = status.holder(folder)
        if holder is None:
            ended = "" if queued is None else f" (Slurm: {queued.state.lower()})"
            return (
                "lost",
                f"it ended without a word, killed perhaps{ended}; the same command goes on",
            )
        last = said.get("time")
        if holder == 0 and state != "evaluating" and time.time() - (last if _is_number(last) else 0.0) > SILENT_S:
            return "silent", ""
    elif queued is not None and queued.state == "RUNNING":
        return "starting", ""
    elif queued is not None and state in ("new", "requeued") and queued.has_ended:
        if queued.state == "CANCELLED":
            return "stopped", "cancelled while it waited"
        return "failed", f"its job ended as {queued.state.lower()}; `sslkit logs {folder}` shows its output"
    return state, message


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < sys.float_info.max


def _probe(results: Results) -> str:
    """The headline of the last evaluation, which stands first."""
    last = results.last
    return "-" if not last else "{}={:.3f}".format(*next(iter(last.items())))


def lines_of(run_dir: Path, n: int) -> tuple[list[str], Path, int]:
    """The last lines that a run wrote into its log, that log, and its length; of a job without one, its output.

    Raises:
        ConfigError: there is neither.
    """
    log = run_dir / "log.txt"
    outputs = _outputs(run_dir)
    if log.is_file():
        shown, length = _tail(log, n)
        if status.read(run_dir).get("state") == "failed" and outputs:
            shown += [f"--- {outputs[-1]}", *_tail(outputs[-1], n)[0]]
        return shown, log, length
    if outputs:
        shown, length = _tail(outputs[-1], n)
        return shown, outputs[-1], length
    job = job_of(run_dir)
    if job is not None:
        raise ConfigError(f"{run_dir} is job {job}, which has not said anything yet (sslkit runs {run_dir})")
    below = [str(folder) for folder in sorted(_found(run_dir))] if run_dir.is_dir() else []
    if below:
        raise ConfigError(f"{run_dir} holds {len(below)} runs; name one of them: {', '.join(below)}")
    raise ConfigError(f"{run_dir} is not a run directory: there is no {log.absolute()}")


def _tail(path: Path, n: int) -> tuple[list[str], int]:
    """The last lines of a file, and how many bytes of it have been read."""
    text = path.read_bytes()
    return [visible(line) for line in text.decode(errors="replace").splitlines()[-n:]], len(text)


def _outputs(run_dir: Path) -> list[Path]:
    """What rank 0 of the job of a run printed."""
    job = job_of(run_dir)
    if job is None:
        return []
    return [path for folder in _submitted_from(run_dir) for path in folder.glob(f"{job}_0_log.out")]


def _submitted_from(run_dir: Path) -> tuple[Path, Path]:
    """Where submitit keeps the files of a run, and of a sweep that the run is part of."""
    return run_dir.resolve() / "slurm", run_dir.resolve().parent / "slurm"


def follow(path: Path, length: int) -> Iterator[str]:
    """What is added to a file of that length, for ever."""
    with path.open(errors="replace") as file:
        file.seek(length)
        while True:
            line = file.readline()
            if line:
                yield visible(line.rstrip("\n"))
            else:
                time.sleep(0.5)


def cancel(root: Path) -> list[str]:
    """Ask every run at or below a folder to save and stop; what was done comes back.

    Raises:
        ConfigError: no run there is at work or in the queue.
    """
    done, refused = [], []
    folders = [run.folder for run in runs(root)]
    states = cluster.states(job for folder in folders if (job := job_of(folder)) is not None)
    for folder in folders:
        job, holder = job_of(folder), status.holder(folder)
        state = states.get(job) if job is not None else None
        if job is not None and state is not None and not state.has_ended:
            if state.script is None or state.script.parent.resolve() not in _submitted_from(folder):
                refused.append(
                    f"{folder} says that it is job {job}, but that was submitted by {state.script}, not for this "
                    f"run; if it is the one you mean, `scancel {job}` ends it"
                )
                continue
            cluster.cancel(job)
            done.append(f"{folder}: job {job} is cancelled" + ("; it saves first" if holder is not None else ""))
        elif holder:
            os.kill(holder, signal.SIGTERM)
            done.append(f"{folder}: process {holder} was asked to stop; it saves at the end of its step")
        elif holder == 0:
            host = status.read(folder).get("host")
            done.append(f"{folder}: it runs on {host}; ask there")
    if not done:
        raise ConfigError("\n".join(refused) or f"no run in {root} is at work or in the queue")
    return [*done, *refused]


def best_step(run_dir: Path, name: str) -> int:
    """The step of the kept checkpoint whose evaluation found the largest number of that name.

    Raises:
        ConfigError: no step that has a checkpoint has one.
    """
    from sslkit import checkpoint

    results = Results(run_dir)
    step = results.best(name, checkpoint.steps(run_dir))
    if step is None:
        known = sorted({key for found in results.by_step.values() for key in found})
        raise ConfigError(f"{run_dir} has no checkpoint with {name!r}; evaluations found {', '.join(known) or 'none'}")
    return step
