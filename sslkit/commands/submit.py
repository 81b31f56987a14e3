"""`launch --slurm`: look, try, submit, and say how to follow."""

from __future__ import annotations

import click

from sslkit.commands import rehearsal, sweep
from sslkit.launch import cluster
from sslkit.launch.options import Asked
from sslkit.launch.submission import Submission, one


def submit(asked: Asked, axes: list[str], dry_run: bool, trusts_files: bool) -> None:
    """Submit a run, or a sweep as an array; with `dry_run` only show the file that sbatch would get.

    Raises:
        ConfigError: something is wrong, with the run or with what is asked of Slurm; nothing was submitted.
        SlurmError: Slurm does not take it.
    """
    cluster.refuse_none()
    submission = _sweep(asked, axes, trusts_files) if axes else one(asked, trusts_files)
    if not submission.run_dirs:
        click.echo("every point is finished")
        return
    submission.refuse_what_cannot_run()
    if all(sweep.results_of(run_dir) for run_dir in submission.run_dirs):
        click.echo(f"{asked.run_dir} is finished: nothing to submit")
        return
    click.echo("two steps on a few images, here ...", err=True)
    for settings in submission.settings[:1]:
        rehearsal.try_out(settings)
    if dry_run:
        click.echo(submission.script)
        return
    jobs = submission.submit()
    first, n = jobs[0].partition("_")[0], len(jobs)
    where = asked.run_dir
    click.echo(f"submitted job {first}" + (f", an array of {n} runs" if n > 1 else ""))
    click.echo(f"follow with: sslkit runs {where}    sslkit logs {submission.run_dirs[0]}    sslkit cancel {where}")


def _sweep(asked: Asked, axes: list[str], trusts_files: bool) -> Submission:
    """The points that are not finished yet."""
    out = asked.run_dir
    open_ = [
        (point, settings)
        for point, settings in sweep.checked(asked, axes, None)
        if not sweep.results_of(out / point.folder)
    ]
    if not open_:
        sweep.renew_report(out, axes)
    return Submission(
        [out / point.folder for point, _ in open_],
        [settings for _, settings in open_],
        out / "slurm",
        axes,
        out,
        asked.command,
        trusts_files,
    )
