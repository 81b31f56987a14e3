"""The objects that a tree describes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sslkit.config.problem import Problem
from sslkit.config.syntax import Binding
from sslkit.config.tree import Missing, Node, Uncalled


class Builder:
    """Builds values; an object that several places share is built once by each builder.

    What components refuse is collected in `problems`, so that one mistake does not hide the next.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._shared: dict[int, Any] = {}

    def value(self, value: Any, asked_by: Binding | None = None) -> Any:
        """The value with its objects built; `FAILED` stands for those that refused."""
        if isinstance(value, Node):
            return self._node(value, asked_by)
        if isinstance(value, Missing | Uncalled):
            return FAILED
        if isinstance(value, Mapping):
            built: Any = {k: self.value(v, asked_by) for k, v in value.items()}
            return FAILED if any(v is FAILED for v in built.values()) else built
        if isinstance(value, (list, tuple)):
            built = type(value)(self.value(v, asked_by) for v in value)
            return FAILED if any(v is FAILED for v in built) else built
        return value

    def arguments(self, node: Node) -> Any:
        """What a node is called with."""
        built = {name: self.value(each.value, each.origin) for name, each in node.arguments.items()}
        return FAILED if any(value is FAILED for value in built.values()) else built

    def _node(self, node: Node, asked_by: Binding | None) -> Any:
        if id(node) in self._shared:
            return self._shared[id(node)]
        arguments = self.arguments(node)
        made = FAILED
        if arguments is not FAILED:
            try:
                made = node.known.thing(**arguments)
            except Exception as error:  # a component of somebody else may raise anything
                self.problems.append(_refused(node, error, asked_by))
        if node.shared_as is not None:
            self._shared[id(node)] = made
        return made


FAILED = object()


def named(message: str) -> set[str]:
    """The parameters that a message speaks of as `name=`."""
    return set(re.findall(r"\b(\w+)=", message))


def says(message: str, name: str, value: Any) -> bool:
    """Whether it speaks of this very value, as `name=value`."""
    return re.search(rf"\b{name}={re.escape(repr(value))}(?!\w|\.\w)", message) is not None


def _refused(node: Node, error: Exception, asked_by: Binding | None) -> Problem:
    """What a component says of its arguments, with the bindings that it speaks of."""
    reason = str(error).strip() or type(error).__name__
    if not isinstance(error, (ValueError, TypeError, RuntimeError, OSError)):
        reason = f"{type(error).__name__}: {reason}"
    stated = {name: a.origin for name, a in node.arguments.items() if a.origin}
    known = named(reason) & stated.keys() or {name for name in stated if re.search(rf"\b{name}\b", reason)}
    spoken_of = [stated[name] for name in sorted(known, key=reason.find)]
    origins = spoken_of or ([asked_by] if asked_by else [])
    others = "".join(f"\n  {b.place}: {b} = {b.value!r}" for b in origins[1:])
    first = f"{origins[0]} = {origins[0].value!r}: " if origins else ""
    return Problem(
        origins[0].place if origins else None,
        str(origins[0]) if origins else "",
        f"{first}{node.known.name} refuses: {reason}{others}",
    )
