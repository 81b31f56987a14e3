"""Configurations as gin text: as given in one file, as used with every default, and how two of them differ."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from sslkit.config.tree import SINGLETON, Node, Tree, Uncalled


def as_given(tree: Tree) -> str:
    """The bindings that mean something, each once, as one file that needs no other."""
    return "\n".join(binding.text for binding in tree.used) + "\n"


def as_used(tree: Tree) -> str:
    """Every value of every object, defaults included; it reads back to the same tree."""
    lines: dict[str, str] = {}
    for node in tree.nodes():
        if node.shared_as is not None:
            lines[f"{node.shared_as}/{SINGLETON}.constructor"] = repr(Uncalled(node))
        for name, argument in node.arguments.items():
            lines[f"{node.name}.{name}"] = spell(argument.value)
    return "".join(f"{name} = {value}\n" for name, value in lines.items())


def spell(value: Any) -> str:
    """A value of a tree as gin writes it."""
    if isinstance(value, Node) and value.shared_as is not None:
        return f"@{value.shared_as}/{SINGLETON}()"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {spell(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(spell, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(spell, value)) + "]"
    return repr(value)


def difference(before: str, now: str) -> list[str]:
    """Lines of two texts that differ, `-` before and `+` now."""
    compared = difflib.unified_diff(sorted(before.splitlines()), sorted(now.splitlines()), lineterm="", n=0)
    return [line for line in compared if line[0] in "+-" and line[:3] not in ("+++", "---")]
