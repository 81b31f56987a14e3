"""A run as a job of Slurm: every task calls it, at the first start and at all that follow."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sslkit import checkpoint, distributed, files
from sslkit.ending import quietly
from sslkit.errors import Interrupted, SlurmError
from sslkit.launch import cluster, snapshot
from sslkit.launch.job import Job
from sslkit.status import Status

IDLE_STARTS = 5  # one after the other without a step, after which a job is not queued again


@dataclass
class SlurmJob(Job):
    """The same, from where it was submitted and with the code it was submitted with.

    It is pickled by submitit when it is submitted, and replayed as it is when a node fails: so it holds plain strings,
    and everything that changes is in the run directory.
    """

    folder: str = "."  # where it was submitted
    code: str = ""  # the snapshot that has to be imported
    axes: list[str] = field(default_factory=list)  # of the sweep that it belongs to, whose table it renews at its end
    sweep_dir: str = ""
    goes_on: ClassVar[bool] = True

    def __call__(self) -> dict[str, float]:
        os.chdir(self.folder)
        logging.getLogger("submitit").propagate = False  # it has a handler of its own
        results: dict[str, float] = quietly(self._run, show_traceback=False)
        return results

    def _run(self) -> dict[str, float]:
        if self.code:
            snapshot.refuse_other_code(Path(self.code))
        results = super().__call__()
        if distributed.is_main():
            print(f"done: checkpoints, metrics and results are in {self.run_dir}", flush=True)
        return results

    def finished(self, results: dict[str, float]) -> None:
        """The same, and the table of the sweep."""
        super().finished(results)
        if self.axes:
            from sslkit.commands import sweep

            sweep.renew_report(Path(self.sweep_dir), self.axes)

    def interrupted(self, stop: Interrupted) -> None:
        """Ask Slurm for another start, if the run was stopped to go on; not for ever if no start comes to a step.

        Raises:
            SlurmError: Slurm refuses; the run is saved all the same.
        """
        if not stop.requeue:
            return
        run_dir = Path(self.run_dir)
        if cluster.is_cancelled(this_job()):  # somebody asked for the end after Slurm had asked for another start
            Status(run_dir).change("stopped", message=f"cancelled; {stop}")
            return
        note = run_dir / "slurm" / "idle_starts.json"
        before = files.read_json(note, dict)
        n_idle = before.get("n", 0) + 1 if before.get("step") == stop.step else 0
        files.put_json(note, {"step": stop.step, "n": n_idle})
        if n_idle >= IDLE_STARTS:
            raise _stopped(
                run_dir,
                f"not queued again: the last {n_idle} starts of this job came to no step beyond {stop.step}; give it "
                f"more time (Slurm.time) or an earlier signal (Slurm.signal_s)",
            )
        try:
            cluster.requeue(this_job())
        except SlurmError as error:
            newest = checkpoint.steps(run_dir)[-1:]
            raise _stopped(
                run_dir,
                f"step {newest} is saved, but the job could not be queued again ({error}); submit it once more with "
                f"the same command",
            ) from error


def _stopped(run_dir: Path, why: str) -> SlurmError:
    """The error of a run that is not queued again; its status, which says `requeued` before that, says why."""
    Status(run_dir).change("stopped", message=why)
    return SlurmError(why)


def this_job() -> str:
    """The number of this job as Slurm's commands take it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
