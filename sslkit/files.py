"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

T = TypeVar("T")
Put = Callable[[Path], None]


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which appears under its name once it is complete and on the disk.

    A kill or a full disk leaves what was there before, and at most a `.partial` file beside it.
    """
    with partial(path) as (file, put):
        yield file
        put(path)


@contextmanager
def partial(path: Path) -> Iterator[tuple[BinaryIO, Put]]:
    """A file beside `path` to write, and a function that puts it, complete and on the disk, under its last name.

    For names that are known only when all is written; a file that is not put anywhere goes.
    """
    beside = path.with_suffix(f".partial{os.getpid()}")
    try:
        with beside.open("wb") as file:

            def put(name: Path) -> None:
                file.flush()
                os.fsync(file.fileno())
                os.replace(beside, name)
                _sync(name.parent)

            yield file, put
    finally:
        beside.unlink(missing_ok=True)


def put_text(path: Path, text: str) -> None:
    """Write a small text whole or not at all, without waiting for the disk."""
    beside = path.with_name(f"{path.name}.partial{os.getpid()}")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def forget_partial(folder: Path) -> None:
    """Drop what a kill has left half written in a folder, of which nobody else writes files now."""
    for torn in folder.glob("*.partial*"):
        if not torn.is_dir():
            torn.unlink(missing_ok=True)


def put_json(path: Path, value: Any) -> None:
    """The same of a value as JSON."""
    put_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, kind: type[T]) -> T:
    """What such a file holds; an empty `kind` if it is not there, torn, or holds something else."""
    try:
        found = json.loads(path.read_text()) if path.is_file() else None  # a pipe would be waited for
    except (OSError, ValueError, RecursionError):  # torn by a kill, or not of our making
        return kind()
    return found if isinstance(found, kind) else kind()


def to_lock(path: Path) -> IO[bytes]:
    """A file to hold a lock on, made if need be.

    Raises:
        OSError: there is a link, a folder or a pipe of that name.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "r+b", 0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no plain file; remove it")
    return file


def _sync(directory: Path) -> None:
    """Make a rename itself survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
