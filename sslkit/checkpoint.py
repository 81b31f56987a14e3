"""Everything a run needs to go on, on disk, whole or not at all."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from sslkit import files
from sslkit.errors import CheckpointError

log = logging.getLogger("sslkit")
_NAME = re.compile(r"step_(\d+)\.pt$")


def folder(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def steps(run_dir: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    found = (_NAME.search(p.name) for p in folder(run_dir).glob("step_*.pt"))
    return sorted(int(match[1]) for match in found if match)


def path(run_dir: Path, step: int) -> Path:
    """The file of the checkpoint after `step` steps, whether it exists or not."""
    return folder(run_dir) / f"step_{step:08d}.pt"


def save(run_dir: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write the state after `step` steps and drop all but the latest `keep` checkpoints.

    The file appears under its name only once it is complete and on the disk: a kill or a full disk leaves the ones
    before it as they were.
    """
    folder(run_dir).mkdir(parents=True, exist_ok=True)
    target = path(run_dir, step)
    try:
        with files.whole(target) as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's writer says so of a full disk
        raise OSError(f"cannot write {target}: {str(error).splitlines()[0]}") from error
    for old in steps(run_dir)[:-keep]:
        path(run_dir, old).unlink()
    for torn in folder(run_dir).glob("*.partial*"):  # left by a process that was killed
        torn.unlink()
    return target


def latest(run_dir: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that can be read, with its step, in host memory; None if there is none at all.

    An unreadable one is named in a warning and passed over.

    Raises:
        CheckpointError: there are checkpoints and none of them can be read.
    """
    known = steps(run_dir)
    for step in reversed(known):
        try:
            state = torch.load(path(run_dir, step), map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise ValueError("it holds no state of a method")
            return step, state
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning("%s cannot be read (%s); trying the one before it", path(run_dir, step), reason)
    if known:
        raise CheckpointError(
            f"none of the {len(known)} checkpoints in {folder(run_dir)} can be read; move them away to start anew"
        )
    return None
