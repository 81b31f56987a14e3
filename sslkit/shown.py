"""Text of somebody else on the screen and in reports."""

from __future__ import annotations

import re


def visible(text: str) -> str:
    r"""The text with every character that a terminal would obey, or nobody would see, written out.

    Ends of lines and tabs stay.

    Example:
        >>> print(visible("red \x1b[31m"))
        red \x1b[31m
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def in_markdown(text: str) -> str:
    r"""The text for one line of Markdown, where it stands for itself: no tag, no link, no cell of its own.

    Example:
        >>> print(in_markdown("a|b <img> [c](d)"))
        a\|b &lt;img> [c]\(d)
    """
    escaped = visible(" ".join(text.splitlines())).replace("\\", "\\\\")
    for sign, instead in {"&": "&amp;", "<": "&lt;", "|": "\\|", "`": "\\`", "](": "]\\("}.items():
        escaped = escaped.replace(sign, instead)
    return escaped


def as_code(text: str) -> str:
    """The same as code: between more backticks than it holds in a row.

    Example:
        >>> as_code("a"), as_code("`b")
        ('`a`', '`` `b ``')
    """
    plain = visible(" ".join(text.splitlines()))
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    return f"{fence}{plain}{fence}" if len(fence) == 1 else f"{fence} {plain} {fence}"
