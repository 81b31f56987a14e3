"""How the processes of a run find one another: who this one is, and where rank 0 listens.

The environment is read in this order: torchrun (or anybody who sets its variables), a step of Slurm with several tasks,
nobody. Under torchrun the address is known. Elsewhere rank 0 takes a free port and writes it into the run directory,
which all machines share: no port is guessed, so nothing collides, and a job that Slurm starts again meets anew.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sslkit import files
from sslkit.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

MEETING = "SSLKIT_MEETING"  # names the start of a run, for processes that we start on one machine
WAIT_S = 300.0  # for rank 0 to say where it listens


@dataclass(frozen=True)
class Place:
    """This process among those of its run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    meeting: str = ""  # of this start of the run; empty where the address is known


def here(environment: Mapping[str, str] = os.environ) -> Place:
    """Who this process is.

    Raises:
        ConfigError: variables that describe it are missing or no numbers.
    """
    try:
        if "RANK" in environment and "WORLD_SIZE" in environment:
            rank = int(environment["RANK"])
            return Place(
                rank,
                int(environment["WORLD_SIZE"]),
                int(environment.get("LOCAL_RANK", rank)),
                int(environment.get("LOCAL_WORLD_SIZE", "1")),
                environment.get(MEETING, ""),
            )
        if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # set by srun alone, and not in a shell of salloc
            start = environment.get("SLURM_RESTART_COUNT", "0")
            return Place(
                int(environment["SLURM_PROCID"]),
                int(environment["SLURM_STEP_NUM_TASKS"]),
                int(environment["SLURM_LOCALID"]),
                _tasks_here(environment),
                f"slurm_{environment['SLURM_JOB_ID']}_{environment['SLURM_STEP_ID']}_{start}",
            )
    except (KeyError, ValueError) as error:
        raise ConfigError(f"the environment does not say who this process is among the others: {error!r}") from error
    return Place()


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Tasks of this node, from `SLURM_STEP_TASKS_PER_NODE`, such as `4(x2),3`."""
    node, counts = int(environment.get("SLURM_NODEID", "0")), list[int]()
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", environment["SLURM_STEP_NUM_TASKS"]).split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or "1")
    return counts[node] if node < len(counts) else counts[-1]


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def meet(place: Place, run_dir: Path) -> Store:
    """A store that all ranks have reached, once rank 0 has said where it listens.

    Raises:
        ConfigError: it does not say so, as where the run directory is not shared by all machines, or not all come.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # who only asks `here` waits for no torch

    note = _note(place, run_dir)
    if place.rank == 0:
        host = socket.gethostname() if place.size > place.local_size else "127.0.0.1"
        store = TCPStore(host, 0, place.size, is_master=True, wait_for_workers=False, timeout=_patience())
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            files.put_json(note, {"host": host, "port": store.port})
        except OSError as error:
            raise ConfigError(f"--out {run_dir} cannot be used: {error}") from error
        return _with_all(store, place)
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        found = files.read_json(note, dict)
        if "port" in found:
            store = TCPStore(found["host"], int(found["port"]), place.size, is_master=False, timeout=_patience())
            return _with_all(store, place)
        time.sleep(0.05)
    raise ConfigError(
        f"rank {place.rank} on {platform.node()} waited {WAIT_S:.0f} s for {note.absolute()}, which rank 0 writes: is "
        f"the run directory on a file system that all machines share?"
    )


def _with_all(store: Store, place: Place) -> Store:
    """The store once every rank is there: how fast each of them starts says nothing of how long one waits later."""
    store.set(f"rank {place.rank} is here", "")
    try:
        store.wait([f"rank {rank} is here" for rank in range(place.size)], _patience())
    except RuntimeError as error:
        raise ConfigError(
            f"rank {place.rank} on {platform.node()} waited {WAIT_S:.0f} s for all {place.size} ranks to start, and "
            f"not all did: those that failed say why"
        ) from error
    return store


def met(place: Place, run_dir: Path) -> None:
    """All ranks are there: what rank 0 wrote is of no more use."""
    if place.rank == 0 and place.meeting:
        _note(place, run_dir).unlink(missing_ok=True)


def forget_others(run_dir: Path) -> None:
    """Drop what starts of this run wrote that ended before they met; whoever holds the run directory may."""
    for old in run_dir.glob(".meeting_*.json"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > WAIT_S:  # those that are younger may still be about to meet
                old.unlink()


def _note(place: Place, run_dir: Path) -> Path:
    return run_dir / f".meeting_{place.meeting}.json"


def _patience() -> timedelta:
    return timedelta(seconds=WAIT_S)
