"""The code of a job, copied where it is submitted and imported where it runs, whatever is edited in between."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import sslkit
from sslkit import files, provenance
from sslkit.config.source import PACKAGE, search_path
from sslkit.errors import ConfigError

_NOT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.partial*")


def path(folder: Path) -> Path:
    """Where `take` puts the code of now, whether it is there or not."""
    return folder / f"snapshot_{_digest(_names())}"


def take(folder: Path) -> Path:
    """Copy the package and its gin files into a folder named by their content, unless it is there already.

    Plugins are not copied: they are installed, and `environment.json` has their versions.
    """
    names, target = _names(), path(folder)
    if target.is_dir():
        return target
    partial = folder / f"{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in names:
        source = PACKAGE.parent / name
        if source.is_dir():
            shutil.copytree(source, partial / name, ignore=_NOT)
        else:
            shutil.copy2(source, partial / name)
    files.put_json(partial / provenance.SNAPSHOT, provenance.code_state())
    partial.rename(target)
    return target


def refuse_other_code(snapshot: Path) -> None:
    """Refuse to run code that is not that of the snapshot.

    Raises:
        ConfigError: naming both places.
    """
    found = Path(sslkit.__file__).resolve().parent.parent
    if found != snapshot.resolve():
        raise ConfigError(
            f"this job was submitted with the code in {snapshot}, but Python imports sslkit from {found}: a setup line "
            f"(Slurm.setup) or a shell profile changes PYTHONPATH"
        )


def _names() -> list[str]:
    in_checkout = search_path() == PACKAGE.parent
    return [PACKAGE.name, *(("gin", "pyproject.toml") if in_checkout else ())]


def _digest(names: list[str]) -> str:
    hashed = hashlib.sha256()
    for name in names:
        root = PACKAGE.parent / name
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and "__pycache__" not in path.parts:
                hashed.update(str(path.relative_to(PACKAGE.parent)).encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()[:12]
