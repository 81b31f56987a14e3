"""Finds the arrays made by the authors' programs: in the folder given, or the few that are kept in tests/data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
KINDS = (
    "clustering",
    "matching",
    "losses",
    "training_steps",
)  # a test that takes `clustering` runs on every clustering_*.npz


def folders(config: pytest.Config) -> list[Path]:
    given = config.getoption("--reference")
    found = Path(given) if given else ROOT / str(config.getini("reference"))
    if given and not found.is_dir():
        raise pytest.UsageError(f"--reference {given}: there is no such folder")
    return [found] if found.is_dir() and any(found.glob("*.npz")) else [ROOT / "tests" / "data"]


def load(path: Path) -> dict[str, Any]:
    """Arrays as tensors, scalars as numbers."""
    with np.load(path) as file:
        return {name: torch.from_numpy(x) if x.ndim else x.item() for name, x in file.items()}


def absent(pattern: str, config: pytest.Config) -> str:
    places = ", ".join(str(folder) for folder in folders(config))
    return f"no {pattern} in {places}; give the folder of the reference arrays with --reference"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for kind in KINDS:
        if kind in metafunc.fixturenames:
            files = sorted(p for folder in folders(metafunc.config) for p in folder.glob(f"{kind}_*.npz"))
            skip = pytest.param(None, marks=pytest.mark.skip(absent(f"{kind}_*.npz", metafunc.config)), id="absent")
            metafunc.parametrize(kind, [pytest.param(load(p), id=p.stem) for p in files] or [skip])


@pytest.fixture
def reference(request: pytest.FixtureRequest) -> Callable[[str], dict[str, Any]]:
    """Loads one file by name, or skips the test."""

    def find(name: str) -> dict[str, Any]:
        for folder in folders(request.config):
            if (folder / name).is_file():
                return load(folder / name)
        pytest.skip(absent(name, request.config))

    return find
