"""The command line: `sslkit launch | evaluate | export | picture`."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sslkit import distributed
from sslkit.errors import CheckpointError, ConfigError, NotFinite


class _Commands(click.Group):
    """Wrong configurations end with exit code 2 and a message; other failures that we know of with 1."""

    def invoke(self, context: click.Context) -> Any:
        return quietly(lambda: super(_Commands, self).invoke(context), context.params.get("traceback", False))


def quietly(call: Callable[[], Any], show_traceback: bool) -> Any:
    """Run a command; its known failures become one message and an exit code."""
    from sslkit.datasets.image_folder import UnreadableImagesError

    logging.basicConfig(format="sslkit: %(message)s", level=logging.WARNING)
    try:
        return call()
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from the newest checkpoint", err=True)
        sys.exit(130)
    except (ConfigError, CheckpointError, NotFinite, UnreadableImagesError, ValueError, OSError) as error:
        if show_traceback:
            traceback.print_exc()
        else:
            click.echo(f"error: {_reason(error)}", err=True)
            if not isinstance(error, ConfigError):
                click.echo("(sslkit --traceback COMMAND shows where in the code)", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _reason(error: Exception) -> str:
    """What an error says, without the traceback that a loader process puts around it."""
    return str(error).rpartition(f"{type(error).__name__}: ")[2]


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help="Show where in the code an error arose.")
def main(traceback: bool) -> None:
    """Compose self-supervised objectives, train them, and see what they learnt."""


@main.command()
@click.option("--gin", "files", multiple=True, required=True, metavar="FILE", help="A gin file; may be repeated.")
@click.option(
    "--set", "bindings", multiple=True, metavar="'A.b = 1'", help="A binding on top of the files; may be repeated."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Train on this folder of images instead of the file's data."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; runs/NAME of the gin file if left out.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the run in optimiser steps.")
@click.option("--epochs", type=click.IntRange(min=1), help="Length of the run in epochs.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of every random draw.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; an accelerator if there is one.")
def launch(
    files: tuple[str, ...],
    bindings: tuple[str, ...],
    data: Path | None,
    out: Path | None,
    steps: int | None,
    epochs: int | None,
    seed: int | None,
    device: str | None,
) -> None:
    """Train a method. The same command on the same directory goes on where the run stopped."""
    from sslkit.launch.job import Job

    if steps is not None and epochs is not None:
        raise ConfigError(f"--steps {steps} and --epochs {epochs}: give the length of the run in one of the two")
    names = [binding.partition("=")[0].strip() for binding in bindings]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--set gives {name} {names.count(name)} times: give it once")
    added: list[str] = []
    if data is not None:
        if not data.is_dir():
            raise ConfigError(f"--data {data}: there is no such folder (looked at {data.absolute()})")
        added += ["train.data = @datasets.ImageFolder()", f"datasets.ImageFolder.root = {str(data.absolute())!r}"]
        added += ["train.evaluations = None"]
    if steps is not None:
        added += [f"train.n_steps = {steps}", "train.n_epochs = None"]
    if epochs is not None:
        added += [f"train.n_epochs = {epochs}", "train.n_steps = None"]
    added += [] if seed is None else [f"train.seed = {seed}"]
    added += [] if device is None else [f"train.device = {device!r}"]
    added += bindings
    run_dir = out if out is not None else Path("runs") / Path(files[-1]).stem
    Job(list(files), added, str(run_dir))()
    if distributed.is_main():
        click.echo(f"done: {run_dir} holds checkpoints, metrics and pictures; `sslkit --help` says what to do with it")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--protocol", required=True, metavar="FILE", help="A gin file that binds evaluation.protocol.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the protocol's data set.")
@click.option("--set", "bindings", multiple=True, metavar="'A.b = 1'", help="A binding on top of the protocol's file.")
def evaluate(run: Path, protocol: str, data: Path | None, bindings: tuple[str, ...]) -> None:
    """Evaluate the teacher's backbone of a run; the last line printed is one JSON record."""
    from sslkit.runs import evaluate_run

    click.echo(json.dumps(evaluate_run(run, protocol, data, list(bindings))))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "layout", type=click.Choice(["timm"]), required=True, help="Layout of the exported weights.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
def export(run: Path, layout: str, out: Path) -> None:
    """Write the teacher's backbone of a run for `timm.create_model("local-dir:OUT")`."""
    from sslkit.runs import export_run

    loading = export_run(run, out)
    click.echo(f"wrote {out}/model.safetensors and config.json; load with\n  {loading}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
def picture(run: Path) -> None:
    """Draw clusters, matches, features and curves of a run into RUN/pictures."""
    from sslkit.runs import picture_run

    for path in picture_run(run):
        click.echo(path)
