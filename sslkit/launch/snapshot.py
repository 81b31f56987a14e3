"""The code of a job, copied where it is submitted and imported where it runs, whatever is edited in between."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import sslkit
from sslkit import files, provenance
from sslkit.config.source import PACKAGE, search_path
from sslkit.errors import ConfigError

_NOT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.partial*")


def path(folder: Path) -> Path:
    """Where `take` puts the code of now, whether it is there or not."""
    return folder / f"snapshot_{_digest(PACKAGE.parent, _names())}"


def take(folder: Path) -> Path:
    """Copy the package and its gin files into a folder named by their content, unless it is there already.

    Plugins are not copied: they are installed, and `environment.json` has their versions.

    Raises:
        ConfigError: it is there, and holds something else.
    """
    names, target = _names(), path(folder)
    if target.is_dir():
        _refuse_changed(target)
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


def _refuse_changed(target: Path) -> None:
    """Refuse a snapshot that is not what its name says; what Python compiled there is made anew."""
    for compiled in list(target.rglob("__pycache__")):
        shutil.rmtree(compiled)
    names = [path.name for path in target.iterdir() if path.name != provenance.SNAPSHOT]
    if target.name != f"snapshot_{_digest(target, names, of_all=True)}":
        raise ConfigError(
            f"{target} is not the code that was copied there: files were changed or added; move it away, and it is "
            f"copied anew"
        )


def _digest(root: Path, names: list[str], *, of_all: bool = False) -> str:
    """The content of files and folders, without what a snapshot leaves out unless it is of `of_all`."""
    hashed = hashlib.sha256()
    for name in sorted(names):
        for inside, folders, files_ in os.walk(root / name):
            left_out = set() if of_all else _NOT(inside, [*folders, *files_])
            folders[:] = sorted(set(folders) - left_out)
            for path in (Path(inside, file) for file in sorted(set(files_) - left_out)):
                _add(hashed, root, path)
        if (root / name).is_file():
            _add(hashed, root, root / name)
    return hashed.hexdigest()[:12]


def _add(hashed: hashlib._Hash, root: Path, path: Path) -> None:
    hashed.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
