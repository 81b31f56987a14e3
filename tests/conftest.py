"""Options and fixtures that every test may use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# make any of the small gin files train in seconds, the first without evaluations
RUN = (
    "scenes/datasets.Scenes.n_images = 48",
    "train.batch_size = 8",
    "train.n_workers = 1",
    "across/Term.start_fraction = 0.1",
)
TINY = ("memory/datasets.Scenes.n_images = 6", "val/datasets.Scenes.n_images = 3", *RUN)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("reference", "folder of the reference arrays, relative to the project", default="")
    parser.addoption("--write-docs", action="store_true", help="put what commands print now into the docs")
    parser.addoption("--reference", metavar="DIR", help="folder of the reference arrays (default: the ini setting)")


def command(*words: str, bindings: tuple[str, ...] = ()) -> list[str]:
    """A command line of sslkit with bindings."""
    given = [word for binding in bindings for word in ("--set", binding)]
    return [sys.executable, "-m", "sslkit", *words, *given]


@pytest.fixture
def sslkit() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command of sslkit as a user does, in a process of its own."""

    def run(*words: str, bindings: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command(*words, bindings=bindings), capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600
        )

    return run
