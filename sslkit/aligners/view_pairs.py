"""Which views of an image are compared."""

from __future__ import annotations

from typing import Literal

from sslkit.types import Step

Sources = Literal["any", "same", "different"]


def view_pairs(step: Step, sources: Sources, *, same_view: bool = False) -> list[tuple[int, int]]:
    """Student and teacher views that are compared: of any sources, of one, or of two; not of one view, or only so.

    Raises:
        ValueError: there are none.
    """
    student, teacher = step.student, step.teacher
    pairs = [
        (s, t)
        for s in range(len(student.images))
        for t in range(len(teacher.images))
        if (s == t) == same_view and _fit(student.sources[s], teacher.sources[t], sources)
    ]
    if not pairs:
        raise ValueError(
            f"sources={sources!r} leaves no pair among student views of sources {student.sources} and teacher views of "
            f"sources {teacher.sources}"
        )
    return pairs


def _fit(here: int, there: int, sources: Sources) -> bool:
    return sources == "any" or (here == there) == (sources == "same")
