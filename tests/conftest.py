"""Options and fixtures that every test may use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm import FOREIGN, Slurm, cluster, missing_packages

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


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that share what is made once for their file go to one process, or each of several would make it."""
    made = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    if item.get_closest_marker("xdist_group") is None and any(found[-1].scope == "module" for found in made):
        item.add_marker(pytest.mark.xdist_group(item.path.name))


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


@pytest.fixture(scope="session")
def one_cluster() -> Iterator[Slurm]:
    """The cluster of this process; tests that use it are all in the group "slurm", so that one process has it."""
    if missing := missing_packages():
        pytest.skip(f"Slurm is not installed here: `make slurm` as root, or apt-get install {' '.join(missing)}")
    with cluster() as running:
        yield running


@pytest.fixture
def slurm(one_cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A real Slurm, which what the test starts finds too."""
    for variable in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SLURM_CONF", str(one_cluster.conf))
    return one_cluster
