"""The command line: `sslkit check | describe | list | new | launch | runs | logs | cancel | evaluate | ...`.

Heavy imports stand inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sslkit import __version__, rendezvous
from sslkit.ending import quietly
from sslkit.errors import ConfigError

DIRECTORY = click.Path(path_type=Path)
FILES = click.option(
    "--gin", "--gin_file", "files", multiple=True, metavar="FILE", help="A gin file; several are joined in their order."
)
BINDINGS = click.option(
    "--set",
    "--gin_bindings",
    "bindings",
    multiple=True,
    metavar="'A.b = 1'",
    help="A binding on top of the files; may be repeated.",
)


AT = click.option(
    "--at", metavar="STEP | NAME", help="A kept checkpoint: its step, or what it is best by, such as dense/miou."
)

_RESOURCES = {  # option: type, what it is; all can be bound as well, as `Slurm.nodes = 2`
    "--nodes": (click.IntRange(min=1), "Machines."),
    "--gpus": (click.IntRange(min=0), "Accelerators of each machine."),
    "--tasks": (click.IntRange(min=1), "Ranks on each machine; one for each accelerator if left out."),
    "--cpus": (click.IntRange(min=1), "Processors of each rank."),
    "--memory-gb": (float, "Host memory of each machine."),
    "--partition": (str, "As sinfo lists them."),
    "--account": (str, "Whom the time is charged to."),
    "--qos": (str, "Quality of service."),
    "--constraint": (str, "Features that machines must have."),
    "--time": (str, "Longest time before the job saves and is queued again, such as 12:00:00."),
    "--array-limit": (click.IntRange(min=1), "Jobs of a sweep at the same time."),
}


def _of_slurm(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `--slurm`."""
    trust = "Let gin files bring Slurm.setup and Slurm.options, which a shell runs."
    command = click.option("--trust-files", is_flag=True, help=trust)(command)
    command = click.option("--setup", multiple=True, help="A shell line before Python starts.")(command)
    for name, (kind, said) in reversed(_RESOURCES.items()):
        command = click.option(name, type=kind, help=said)(command)
    return command


class _Commands(click.Group):
    """Wrong configurations end with exit code 2 and a message; other failures that we know of with 1."""

    def invoke(self, context: click.Context) -> Any:
        return quietly(lambda: super(_Commands, self).invoke(context), context.params.get("traceback", False))

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)  # in the order of a run, not of the alphabet


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--traceback", is_flag=True, help="Show where in the code an error arose.")
@click.version_option(__version__, prog_name="sslkit")
def main(traceback: bool) -> None:
    """Compose self-supervised objectives, train them, and see what they learnt."""


@main.command(short_help="Find everything that is wrong with gin files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--data", type=DIRECTORY, help="The folder that `launch` or `evaluate` would be given.")
@BINDINGS
@click.option("--json", "as_json", is_flag=True, help="Print a list of records for tools.")
def check(files: tuple[str, ...], data: Path | None, bindings: tuple[str, ...], as_json: bool) -> None:
    """Look for everything that is wrong with gin files, each on its own; exit code 2 if anything is."""
    from sslkit.commands.check import report

    reports = [report(file, data, list(bindings)) for file in files]
    if as_json:
        click.echo(json.dumps([record for each in reports for record in each.records()], indent=2))
    else:
        for each in reports:
            click.echo(str(each))
    sys.exit(2 if any(each.problems for each in reports) else 0)


@main.command(short_help="Show a method as a tree: every value, and where it is set.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--data", type=DIRECTORY, help="The folder of images that `launch` would be given.")
@BINDINGS
@click.option("--markdown", is_flag=True, help="Nested lists instead of a drawn tree.")
@click.option("--picture", type=DIRECTORY, metavar="FILE.svg", help="Draw the flow of data into this file.")
def describe(
    files: tuple[str, ...], data: Path | None, bindings: tuple[str, ...], markdown: bool, picture: Path | None
) -> None:
    """Show the method that gin files describe: every part and value, where it is set, and what it takes."""
    from sslkit.commands.describe import description

    click.echo(description(list(files), data, list(bindings), markdown, picture), nl=False)


@main.command("list", short_help="List components with types, ranges, defaults and sources.")
@click.argument("what", required=False, metavar="[ROLE | NAME]")
def list_(what: str | None) -> None:
    """List the components of all roles, or of one with their parameters, types, ranges, defaults and sources."""
    from sslkit import registry
    from sslkit.commands import catalogue

    registry.load()
    click.echo(catalogue.overview() if what is None else catalogue.details(what), nl=what is not None)


@main.command(short_help="Write a package with a new component and its test.")
@click.argument("role")
@click.argument("name")
@click.option("--out", type=DIRECTORY, help="Folder to write; the name in small letters if left out.")
def new(role: str, name: str, out: Path | None) -> None:
    """Write a package with a new component that works, its test and an example: `sslkit new clusterer Voronoi`."""
    from sslkit.commands import stub

    for path in stub.write(role, name, out if out is not None else Path(name.lower())):
        click.echo(path)


@main.command(short_help="Train a method; check, rehearse, sweep or repeat runs.")
@FILES
@BINDINGS
@click.option("--from", "run", type=DIRECTORY, metavar="RUN", help="Repeat a run: its files and bindings, anew.")
@click.option("--data", type=DIRECTORY, help="Train on this folder of images instead of the file's data.")
@click.option("--out", type=DIRECTORY, help="Run directory; runs/NAME of the gin file if left out.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the run in optimiser steps.")
@click.option("--epochs", type=click.IntRange(min=1), help="Length of the run in epochs.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of every random draw.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; an accelerator if there is one.")
@click.option("--dry-run", is_flag=True, help="Check, describe, take steps on one batch, estimate; write nothing.")
@click.option(
    "--sweep",
    "axes",
    multiple=True,
    metavar="'A.b = 1, 2'",
    help="Run every value, one run directory each; several make a grid. Ends in a table and a plot.",
)
@click.option("--processes", type=click.IntRange(min=1), metavar="N", help="Run on N ranks of this machine.")
@click.option("--slurm", is_flag=True, help="Submit to Slurm; a sweep becomes an array. The options below go with it.")
@_of_slurm
def launch(
    files: tuple[str, ...],
    bindings: tuple[str, ...],
    run: Path | None,
    data: Path | None,
    out: Path | None,
    steps: int | None,
    epochs: int | None,
    seed: int | None,
    device: str | None,
    dry_run: bool,
    axes: tuple[str, ...],
    processes: int | None,
    slurm: bool,
    trust_files: bool,
    **resources: object,
) -> None:
    """Train a method. The same command on the same directory goes on where the run stopped."""
    from sslkit.launch import options

    given = options.bindings(list(bindings), data=data, steps=steps, epochs=epochs, seed=seed, device=device)
    asked_of_slurm = options.resources(**resources)
    asked = options.Asked(list(files), [*asked_of_slurm, *given], out, run, [*_typed(), *sys.argv[1:]])
    if asked_of_slurm and not slurm:
        raise ConfigError(f"{asked_of_slurm[0].partition('# ')[2]} is for jobs of Slurm: add --slurm, or leave it out")
    if slurm and processes is not None:
        raise ConfigError("--processes is for this machine; ranks of a job are --nodes times --tasks or --gpus")
    if (dry_run or axes or slurm or processes) and rendezvous.here().size > 1:
        raise ConfigError("--sweep, --dry-run, --processes and --slurm start in one process: leave torchrun out")
    if slurm:
        from sslkit.commands.submit import submit

        submit(asked, list(axes), dry_run, trust_files)
    elif dry_run and axes:
        raise ConfigError("--dry-run looks at one run: leave --sweep out")
    elif dry_run:
        from sslkit.commands.rehearsal import rehearse

        click.echo(rehearse(asked.files, asked.bindings))
    elif axes:
        from sslkit.commands.sweep import sweep

        sys.exit(sweep(asked, list(axes), processes))
    elif processes is not None and processes > 1:
        from sslkit.launch import processes as ranks

        run_dir = asked.run_dir
        words = ["launch", *options.without(_behind_launch(), "--processes")]
        sys.exit(ranks.run([*_before_launch(), *words], processes, run_dir))
    else:
        asked.run()


def _typed() -> list[str]:
    """The words that call this program, `python -m sslkit.launch` or `sslkit`."""
    path = click.get_current_context().command_path
    return path.split() if path.startswith("python") else ["sslkit"]


@main.command("runs", short_help="List runs: state, step, speed, time left, last probe.")
@click.argument("folder", type=DIRECTORY, default=Path("runs"), metavar="[FOLDER]")
@click.option("--json", "as_json", is_flag=True, help="Print a list of records for tools.")
def runs_(folder: Path, as_json: bool) -> None:
    """List the runs at or below a folder, runs/ if left out, here and on Slurm."""
    from sslkit.commands import following

    found = following.runs(folder)
    if as_json:
        click.echo(json.dumps([{**vars(run), "folder": str(run.folder)} for run in found], indent=2))
    else:
        click.echo(following.table(found, folder))


@main.command(short_help="Show what a run says.")
@click.argument("run", type=DIRECTORY)
@click.option("-n", "lines", type=click.IntRange(min=1), default=50, help="Lines from the end.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added.")
def logs(run: Path, lines: int, follow: bool) -> None:
    """Show the log of a run, through all of its starts; of a job that failed also what it printed."""
    from sslkit.commands import following

    shown, path, length = following.lines_of(run, lines)
    for line in shown:
        click.echo(line)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            for line in following.follow(path, length):
                click.echo(line)


@main.command(short_help="Ask a run to save and stop.")
@click.argument("run", type=DIRECTORY)
def cancel(run: Path) -> None:
    """Ask a run, or all below a folder, to save and stop, or take it out of Slurm's queue."""
    from sslkit.commands import following

    for line in following.cancel(run):
        click.echo(line)


def _before_launch() -> list[str]:
    """`--traceback`, if it was typed."""
    return ["--traceback"] if "--traceback" in sys.argv else []


def _behind_launch() -> list[str]:
    """The words that were typed behind `launch`."""
    behind = sys.argv[1:] if _typed()[0] == "python" else sys.argv[sys.argv.index("launch") + 1 :]
    return [word for word in behind if word != "--traceback"]


@main.command(short_help="Evaluate the backbone of a run by a protocol.")
@click.argument("run", type=DIRECTORY)
@click.option("--protocol", required=True, metavar="FILE", help="A gin file that binds evaluation.protocol.")
@click.option("--data", type=DIRECTORY, help="Folder of the protocol's data set.")
@click.option("--set", "bindings", multiple=True, metavar="'A.b = 1'", help="A binding on top of the protocol's file.")
@AT
def evaluate(run: Path, protocol: str, data: Path | None, bindings: tuple[str, ...], at: str | None) -> None:
    """Evaluate the teacher's backbone of a run; the last line printed is one JSON record."""
    from sslkit.commands.runs import evaluate_run

    click.echo(json.dumps(evaluate_run(run, protocol, data, list(bindings), at)))


@main.command(short_help="Draw clusters, features, receptive fields, curves of a run.")
@click.argument("run", type=DIRECTORY)
@AT
def picture(run: Path, at: str | None) -> None:
    """Draw clusters, matches, features, receptive fields and curves of a run into RUN/pictures."""
    from sslkit.commands.runs import picture_run

    for path in picture_run(run, at):
        click.echo(path)


@main.command(short_help="Write the backbone of a run for timm.")
@click.argument("run", type=DIRECTORY)
@click.option("--to", "layout", type=click.Choice(["timm"]), required=True, help="Layout of the exported weights.")
@click.option("--out", type=DIRECTORY, required=True, help="Folder to write to.")
@AT
def export(run: Path, layout: str, out: Path, at: str | None) -> None:
    """Write the teacher's backbone of a run for `timm.create_model("local-dir:OUT")`."""
    from sslkit.commands.runs import export_run

    loading = export_run(run, out, at)
    click.echo(f"wrote {out}/model.safetensors and config.json; load with\n  {loading}")
