"""All that is wrong with a gin file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslkit import config, preflight
from sslkit.config.problem import Problem, in_order
from sslkit.launch.options import with_data
from sslkit.shown import visible

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
            return "\n".join([*map(str, self.problems), f"{visible(self.file)}: {n} problem{'s' if n > 1 else ''}"])
        names = dict.fromkeys(problem.binding for problem in self.open_values)
        return f"{visible(self.file)}: fine" + (f"; leaves open {', '.join(names)}" if names else "")

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
    settings, problems = config.examine([file], with_data([file], data, bindings))
    problems += preflight.contradictions(settings)
    forgotten = [] if Path(file).absolute().parent.name == PARTS else settings.forgotten()
    asked = [problem for problem in settings.left_open() if problem not in forgotten]
    return Report(file, tuple(in_order([*problems, *forgotten])), tuple(asked))
