"""Everything a run needs to go on, on disk, whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sslkit import files
from sslkit.errors import CheckpointError

log = logging.getLogger("sslkit")
FORMAT = 2  # counted up when the layout of a state changes; `_UPGRADES` then knows how the one before is read
LAG_S = 90.0  # longer than a file system of a network remembers what was in a folder
_NAME = re.compile(r"step_(\d{8,})(?:-([0-9a-f]{16}))?\.pt")  # without a digest: of the first format


def folder(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def paths(run_dir: Path) -> dict[int, Path]:
    """The file of every step that has a checkpoint, oldest first."""
    found = {path: _NAME.fullmatch(path.name) for path in sorted(folder(run_dir).glob("step_*.pt"))}
    return dict(sorted((int(name[1]), path) for path, name in found.items() if name and path.is_file()))


def steps(run_dir: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    return list(paths(run_dir))


def save(run_dir: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write the state after `step` steps.

    The file appears once it is complete and on the disk, under a name that ends in the first digits of its SHA-256: a
    kill or a full disk leaves the ones before it as they were, and a file that changes later does not fit its name.

    Raises:
        OSError: it cannot be written.
    """
    folder(run_dir).mkdir(parents=True, exist_ok=True)
    before = paths(run_dir).get(step)
    stem = folder(run_dir) / f"step_{step:08d}"
    hashed = None
    try:
        with files.partial(stem) as (file, put):
            hashed = _Hashed(file)
            torch.save({"format": FORMAT, "step": step, **state}, hashed)  # type: ignore[arg-type]  # it asks for write alone
            target = stem.with_name(f"{stem.name}-{hashed.sha256.hexdigest()[:16]}.pt")
            put(target)
    except (RuntimeError, OSError) as error:  # torch's writer says nothing else of a full disk
        reason = hashed.error if hashed is not None and hashed.error is not None else str(error).splitlines()[0]
        raise OSError(f"cannot write {stem}: {reason}") from error
    if before not in (None, target):
        before.unlink(missing_ok=True)
    files.forget_partial(folder(run_dir))
    return target


def prune(run_dir: Path, done: int, *, keep: int, every: int | None = None, best: int | None = None) -> None:
    """Drop all but the latest `keep` checkpoints, those of every `every`-th step, and that of the step `best`.

    Those of steps after `done`, which a run has passed over that went on from an earlier one, do not count and stay
    until the run writes them anew.
    """
    known = {step: path for step, path in paths(run_dir).items() if step <= done}
    kept = {*list(known)[-keep:], best}
    for step, path in known.items():
        if step not in kept and (every is None or step % every):
            path.unlink(missing_ok=True)


def latest(run_dir: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that is whole, with its step, in host memory; None if there is none at all.

    One that is not is named in a warning, with what is wrong with it, and passed over.

    Raises:
        CheckpointError: there are checkpoints and none of them can be read, or the newest is of a later version.
    """
    known = paths(run_dir)
    for step, path in reversed(known.items()):
        try:
            return step, read(path)
        except CheckpointError:
            raise
        except Exception as error:
            log.warning("%s cannot be read (%s); trying the one before it", path, _why(error))
    if known:
        raise CheckpointError(
            f"none of the {len(known)} checkpoints in {folder(run_dir)} can be read; move them away to start anew"
        )
    return None


def of_step(run_dir: Path, step: int) -> dict[str, Any]:
    """The state after `step` steps.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    known = paths(run_dir)
    if step not in known:
        raise CheckpointError(f"{run_dir} has no checkpoint of step {step}; it has {list(known) or 'none'}")
    try:
        return read(known[step])
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{known[step]} cannot be read: {_why(error)}") from error


def wait_for(run_dir: Path, step: int) -> None:
    """Until this machine sees the checkpoint that another one has found, or for a while: shared folders lag."""
    until = time.monotonic() + LAG_S
    while step not in paths(run_dir) and time.monotonic() < until:
        time.sleep(1)


def _why(error: Exception) -> str:
    """Why a file cannot be read, which may raise anything; torch's own words would say how to run what it holds."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than tensors and plain values, or is torn"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read(path: Path) -> dict[str, Any]:
    """The state that a file holds, as this version has it: tensors and plain values, and nothing that could run.

    Raises:
        ValueError: it is not what was written under that name, or no state.
        CheckpointError: a later version wrote it.
    """
    name = _NAME.fullmatch(path.name)
    with path.open("rb") as file:
        if name is not None and name[2] is not None:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not digest.startswith(name[2]):
                raise ValueError(f"its SHA-256 starts with {digest[:16]}, so it is torn or was changed")
            file.seek(0)
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it holds no state of a run")
    found = state.get("format", 1)
    if not isinstance(found, int) or found > FORMAT:
        raise CheckpointError(
            f"{path} has format {found}, and this version of sslkit knows those up to {FORMAT}: use the version that "
            f"wrote it (environment.json names it)"
        )
    for version in range(found, FORMAT):
        state = _UPGRADES[version](state)
    return dict(state)


def _from_first(state: dict[str, Any]) -> dict[str, Any]:
    """The first format had the results of evaluations, and of several ranks with their own BatchNorm one."""
    return {"format": 2, **{name: value for name, value in state.items() if name != "results"}, "ranks": []}


_UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_first}


class _Hashed:
    """A file to write that knows the SHA-256 of what was written, and what went wrong."""

    def __init__(self, file: BinaryIO):
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
