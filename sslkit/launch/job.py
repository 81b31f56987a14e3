"""One run from plain strings, parsed where it runs: here, in another process, or on a node of a cluster."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import sslkit.components
from sslkit import checkpoint, config, distributed, preflight, provenance
from sslkit.config import Config
from sslkit.errors import ConfigError

log = logging.getLogger("sslkit")


@dataclass
class Job:
    """Which files and bindings to run, and where the results go."""

    files: list[str]
    bindings: list[str] = field(default_factory=list)
    run_dir: str = "runs/unnamed"

    def __call__(self) -> dict[str, float]:
        """Train to the end, going on from the newest checkpoint of the run directory.

        Raises:
            ConfigError: the configuration is wrong, or the directory holds another run or another job; no step has
                been taken then.
        """
        from sslkit.train import train

        run_dir = Path(self.run_dir)
        settings = config.load(self.files, self.bindings)
        device = config.value(settings, "train", "device", "auto")
        is_cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        distributed.start(torch.device("cuda" if is_cuda else "cpu"))
        try:
            arguments = prepare(settings)
            settings = config.refuse_unused(settings)
            refuse_another_run(run_dir, settings)
            with alone_in(run_dir):
                if distributed.rank() == 0:
                    provenance.write(run_dir, settings)
                distributed.wait()
                return train(run_dir=run_dir, **arguments)
        finally:
            distributed.stop()


def prepare(settings: Config) -> dict[str, Any]:
    """Everything that `train` asks for, built and checked: first the shapes on meta tensors, then in earnest.

    Raises:
        ConfigError: a value is refused, shapes do not fit, a required value is open or a binding is unused.
    """
    preflight.required(settings)
    preflight.one_step(settings)
    seed = config.value(settings, "train", "seed", 0)
    torch.manual_seed(seed)
    arguments: dict[str, Any] = config.build(settings, "train")
    config.refuse_unused(settings)
    return arguments


@contextlib.contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """The run directory, made if need be and held against other jobs.

    Raises:
        ConfigError: it cannot be made, or another job works in it.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"--out {run_dir} cannot be used: {error}") from error
    with lock:
        if distributed.rank() == 0:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(f"another process trains in {run_dir}; give another --out") from error
        yield


def refuse_another_run(run_dir: Path, settings: Config) -> None:
    """Refuse to go on with other settings than the directory's run began with.

    Raises:
        ConfigError: with the lines that differ.
    """
    kept = run_dir / "config.gin"
    if not checkpoint.steps(run_dir):
        return
    if not kept.is_file():
        raise ConfigError(f"{run_dir} holds checkpoints, but {kept.name} is gone; give another --out")
    before, now = kept.read_text(), settings.text
    if sorted(config.essence(before)) != sorted(config.essence(now)):
        difference = "\n".join(config.difference(before, now))
        raise ConfigError(
            f"{run_dir} holds a run with other settings (- there, + now):\n{difference}\n"
            f"  give another --out, or repeat the settings to go on with that run"
        )
