"""One run from plain strings, parsed where it runs: here, in another process, or on a node of a cluster."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from sslkit import (
    checkpoint,
    config,
    distributed,
    files,
    interruption,
    loader,
    preflight,
    provenance,
    rendezvous,
    status,
)
from sslkit.config import Config
from sslkit.config.problem import Problem
from sslkit.errors import ConfigError, Interrupted, NotFinite, Refused
from sslkit.links import refuse_links
from sslkit.log import Text
from sslkit.status import Status

log = logging.getLogger("sslkit")
LAST_WORDS_S = 300.0  # for rank 0 to write its last checkpoint and why the run ends


@dataclass
class Job:
    """Which files and bindings to run, and where the results go."""

    files: list[str]
    bindings: list[str] = field(default_factory=list)
    run_dir: str = "runs/unnamed"
    command: list[str] = field(default_factory=list)  # what the user typed, for the record
    goes_on: ClassVar[bool] = False  # by itself, where a signal asks it to go on later

    def __call__(self) -> dict[str, float]:
        """Train to the end, going on from the newest checkpoint of the run directory.

        Raises:
            ConfigError: the configuration is wrong, or the directory holds another run or another job; no step has
                been taken then.
            Interrupted: a signal has stopped the run, which is saved.
            RankLost: another rank has died or hangs.
            WorkerLost: a process that loads data has died.
        """
        run_dir = Path(self.run_dir)
        settings, problems = config.examine(self.files, self.bindings)
        device = torch.device("cuda" if _wants_cuda(settings) else "cpu")
        distributed.start(device, run_dir, patience_s=_patience(settings))
        try:
            with (
                interruption.watched(),
                contextlib.ExitStack() as held,
                distributed.losses_named(),
                loader.deaths_named(),
            ):
                distributed.on_main(lambda: refuse_wrong(settings, problems, rendezvous.here().size))
                distributed.on_main(lambda: self._take(run_dir, settings, held))
                return self._train_to_the_end(run_dir, settings)
        except Interrupted as stop:
            distributed.on_main(partial(self.interrupted, stop))
            raise
        finally:
            distributed.stop()
            gc.freeze()  # else Python looks at every object of torch for seconds as it ends, and Slurm waits for few

    def _train_to_the_end(self, run_dir: Path, settings: Config) -> dict[str, float]:
        try:
            results = self._train(run_dir, settings)
            distributed.on_main(lambda: self.finished(results))
        except (Refused, NotFinite):
            _let_rank_0_say_why(run_dir)
            raise
        return results

    def finished(self, results: dict[str, float]) -> None:
        """What rank 0 does with the results, while the others wait."""
        provenance.write_results(Path(self.run_dir), results)

    def interrupted(self, stop: Interrupted) -> None:
        """What rank 0 does once a signal has stopped the run, while the others wait."""

    def _take(self, run_dir: Path, settings: Config, held: contextlib.ExitStack) -> None:
        """Make the run directory ours, until `held` is closed, and write down what the run is and how it ends."""
        held.enter_context(alone_in(run_dir))
        rendezvous.forget_others(run_dir)
        files.forget_partial(run_dir)
        refuse_another_run(run_dir, settings, rendezvous.here().size)
        provenance.write(run_dir, settings, self.command)
        held.enter_context(_ending_said(run_dir, self.goes_on))

    def _train(self, run_dir: Path, settings: Config) -> dict[str, float]:
        from sslkit.train import train

        torch.manual_seed(settings.argument("train", "seed").value)
        arguments = settings.build("train")
        try:
            results = train(run_dir=run_dir, **arguments)
        except ConfigError as error:
            raise ConfigError(f"{error}{settings.places(str(error))}") from error
        return results


def _let_rank_0_say_why(run_dir: Path) -> None:
    """Stay until rank 0 has left the run directory, at most for a while: who ends first may take it along."""
    if not distributed.is_main():
        until = time.monotonic() + LAST_WORDS_S
        while status.holder(run_dir) is not None and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1)


def _wants_cuda(settings: Config) -> bool:
    """Whether the ranks will meet on accelerators, as far as a configuration that may be wrong tells."""
    device = settings.argument("train", "device").value if settings.has("train") else "cpu"
    return torch.cuda.is_available() if device == "auto" else str(device).startswith("cuda")


def _patience(settings: Config) -> float:
    """How long ranks wait for one another, as far as a configuration that may be wrong tells."""
    value = settings.argument("train", "patience_s").value if settings.has("train") else None
    return float(value) if isinstance(value, (int, float)) and value > 0 else 1800.0


@contextlib.contextmanager
def _ending_said(run_dir: Path, goes_on: bool) -> Iterator[None]:
    """Write into the run directory how the run ends, if it is not killed, with the reason in its log."""
    kept = Status(run_dir)
    kept.change("starting")
    try:
        yield
    except Interrupted as stop:
        _end(run_dir, kept, "requeued" if stop.requeue and goes_on else "stopped", str(stop))
        raise
    except BaseException as error:
        _end(run_dir, kept, "failed", f"{type(error).__name__}: {error}")
        raise
    _end(run_dir, kept, "finished", "")


def _end(run_dir: Path, kept: Status, state: str, message: str) -> None:
    try:
        kept.said = status.read(run_dir) | {"message": message}
        kept.change(state)
        if message:
            text = Text(run_dir)
            text.write(message)
            text.close()
    except OSError as error:  # a full disk, mostly; what ends the run is said elsewhere too
        log.warning("cannot write how the run ended into %s: %s", run_dir, error)


def ready(files: list[str], bindings: list[str], n_ranks: int | None = 1) -> Config:
    """A configuration of a training run, on so many ranks, in which nothing is wrong or open; None: as for Slurm.

    Raises:
        ConfigError: with every problem that can be found before a step is taken.
    """
    settings, problems = config.examine(files, bindings)
    refuse_wrong(settings, problems, n_ranks)
    return settings


def refuse_wrong(settings: Config, problems: list[Problem], n_ranks: int | None) -> None:
    """Refuse a configuration with these problems, with others that show when it is put together, or with open values.

    Raises:
        ConfigError: with all of them.
    """
    if settings.has("train"):
        problems = [*problems, *preflight.contradictions(settings, n_ranks)]
    elif not problems:
        files = " ".join(settings.files)
        raise ConfigError(f"{files} binds nothing of `train`; a method's file has `train.method = @Method()`")
    config.refuse([*problems, *settings.left_open()])


@contextlib.contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """The run directory, made if need be and held against other jobs.

    Raises:
        ConfigError: it cannot be made, or another job works in it.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        refuse_links(run_dir)  # opened for writing, a link would empty what it leads to
        lock = files.to_lock(status.lock_path(run_dir))
    except OSError as error:
        raise ConfigError(f"--out {run_dir} cannot be used: {error}") from error
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # workers that outlive a kill do not hold it
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(f"another process trains in {run_dir}; give another --out") from error
        yield


def refuse_another_run(run_dir: Path, settings: Config, n_ranks: int | None) -> None:
    """Refuse to go on with other settings than the directory's run began with, but for those that change no result.

    Args:
        n_ranks: of the run now; None if that is asked later.

    Raises:
        ConfigError: with the lines that differ, or the numbers of ranks.
    """
    kept = run_dir / "operative.gin"
    if not checkpoint.steps(run_dir) and not (run_dir / "results.json").is_file():
        return
    if not kept.is_file():
        raise ConfigError(f"{run_dir} holds a run, but its {kept.name} is gone; give another --out")
    differing, harmless = config.difference(kept.read_text(), settings)
    if harmless and not differing:
        log.warning("%s goes on with other settings that change no result: %s", run_dir, "; ".join(harmless))
    if differing:
        raise ConfigError(
            f"{run_dir} holds a run with other settings (- there, + now):\n" + "\n".join(differing) + "\n"
            "  give another --out, or repeat the settings to go on with that run"
        )
    before = [start.get("ranks") for start in provenance.starts_of(run_dir)][-1:]
    if n_ranks is not None and isinstance(n := (before or [None])[0], int) and n != n_ranks:
        raise ConfigError(
            f"{run_dir} holds a run of {n} rank{'s' * (n != 1)}, which cannot go on with {n_ranks}: a step would have "
            f"other images; give another --out, or the same number of ranks"
        )
