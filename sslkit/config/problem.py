"""What is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sslkit.errors import ConfigError
from sslkit.shown import visible


@dataclass(frozen=True)
class Place:
    """A line of a file; line 0 is an option of the command line, such as `--set` or `--steps 60`."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and what would be right."""

    place: Place | None
    binding: str  # what it is about, such as `train.batch_size`; may be empty
    wrong: str
    hint: str = ""

    def __str__(self) -> str:
        said = (f"{self.place}: " if self.place else "") + self.wrong + (f"; {self.hint}" if self.hint else "")
        return visible(said)


def refuse(problems: Sequence[Problem]) -> None:
    """Stop if there are any.

    Raises:
        ConfigError: with a line or more for each.
    """
    if problems:
        raise ConfigError("\n".join(map(str, in_order(problems))))


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Each of them once, by file and line."""
    return sorted(dict.fromkeys(problems), key=lambda p: (p.place.file, p.place.line) if p.place else ("", 0))
