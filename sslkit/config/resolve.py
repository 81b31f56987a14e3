"""Bindings to the tree of objects that they describe, by gin's rules, without building any.

A reference `@a/X()` is built in the scope `a`, or, without a scope of its own, in that of the object around it. In the
scope `a/b` the bindings of X, then `a/X`, then `a/b/X` hold, the later over the earlier. A macro is evaluated wherever
it is used, in the scope of its name. These are gin's rules, and a test compares the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from sslkit.config.problem import Problem
from sslkit.config.syntax import REQUIRED, Binding, Macro, Reference, walk
from sslkit.config.tree import BROKEN, MOST, OPEN, SINGLETON, Argument, Missing, Node, Tree, Uncalled
from sslkit.parameters import absolute, asks_for_folder, misfit
from sslkit.registry import Known, everything, matching

LARGEST = 2**1024  # beyond every float


class TooLarge(Exception):
    """A configuration comes to more than anybody means."""

    def __init__(self, origin: Binding):
        super().__init__(origin)
        wrong = f"{origin} = {origin.value!r}: the objects and values of the configuration are more than {MOST:,}"
        self.problem = Problem(origin.place, str(origin), wrong, "an object is built at each of its uses")


def resolve(bindings: Sequence[Binding], lost: Sequence[Binding] = ()) -> Tree:
    """The tree that these bindings describe; they name things that exist.

    Args:
        lost: bindings left out because something is wrong with them; what follows from that alone is not reported.

    Raises:
        TooLarge: there are too many of them to be built.
    """
    work = _Resolver(bindings, lost)
    bound = {known.name for b in bindings if not b.is_macro for known in matching(b.selector)[:1]}
    entries = {
        known.name: work.node(known, "") for known in everything() if known.kind == "entry" and known.name in bound
    }
    work.excuse()
    possible = _possible([p.hint for _, p, _ in Tree(entries).open_values()] + [h for b in lost for h in _hints(b)])
    unused = [b for b in bindings if id(b) not in work.used | work.excused]
    unused += [b for b in bindings if b.is_given and not b.is_macro and id(b) in work.used - work.effective]
    return Tree(
        entries,
        used=tuple(b for b in bindings if id(b) in work.used),
        unused=tuple(b for b in unused if b.is_macro or matching(b.selector)[0].name not in possible),
        problems=tuple(work.problems),
    )


class _Resolver:
    def __init__(self, bindings: Sequence[Binding], lost: Sequence[Binding]):
        self.lost = {(known.name, b.parameter) for b in lost for known in matching(b.selector)[:1]}
        self.problems: list[Problem] = []
        self.table: dict[tuple[str, str], dict[str, list[Binding]]] = {}  # by scope and name: all, the last one holds
        self.macros: dict[str, list[Binding]] = {}
        for b in bindings:
            if b.is_macro:
                self.macros.setdefault(str(b), []).append(b)
            else:
                key = (b.scope, matching(b.selector)[0].name)
                self.table.setdefault(key, {}).setdefault(b.parameter, []).append(b)
        self.used: set[int] = set()
        self.excused: set[int] = set()
        asked = [b.value for b in lost]
        while asked:
            named = [part.name for part in walk(asked.pop()) if isinstance(part, Macro)]
            found = [b for name in named for b in self.macros.get(name, []) if id(b) not in self.excused]
            self.excused |= {id(b) for b in found}
            asked += [b.value for b in found]
        self.is_real = True  # False while the settings of replaced parts are looked for
        self.effective: set[int] = set()  # those that decide a value somewhere
        self.order = {id(b): n for n, b in enumerate(bindings)}
        self.until = 0  # while settings of replaced parts are looked for: those that stand before the replacing binding
        self.replaced: list[tuple[Binding, str, int]] = []
        self.open_calls: list[tuple[str, str]] = []
        self.shared: dict[str, Any] = {}
        self.n_values = 0

    def node(self, known: Known, scope: str) -> Node:
        """An object with its arguments, those left out by their defaults."""
        node = Node(known, scope)
        key = (scope, known.name)
        self.open_calls.append(key)
        winners = self._winners(known, scope)
        for name, parameter in known.parameters.items():
            winner = winners.get(name)
            if winner is not None:
                value = self.value(winner.value, scope, winner)
                if isinstance(value, str) and asks_for_folder(parameter.hint):
                    value = absolute(value)  # the same folder wherever the text is read again
                is_whole = all(part is not BROKEN for part in walk(value))
                wrong = misfit(value, parameter.hint) if is_whole else None  # what helpers made; else it was looked at
                value = self._refuse(winner, f"{value!r} {wrong}") if wrong else value
                node.arguments[name] = Argument(value, winner)
            elif parameter.is_required:
                node.arguments[name] = Argument(BROKEN if (known.name, name) in self.lost else OPEN)
            else:
                node.arguments[name] = Argument(parameter.default)
        self.open_calls.pop()
        return node

    def _winners(self, known: Known, scope: str) -> dict[str, Binding]:
        steps = scope.split("/") if scope else []
        winners: dict[str, Binding] = {}
        for n in range(len(steps) + 1):
            for name, given in self.table.get(("/".join(steps[:n]), known.name), {}).items():
                stated = [b for b in given if b.value != Macro(REQUIRED)]  # the others ask for a value
                for binding in given:
                    if binding is not (stated or given)[-1]:
                        self.excused.add(id(binding))
                given = stated or ([] if name in winners else given)
                for binding in given:
                    if name in winners:
                        self.replaced.append((winners[name], scope, self.order[id(binding)]))
                    winners[name] = binding
                for last in given[-1:]:
                    self._mark(last)
        if self.is_real:
            self.effective |= {id(b) for b in winners.values()}
        return winners

    def _excuse(self, binding: Binding, until: int) -> None:
        """A setting that stands before what makes it idle is no mistake; one that comes later, or is given, is."""
        if self.order[id(binding)] < until and not binding.is_given:
            self.excused.add(id(binding))

    def _mark(self, binding: Binding) -> None:
        if self.is_real:
            self.used.add(id(binding))
        else:
            self._excuse(binding, self.until)

    def value(self, written: Any, scope: str, origin: Binding) -> Any:
        """What stands for a value as written: containers of plain values and nodes."""
        self.n_values += 1
        if self.n_values > MOST:
            raise TooLarge(origin)
        if isinstance(written, Macro):
            return self._macro(written, origin)
        if isinstance(written, Reference):
            return self._reference(written, scope, origin)
        if isinstance(written, Mapping):
            return {k: self.value(v, scope, origin) for k, v in written.items()}
        if isinstance(written, (list, tuple)):
            return type(written)(self.value(v, scope, origin) for v in written)
        return written

    def _macro(self, macro: Macro, origin: Binding) -> Any:
        given = self.macros.get(macro.name, [])
        stated = [b for b in given if b.value != Macro(REQUIRED)] or given
        for binding in given:
            if binding in stated[-1:]:
                self._mark(binding)
            else:
                self._excuse(binding, len(self.order))
        if macro.name == REQUIRED or not stated or stated[-1].value == Macro(REQUIRED):
            return OPEN
        key = ("%", macro.name)
        if key in self.open_calls:
            return self._refuse(origin, f"{macro!r} is made of itself{self._way(key)}")
        for earlier in stated[:-1]:
            self.replaced.append((earlier, macro.name, self.order[id(stated[-1])]))
        self.open_calls.append(key)
        value = self.value(stated[-1].value, macro.name, stated[-1])
        self.open_calls.pop()
        return value

    def _reference(self, reference: Reference, scope: str, origin: Binding) -> Any:
        known = matching(reference.name)[0]
        inner = reference.scope or scope
        if (inner, known.name) in self.open_calls:
            way = self._way((inner, known.name))
            return self._refuse(origin, f"{reference!r} would be built inside itself, without end{way}")
        if known.name == SINGLETON:
            return self._singleton(known, inner, origin)
        node = self.node(known, inner)
        if not reference.is_call:
            return Uncalled(node)
        return self._help(node, origin) if known.kind == "helper" else node

    def _way(self, key: tuple[str, str]) -> str:
        """What lies between a thing and itself, if anything does."""
        between = self.open_calls[self.open_calls.index(key) + 1 :]
        named = [f"%{name}" if scope == "%" else f"@{scope + '/' if scope else ''}{name}()" for scope, name in between]
        return f", by way of {' and '.join(named)}" if named else ""

    def _help(self, node: Node, origin: Binding) -> Any:
        values = {name: argument.value for name, argument in node.arguments.items()}
        for name, value in values.items():
            if value is OPEN:
                return self._refuse(origin, f"{node!r} needs a value for {name!r}", f"add `{node.name}.{name} = ...`")
            if any(part is OPEN for part in walk(value)):
                return OPEN
            if any(part is BROKEN for part in walk(value)) or misfit(value, node.known.parameters[name].hint):
                return BROKEN  # reported where it was set
        asked = next((a.origin for a in node.arguments.values() if a.origin), origin)
        try:
            made = node.known.thing(**values)
        except Exception as error:  # a helper of somebody else may raise anything
            return self._refuse(asked, str(error))
        if isinstance(made, int) and abs(made) >= LARGEST:
            return self._refuse(asked, "a number beyond every float comes out")
        return made

    def _singleton(self, known: Known, scope: str, origin: Binding) -> Any:
        if scope not in self.shared or not self.is_real:
            asked = self.node(known, scope).arguments["constructor"].value
            if asked is BROKEN:
                return BROKEN
            if not isinstance(asked, Uncalled):
                name = f"{scope}/{SINGLETON}" if scope else SINGLETON
                return self._refuse(
                    origin,
                    f"@{name}() needs a constructor" + ("" if asked is OPEN else f", not {asked!r}"),
                    f"add `{name}.constructor = @role.Name` (without parentheses)",
                )
            asked.node.shared_as = scope
            if not self.is_real:
                return asked.node
            self.shared[scope] = asked.node
        return self.shared[scope]

    def _refuse(self, origin: Binding, wrong: str, hint: str = "") -> Missing:
        if self.is_real:
            said = f"{origin} = {origin.value!r}: {wrong}"
            self.problems.append(Problem(origin.place, str(origin), said, hint))
        return BROKEN

    def excuse(self) -> None:
        """Find the settings that only parts would use which another binding replaced."""
        self.is_real = False
        done: set[tuple[int, str, int]] = set()
        while self.replaced:
            binding, scope, until = self.replaced.pop()
            if (id(binding), scope, until) in done:
                continue
            done.add((id(binding), scope, until))
            self._excuse(binding, until)
            self.until = until
            self.value(binding.value, scope, binding)
            self.until = 0


def _hints(lost: Binding) -> list[Any]:
    """Types of what a wrong binding may have been meant to bring."""
    for known in matching(lost.selector)[:1]:
        if lost.parameter in known.parameters:
            return [known.parameters[lost.parameter].hint]
    named = [part.name for part in walk(lost.value) if isinstance(part, Reference)]
    return [known.thing for name in named for known in matching(name)[:1]]


def _possible(hints: Sequence[Any]) -> set[str]:
    """Names of all that may be built inside values of these types."""
    found: set[str] = set()
    asked = list(hints)
    while asked:
        hint = asked.pop()
        if get_origin(hint) is not None:
            asked += [arg for arg in get_args(hint) if get_origin(arg) is not None or inspect.isclass(arg)]
            continue
        for known in everything():
            is_part = known.kind in ("component", "joint") and known.name not in found
            if is_part and hint not in (Any, int, float, str, bool) and misfit(_Stand(known.thing), hint) is None:
                found.add(known.name)
                asked += [parameter.hint for parameter in known.parameters.values()]
    return found


@dataclass(frozen=True)
class _Stand:
    """Some object of a class."""

    thing: Callable[..., Any]

    @property
    def promised(self) -> type | None:
        return self.thing if inspect.isclass(self.thing) else None
