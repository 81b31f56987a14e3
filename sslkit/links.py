"""Links that lead out of a folder to be written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sslkit.errors import ConfigError


def refuse_links(folder: Path) -> None:
    """Refuse a folder with a link inside that leads out of it: what is written there would lie somewhere else.

    The folder itself may be a link. One that does not exist yet has none inside.

    Raises:
        ConfigError: naming the first of them.
    """
    home = os.path.realpath(folder)
    for path in _links(folder):
        target = os.path.realpath(path)
        if os.path.commonpath([home, target]) != home:
            raise ConfigError(
                f"{path} is a link to {target}, outside of {folder}, where nothing may be written or deleted: remove "
                f"it; to keep a run elsewhere, let the whole folder be a link"
            )


def _links(folder: Path) -> Iterator[str]:
    for inside, folders, files in os.walk(folder):  # which enters no links
        yield from (path for name in sorted((*folders, *files)) if os.path.islink(path := os.path.join(inside, name)))
