"""One run from plain strings, parsed where it runs: here, in another process, or on a node of a cluster."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sslkit import checkpoint, config, distributed, preflight, provenance
from sslkit.config import Config
from sslkit.errors import ConfigError


@dataclass
class Job:
    """Which files and bindings to run, and where the results go."""

    files: list[str]
    bindings: list[str] = field(default_factory=list)
    run_dir: str = "runs/unnamed"
    command: list[str] = field(default_factory=list)  # what the user typed, for the record

    def __call__(self) -> dict[str, float]:
        """Train to the end, going on from the newest checkpoint of the run directory.

        Raises:
            ConfigError: the configuration is wrong, or the directory holds another run or another job; no step has
                been taken then.
        """
        from sslkit.train import train

        run_dir = Path(self.run_dir)
        settings = ready(self.files, self.bindings)
        device = settings.argument("train", "device").value
        is_cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        distributed.start(torch.device("cuda" if is_cuda else "cpu"))
        try:
            torch.manual_seed(settings.argument("train", "seed").value)
            arguments = settings.build("train")
            refuse_another_run(run_dir, settings)
            with alone_in(run_dir):
                if distributed.rank() == 0:
                    provenance.write(run_dir, settings, self.command)
                distributed.wait()
                results = train(run_dir=run_dir, **arguments)
                if distributed.rank() == 0:
                    provenance.write_results(run_dir, results)
                return results
        except ConfigError as error:
            raise ConfigError(f"{error}{settings.places(str(error))}") from error
        finally:
            distributed.stop()


def ready(files: list[str], bindings: list[str]) -> Config:
    """A configuration of a training run in which nothing is wrong or open.

    Raises:
        ConfigError: with every problem that can be found before a step is taken.
    """
    settings, problems = config.examine(files, bindings)
    if settings.has("train"):
        problems += preflight.contradictions(settings)
    elif not problems:
        raise ConfigError(f"{' '.join(files)} binds nothing of `train`; a method's file has `train.method = @Method()`")
    config.refuse([*problems, *settings.left_open()])
    return settings


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
    kept = run_dir / "operative.gin"
    if not checkpoint.steps(run_dir):
        return
    if not kept.is_file():
        raise ConfigError(f"{run_dir} holds checkpoints, but {kept.name} is gone; give another --out")
    differing = config.difference(kept.read_text(), settings.operative)
    if differing:
        raise ConfigError(
            f"{run_dir} holds a run with other settings (- there, + now):\n" + "\n".join(differing) + "\n"
            "  give another --out, or repeat the settings to go on with that run"
        )
