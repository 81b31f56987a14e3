"""Where a run stands, in a small file that other programs may read at any time."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import struct
import time
from pathlib import Path
from typing import Any

from sslkit import files

BEAT_S = 5.0  # seconds between two writings, but for changes of state
_FLOCK = "hhqqi"  # struct flock of Linux: type, whence, start, length, process


def path(run_dir: Path) -> Path:
    """Where a run writes it."""
    return run_dir / "status.json"


def read(run_dir: Path) -> dict[str, Any]:
    """What the run wrote last; nothing if it never did."""
    return files.read_json(path(run_dir), dict)


class Status:
    """Keeps `status.json`: state, step, speed, time left, and which process on which machine wrote when."""

    def __init__(self, run_dir: Path):
        self.run_dir, self._beat = run_dir, 0.0
        self.said = read(run_dir) | {
            "host": platform.node(),
            "pid": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "message": "",
        }

    def beat(self, **said: Any) -> None:
        """Something that changes often; written every few seconds."""
        self.said |= said
        if time.monotonic() - self._beat >= BEAT_S:
            self._write()

    def change(self, state: str, **said: Any) -> None:
        """The run is now `starting`, `running`, `finished`, `stopped`, `requeued` or `failed`."""
        self.said |= said | {"state": state}
        self._write()

    def flush(self) -> None:
        """Write what was said last."""
        self._write()

    def _write(self) -> None:
        self._beat = time.monotonic()
        files.put_json(path(self.run_dir), self.said | {"time": time.time()})


def lock_path(run_dir: Path) -> Path:
    """The file that is locked by the process that trains in a run directory."""
    return run_dir / ".lock"


def holder(run_dir: Path) -> int | None:
    """The process that trains in a run directory; 0 if it is on another machine, None if there is none."""
    if not lock_path(run_dir).is_file():
        return None
    try:
        with lock_path(run_dir).open("r") as lock:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked)[: len(asked)])
    except OSError:
        return None
    if kind == fcntl.F_UNLCK:
        return None
    said = read(run_dir)
    return int(process) if said.get("host") in (None, platform.node()) else 0


def job_of(run_dir: Path) -> str | None:
    """The number of the job that a run was submitted as last, with that of its part of an array; None if never."""
    found = files.read_json(run_dir / "slurm" / "job.json", dict).get("job")
    return found if isinstance(found, str) and re.fullmatch(r"\d+(_\d+)?", found) else None


def spell(seconds: float) -> str:
    """A length of time in words."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
