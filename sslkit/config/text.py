"""Configurations as gin text: as given in one file, as used with every default, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sslkit.config.tree import SINGLETON, Node, Tree, Uncalled, nodes_in
from sslkit.parameters import absolute, asks_for_folder
from sslkit.registry import matching
from sslkit.shown import visible

if TYPE_CHECKING:
    from sslkit.config import Config
    from sslkit.config.syntax import Binding


def as_given(tree: Tree) -> str:
    """The bindings that mean something, each once, as one file that needs no other."""
    return "\n".join(_anywhere(binding) for binding in tree.used) + "\n"


def _anywhere(binding: Binding) -> str:
    """A binding as written, but a folder by its whole path: the text is used in other places too."""
    known = [] if binding.is_macro else matching(binding.selector)
    if known and isinstance(binding.value, str) and asks_for_folder(known[0].parameters[binding.parameter].hint):
        return f"{binding} = {absolute(binding.value)!r}"
    return binding.text


def as_used(tree: Tree) -> str:
    """Every value of every object, defaults included; it reads back to the same tree.

    Without entries of which no value changes a result: where a run takes place is not what it is.
    """
    lines: dict[str, str] = {}
    for node in Tree({name: node for name, node in tree.entries.items() if not node.known.is_free}).nodes():
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


def difference(before: str, now: Config) -> tuple[list[str], list[str]]:
    """Values that a text as used has otherwise, `-` there and `+` now: those that matter, and those that do not.

    It does not matter where data lie and how a run is watched and loaded (`Known.free`), nor that a parameter is new
    and at its default.
    """
    free, new = _free(now.tree), _at_default(now.tree)
    there = dict(line.split(" = ", 1) for line in before.splitlines() if " = " in line)
    here = dict(line.split(" = ", 1) for line in now.operative.splitlines())
    matters: list[str] = []
    does_not: list[str] = []
    for name in dict.fromkeys([*there, *here]):
        if _same(there.get(name), here.get(name)) or (name not in there and name in new):
            continue
        lines = [visible(f"{sign}{name} = {side[name]}") for sign, side in (("-", there), ("+", here)) if name in side]
        (does_not if name in free else matters).extend(lines)
    return matters, does_not


def _same(there: str | None, here: str | None) -> bool:
    try:
        return there == here or float(there or "") == float(here or "")  # 1 is 1.0
    except ValueError:
        return False


def _free(tree: Tree) -> set[str]:
    """Names of values that change no result, those of parts that only such values hold among them."""
    found: set[str] = set()
    bound: set[str] = set()
    for entry in tree.entries.values():
        for name, argument in entry.arguments.items():
            inside = {f"{n.name}.{key}" for n in nodes_in(argument.value, set()) for key in n.arguments}
            (found if name in entry.known.free else bound).update(inside | {f"{entry.name}.{name}"})
    folders = {
        f"{node.name}.{name}"
        for node in tree.nodes()
        for name in node.arguments
        if asks_for_folder(node.known.parameters[name].hint)
    }
    return (found - bound) | folders


def _at_default(tree: Tree) -> set[str]:
    return {f"{node.name}.{name}" for node in tree.nodes() for name, a in node.arguments.items() if a.origin is None}
