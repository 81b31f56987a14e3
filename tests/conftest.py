"""Options and fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("reference", "folder of the reference arrays, relative to the project", default="")
    parser.addoption("--reference", metavar="DIR", help="folder of the reference arrays (default: the ini setting)")
