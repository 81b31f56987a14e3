"""What evaluations found in the course of a run, by step, in a file of their own.

A checkpoint is written before its step is evaluated, so that a kill in a long evaluation loses nothing but that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from sslkit import files


def numbers(found: Mapping[str, object]) -> dict[str, float]:
    """Those of the values that a float can hold, as they are; one that is no number (NaN) is a result as well."""
    known = {name: x for name, x in found.items() if isinstance(x, int | float)}
    return {name: x for name, x in known.items() if not abs(x) > sys.float_info.max}  # a whole number may be


class Results:
    """`evaluations.json` of a run: for every step that was evaluated, numbers by name, such as `dense/miou`.

    Opened by a run that goes on from step `first`, it forgets what came later.
    """

    def __init__(self, run_dir: Path, *, first: int | None = None):
        self.path = run_dir / "evaluations.json"
        kept = {
            int(step): numbers(found)
            for step, found in files.read_json(self.path, dict).items()
            if step.isdecimal() and len(step) < 19 and isinstance(found, dict)  # not of our making, or damaged
        }
        self.by_step: dict[int, dict[str, float]] = dict(sorted(kept.items()))
        if first is not None:
            self.by_step = {step: found for step, found in self.by_step.items() if step < first or step == first > 0}

    def add(self, step: int, found: Mapping[str, float]) -> None:
        """Keep the results of a step."""
        self.by_step[step] = dict(found)
        files.put_json(self.path, self.by_step)

    @property
    def last(self) -> dict[str, float]:
        """Those of the latest step that was evaluated."""
        return self.by_step[max(self.by_step)] if self.by_step else {}

    def best(self, name: str, among: Iterable[int]) -> int | None:
        """The step with the largest number of that name, the earliest of several; None if no step has one."""
        found = {step: self.by_step[step][name] for step in sorted(among) if name in self.by_step.get(step, {})}
        return max(found, key=lambda step: found[step]) if found else None
