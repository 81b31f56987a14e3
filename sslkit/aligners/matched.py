"""The matches that an aligner asks for."""

from __future__ import annotations

from typing import Literal

from sslkit.types import Matches, Step


def matched(step: Step, search: str, level: Literal["region", "image"] | None = None) -> Matches:
    """What a search of the method found, for whole images or for regions where a level is asked for.

    Raises:
        ValueError: there is no such search, or it is of the other level.
    """
    if search not in step.matches:
        known = ", ".join(step.matches) or "none"
        raise ValueError(f"search={search!r} is not a search of the method; it has: {known} (Method.searches)")
    matches = step.matches[search]
    if level not in (None, matches.level):
        what = {"image": "whole images", "region": "regions"}[str(level)]
        raise ValueError(f"search={search!r} does not look for {what}: its Search.level must be {level!r}")
    return matches
