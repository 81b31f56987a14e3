"""From a command to jobs of Slurm: everything is looked at first, then written down, then submitted."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm import slurm as writer

from sslkit import files, status
from sslkit.config import Config, load
from sslkit.errors import ConfigError, SlurmError
from sslkit.launch import cluster, snapshot
from sslkit.launch.job import ready, refuse_another_run
from sslkit.launch.on_slurm import SlurmJob
from sslkit.launch.options import Asked
from sslkit.links import refuse_links
from sslkit.registry import did_you_mean
from sslkit.slurm import FOR_SHELL, Slurm
from sslkit.status import job_of

PYTHON = f"{shlex.quote(sys.executable)} -m sslkit.launch.held"
_OF_ONE_MACHINE = {"tmpfs", "ramfs", "overlay"}
_OWN = ("/tmp", "/var/tmp", "/dev/shm", "/run")


@dataclass(frozen=True)
class Submission:
    """One run, or the runs of a sweep as an array.

    Args:
        run_dirs: of each run.
        settings: of each run, checked.
        folder: where submitit keeps its files, with the output of every task.
        axes: of the sweep.
        sweep_dir: where its table goes.
        command: what the user typed.
        trusts_files: gin files may bring lines for the job's shell.
    """

    run_dirs: Sequence[Path]
    settings: Sequence[Config]
    folder: Path
    axes: Sequence[str]
    sweep_dir: Path
    command: Sequence[str]
    trusts_files: bool = False

    @property
    def resources(self) -> Slurm:
        """What is asked of Slurm; all runs of a sweep ask for the same.

        Raises:
            ConfigError: a file asks for what a shell would run.
        """
        settings = self.settings[0]
        if not settings.has("Slurm"):
            return Slurm()
        for name in () if self.trusts_files else FOR_SHELL:
            origin = settings.argument("Slurm", name).origin
            if origin is not None and not origin.is_given:
                raise ConfigError(
                    f"{origin.place}: Slurm.{name} = {origin.value!r} becomes lines of the job's shell, which a file "
                    f"brings along only with --trust-files; or type them: --setup LINE, --set 'Slurm.{name} = ...'"
                )
        return Slurm(**settings.build("Slurm"))

    @property
    def script(self) -> str:
        """The file that sbatch gets."""
        executor, parameters = self._executor(snapshot.path(self._code))
        n = len(self.run_dirs)
        text: str = writer._make_sbatch_string(
            command=executor._submitit_command_str,
            folder=executor.folder,
            map_count=n if n > 1 else None,
            **parameters,
        )
        return text

    @property
    def _code(self) -> Path:
        """Where the snapshot of the code lies."""
        return (self.folder.parent / "code").absolute()

    def _executor(self, code: Path) -> tuple[submitit.SlurmExecutor, dict[str, Any]]:
        name = (self.sweep_dir if self.axes else self.run_dirs[0]).name
        executor = submitit.SlurmExecutor(self.folder.absolute(), python=PYTHON)
        parameters = self.resources.parameters(name, code)
        executor.update_parameters(**parameters)
        return executor, parameters

    def refuse_what_cannot_run(self) -> None:
        """Look at everything that would otherwise show when the job starts, hours later.

        Raises:
            ConfigError: with what is wrong and what would be right.
        """
        resources = self.resources
        for folder in (self.folder.parent, *self.run_dirs):
            refuse_links(folder)
        _refuse_no_partition(resources)
        for run_dir, settings in zip(self.run_dirs, self.settings, strict=True):
            refuse_another_run(run_dir, settings, resources.n_ranks)
        _refuse_running(self.run_dirs)
        _refuse_folder(self.folder, resources)
        said = cluster.refusal(self.script)
        if said and cluster.is_up(resources.partition):
            raise ConfigError(f"Slurm would not take this job: {said}\n  asked for, with defaults: {resources}")

    def submit(self) -> list[str]:
        """Write down what the jobs need and hand them to Slurm; their numbers come back.

        Raises:
            SlurmError: it does not take them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.to_lock(self.folder / ".submission") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)  # or two commands at the same time submit the same run twice
            _refuse_running(self.run_dirs)
            code = snapshot.take(self._code)
            executor, _ = self._executor(code)
            jobs = [
                SlurmJob(
                    files=[str(_frozen(run_dir, settings))],
                    run_dir=str(run_dir.absolute()),
                    command=list(self.command),
                    folder=os.getcwd(),
                    code=str(code),
                    axes=list(self.axes),
                    sweep_dir=str(self.sweep_dir.absolute()),
                )
                for run_dir, settings in zip(self.run_dirs, self.settings, strict=True)
            ]
            try:
                with executor.batch():
                    submitted = [executor.submit(job) for job in jobs]
            except (RuntimeError, OSError) as error:  # submitit has several kinds
                raise SlurmError(f"Slurm did not take the job: {error}") from error
            numbers = [str(job.job_id) for job in submitted]
            for link in self.folder.glob(".submission_file_*.sh"):  # which would lead out of a run that is moved
                link.unlink()
            for run_dir, number in zip(self.run_dirs, numbers, strict=True):
                said = {"job": number, "submitted": time.time()}
                files.put_json(run_dir / "slurm" / "job.json", said)
            return numbers


def _frozen(run_dir: Path, settings: Config) -> Path:
    """The configuration as it is now, in a file that the job reads, whatever happens to the files it came from."""
    target = (run_dir / "slurm" / "config.gin").absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    files.put_text(target, settings.text)
    again = load([str(target)])
    if again.operative != settings.operative:
        raise RuntimeError(f"{target} does not read back to the configuration that it was written from")
    return target


def _refuse_no_partition(resources: Slurm) -> None:
    known = cluster.partitions()
    asked = [] if resources.partition is None else resources.partition.split(",")
    for name in (name for name in asked if name not in known):
        near = did_you_mean(name, known, after="; ")
        raise ConfigError(f"partition={name!r} does not exist{near}; there is: {', '.join(known)} (sinfo lists them)")


def _refuse_running(run_dirs: Sequence[Path]) -> None:
    """Refuse runs that are at work or in the queue."""
    jobs = {run_dir: job_of(run_dir) for run_dir in run_dirs}
    states = cluster.states(job for job in jobs.values() if job is not None)
    for run_dir, job in jobs.items():
        if status.holder(run_dir) is not None:
            raise ConfigError(
                f"a process trains in {run_dir}; `sslkit cancel {run_dir}` stops it, or give another --out"
            )
        state = states.get(job) if job is not None else None
        if state is not None and not state.has_ended:
            raise ConfigError(
                f"{run_dir} is job {job}, which is {state.state.lower()}; `sslkit cancel {run_dir}` ends it, or give "
                f"another --out"
            )


def _refuse_folder(folder: Path, resources: Slurm) -> None:
    """Refuse a folder that cannot be written, or that the machines of the job would not see."""
    try:
        with tempfile.TemporaryFile(
            dir=next(above for above in (folder, *folder.absolute().parents) if above.exists())
        ):
            pass
    except OSError as error:
        raise ConfigError(f"--out {folder.parent} cannot be written: {error}") from error
    others = cluster.nodes(resources.partition) - {os.uname().nodename, os.uname().nodename.partition(".")[0]}
    kind = _file_system(folder)
    whole = str(folder.resolve())
    if others - {"localhost"} and (kind in _OF_ONE_MACHINE or whole.startswith(tuple(f"{own}/" for own in _OWN))):
        raise ConfigError(
            f"--out {folder.parent} lies on this machine alone ({kind or 'a folder of its own'}), and the job runs on "
            f"others ({', '.join(sorted(others)[:3])}): give a folder that all of them share"
        )


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, as Linux names it."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    whole = folder.resolve()
    inside = [(len(point), kind) for _, point, kind, *_ in mounts if whole.is_relative_to(point)]
    return max(inside)[1] if inside else ""


def one(asked: Asked, trusts_files: bool) -> Submission:
    """The submission of a single run.

    Raises:
        ConfigError: its configuration is wrong.
    """
    out, settings = asked.run_dir, ready(asked.files, asked.bindings, n_ranks=None)
    return Submission([out], [settings], out / "slurm", [], out, asked.command, trusts_files)
