"""Words and the room that they take."""

from __future__ import annotations

import re
from typing import Literal

Style = Literal["tag", "title", "line", "teacher", "sum"]
Words = tuple[tuple[Style, str], ...]  # lines of a box

SIZES: dict[Style, float] = {"tag": 10.5, "title": 13, "line": 11.5, "teacher": 11.5, "sum": 20}
LEADING = 1.35
EMS = (("fijlrtI.,:;'|!()[]/ -", 0.4), ("mwMW@%→…+&<>=", 1.0))  # widths of the letters that are unlike most


def width_of(words: str, style: Style) -> float:
    """A little more than the words take in the widest of the usual fonts."""
    ems = sum(next((em for letters, em in EMS if c in letters), 0.74 if c.isupper() else 0.63) for c in words)
    return ems * SIZES[style] * (1.1 if style == "title" else 1)


def fit(words: str, style: Style, width: float, most: int = 2) -> list[str]:
    """The words in at most so many lines of that width; what is too long ends in an ellipsis."""
    lines = [""]
    for piece in re.split(r"(?<=[\s_,:/-])|(?<=[a-z])(?=[A-Z])", words):
        if lines[-1] and width_of((lines[-1] + piece).rstrip(), style) > width and len(lines) < most:
            lines.append("")
        lines[-1] += piece
    return [shorten(line.strip(), style, width) for line in lines]


def shorten(words: str, style: Style, width: float) -> str:
    """The words, or as many letters of them as there is room for."""
    if width_of(words, style) <= width:
        return words
    while words and width_of(words + "…", style) > width:
        words = words[:-1]
    return words + "…"
