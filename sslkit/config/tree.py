"""The tree of objects that a configuration describes; none of them is built yet."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sslkit.config.problem import Problem
from sslkit.config.syntax import REQUIRED, Binding, walk
from sslkit.parameters import Parameter
from sslkit.registry import Known


class Missing:
    """Stands where there is no value."""

    promised: type | None = None

    def __repr__(self) -> str:
        return f"%{REQUIRED}"

    def __bool__(self) -> bool:
        return False


OPEN = Missing()  # somebody still has to give it
BROKEN = Missing()  # what was given is a problem already reported
MOST = 20_000  # values that a configuration may come to; the largest of the shipped files have 250
SINGLETON = "singleton"  # gin's own name for an object that several places share


@dataclass(frozen=True, eq=False)
class Argument:
    """The value of one parameter and the binding it is from; None is the default."""

    value: Any
    origin: Binding | None = None


@dataclass(eq=False)
class Node:
    """An object that will be built: what of, in which scope, with which arguments."""

    known: Known
    scope: str
    shared_as: str | None = None  # scope of the singleton that it is
    arguments: dict[str, Argument] = field(default_factory=dict)

    @property
    def promised(self) -> type | None:
        return self.known.thing if inspect.isclass(self.known.thing) else None

    @property
    def name(self) -> str:
        return f"{self.scope}/{self.known.name}" if self.scope else self.known.name

    def __repr__(self) -> str:
        return f"@{self.name}()"


@dataclass(frozen=True, eq=False)
class Uncalled:
    """A class or function that is named but not called."""

    node: Node

    def __repr__(self) -> str:
        return repr(self.node).removesuffix("()")


@dataclass(frozen=True, eq=False)
class Tree:
    """What a configuration describes: the arguments of each entry that it binds, and what its bindings came to."""

    entries: Mapping[str, Node]
    used: tuple[Binding, ...] = ()
    unused: tuple[Binding, ...] = ()  # neither used nor settings of parts that another binding replaced
    problems: tuple[Problem, ...] = ()

    def nodes(self) -> Iterator[Node]:
        """Every object once, from the outside in."""
        yield from nodes_in(dict(self.entries), set())

    def askers(self) -> dict[int, Binding]:
        """The binding that asks for an object, by the object's id."""
        found: dict[int, Binding] = {}
        for node in self.nodes():
            for argument in node.arguments.values():
                for part in walk(argument.value):
                    if isinstance(part, Node) and argument.origin is not None:
                        found.setdefault(id(part), argument.origin)
        return found

    def open_values(self) -> list[tuple[Node, Parameter, Binding | None]]:
        """Values that are left open, with the binding that says so."""
        return [
            (node, node.known.parameters[name], argument.origin)
            for node in self.nodes()
            for name, argument in node.arguments.items()
            if any(part is OPEN for part in walk(argument.value))
        ]


def nodes_in(value: Any, seen: set[int]) -> Iterator[Node]:
    """Every object in a value once, from the outside in, but for those seen before."""
    for part in walk(value):
        if isinstance(part, Node) and id(part) not in seen:
            seen.add(id(part))
            yield part
            for argument in part.arguments.values():
                yield from nodes_in(argument.value, seen)
