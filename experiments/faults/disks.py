"""Small disks of their own, which fill up or become read-only. They need root and mounts."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


def _call(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, timeout=60)


@cache
def refusal() -> str:
    """Why no disk can be mounted here; empty if one can."""
    with TemporaryDirectory() as folder:
        try:
            with memory(Path(folder) / "disk", 1):
                return ""
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no mount: {getattr(error, 'stderr', error)}"


@contextlib.contextmanager
def memory(folder: Path, megabytes: float) -> Iterator[Path]:
    """A disk in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    _call("mount", "-t", "tmpfs", "-o", f"size={round(megabytes * 1024)}k", "tmpfs", folder)
    try:
        yield folder
    finally:
        _call("umount", "-l", folder)


class Journalled:
    """A disk with ext4 in a file, which can fail as disks do."""

    def __init__(self, folder: Path, megabytes: int = 32):
        self.folder, self.image = folder, folder.with_name(f"{folder.name}.ext4")
        folder.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(megabytes << 20)
        _call("mkfs.ext4", "-q", "-F", self.image)
        self.mount()

    def mount(self) -> None:
        """Mount it, checked."""
        subprocess.run(["e2fsck", "-fp", self.image], capture_output=True, timeout=60)
        _call("mount", "-o", "loop", self.image, self.folder)

    def fail(self) -> None:
        """Become read-only at once, as after an error of the medium; what was not synced is lost."""
        _call("mount", "-o", "remount,abort", self.folder)

    def unmount(self) -> None:
        """Unmount it."""
        _call("umount", self.folder)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a disk up to the last bytes that are to be left; the file that does so comes back."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(bytes(512)):
            pass
    if leave:
        with path.open("ab") as file:
            file.truncate(max(0, path.stat().st_size - leave))
    return path


def read_only(folder: Path, *, on: bool) -> None:
    """Mount a disk again, read-only or not; nobody may have a file of it open to write."""
    _call("mount", "-o", f"remount,{'ro' if on else 'rw'}", folder)
