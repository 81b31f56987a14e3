"""How a command ends: a known failure is one message and an exit code, here and in a job of Slurm."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from sslkit import rendezvous
from sslkit.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    NotFinite,
    RankLost,
    Refused,
    SlurmError,
    WorkerLost,
)
from sslkit.shown import visible


def quietly(call: Callable[[], Any], show_traceback: bool) -> Any:
    """Run a command; its known failures become one message and an exit code."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Visible("sslkit: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    try:
        return call()
    except KeyboardInterrupt:
        if rendezvous.here().rank == 0:
            click.echo("stopped; the same command goes on from the newest checkpoint", err=True)
        sys.exit(130)
    except Refused as other:
        sys.exit(other.code)
    except Interrupted as stop:
        if rendezvous.here().rank == 0:
            click.echo(str(stop), err=True)
        sys.exit(128 + stop.number)
    except (ConfigError, CheckpointError, NotFinite, RankLost, WorkerLost, SlurmError, ValueError, OSError) as error:
        if show_traceback:
            traceback.print_exc()
        else:
            click.echo(visible(f"error: {_reason(error)}"), err=True)
            if not isinstance(error, ConfigError):
                click.echo("(sslkit --traceback COMMAND shows where in the code)", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


class _Visible(logging.Formatter):
    """Names of files and what they hold may be of somebody else."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _reason(error: Exception) -> str:
    """What an error says, without the traceback that a loader process puts around it."""
    return str(error).rpartition(f"{type(error).__name__}: ")[2]
