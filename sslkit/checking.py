"""What `sslkit check` and `sslkit describe` find out about gin files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslkit import config, describe, preflight
from sslkit.config import Config
from sslkit.config.source import Problem
from sslkit.launch.options import on_images, refuse_no_folder

PARTS = "base"  # files in a folder of this name are parts for others to include, and leave values open


@dataclass(frozen=True)
class Report:
    """All that is wrong with one file, and what it leaves open on purpose."""

    file: str
    problems: tuple[Problem, ...]
    open_values: tuple[Problem, ...]

    def __str__(self) -> str:
        if self.problems:
            n = len(self.problems)
            return "\n".join([*map(str, self.problems), f"{self.file}: {n} problem{'s' if n > 1 else ''}"])
        names = dict.fromkeys(problem.binding for problem in self.open_values)
        return f"{self.file}: fine" + (f"; leaves open {', '.join(names)}" if names else "")

    def records(self) -> list[dict[str, Any]]:
        """The problems for other programs."""
        return [
            {
                "checked": self.file,
                "file": problem.place.file if problem.place else None,
                "line": problem.place.line if problem.place and problem.place.line else None,
                "binding": problem.binding or None,
                "problem": problem.wrong,
                "hint": problem.hint or None,
            }
            for problem in self.problems
        ]


def report(file: str, data: Path | None, bindings: list[str]) -> Report:
    """Everything that would stop a run of this file.

    Values that a file asks for with `%gin.REQUIRED` are no problems, nor is what a part in a folder `base` leaves open.
    """
    settings, problems = config.examine([file], _with_data([file], data, bindings))
    problems += preflight.contradictions(settings)
    is_part = PARTS in Path(file).parts[:-1]
    asked: list[Problem] = []
    forgotten: list[Problem] = []
    for problem in settings.left_open():
        (asked if is_part or problem.place is not None else forgotten).append(problem)
    found = dict.fromkeys([*problems, *forgotten])
    return Report(file, tuple(sorted(found, key=_by_place)), tuple(asked))


def _by_place(problem: Problem) -> tuple[str, int]:
    return (problem.place.file, problem.place.line) if problem.place else ("", 0)


def description(files: list[str], data: Path | None, bindings: list[str], markdown: bool, picture: Path | None) -> str:
    """The method as text; drawn into `picture` as well, if that is given.

    Raises:
        ConfigError: something is wrong; what is only left open is shown as that.
    """
    settings, problems = config.examine(files, _with_data(files, data, bindings))
    config.refuse(problems)
    if picture is not None:
        from sslkit import diagram

        picture.write_text(diagram.draw(settings))
    return describe.as_markdown(settings) if markdown else describe.as_text(settings)


def _with_data(files: list[str], data: Path | None, bindings: list[str]) -> list[str]:
    """The bindings, and those that `--data` stands for: a macro in a protocol, the training images otherwise."""
    if data is None:
        return bindings
    refuse_no_folder(data)
    settings: Config = config.examine(files, bindings)[0]
    if settings.has("evaluation"):
        return [f"DATA = {str(data.absolute())!r}  # --data {data}", *bindings]
    return [*on_images(data), *bindings]
