"""Gin files to built objects, with every mistake named by its file and line.

A configuration goes one way: files to bindings with their places (`source`, by way of `syntax`), bindings looked at one
by one (`check`), the tree of objects that they describe (`resolve` to `tree`), and only then the objects themselves
(`build`). gin supplies the language; no global state is involved, so parts built in Python are never touched and any
number of configurations live side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sslkit import registry
from sslkit.config import text
from sslkit.config.build import FAILED, Builder, named, says
from sslkit.config.check import check
from sslkit.config.problem import Problem
from sslkit.config.problem import refuse as refuse
from sslkit.config.resolve import TooLarge, resolve
from sslkit.config.source import read
from sslkit.config.source import search_path as search_path
from sslkit.config.source import shipped as shipped
from sslkit.config.syntax import Binding, Macro, walk
from sslkit.config.text import difference as difference
from sslkit.config.tree import Argument, Node, Tree
from sslkit.errors import ConfigError
from sslkit.registry import did_you_mean, matching


@dataclass(frozen=True, eq=False)
class Config:
    """A configuration that has been read: what it binds and the tree that this describes."""

    files: tuple[str, ...]
    bindings: tuple[Binding, ...]
    tree: Tree

    @property
    def text(self) -> str:
        """As given, in one file that needs no other and says everything once."""
        return text.as_given(self.tree)

    @property
    def operative(self) -> str:
        """As used: every value, defaults included. Two runs with the same text are the same experiment."""
        return text.as_used(self.tree)

    def has(self, entry: str) -> bool:
        """Whether it binds anything of `train`, `evaluation`, ..."""
        return entry in self.tree.entries

    def argument(self, entry: str, parameter: str) -> Argument:
        """What an entry is called with, not built."""
        return self.tree.entries[entry].arguments[parameter]

    def build(self, entry: str) -> dict[str, Any]:
        """Everything that an entry is called with, built.

        Raises:
            ConfigError: components refuse their arguments; each with the bindings that it speaks of.
        """
        builder = Builder()
        made: dict[str, Any] = _built(builder.arguments(self.tree.entries[entry]), builder)
        return made

    def part(self, entry: str, *parameters: str) -> Any:
        """Only some of it, in the order asked for.

        Raises:
            ConfigError: as `build`.
        """
        builder = Builder()
        arguments = [self.argument(entry, name) for name in parameters]
        built = [builder.value(argument.value, argument.origin) for argument in arguments]
        made = _built(FAILED if any(x is FAILED for x in built) else built, builder)
        return made[0] if len(parameters) == 1 else made

    def left_open(self) -> list[Problem]:
        """Values that somebody still has to give."""
        askers = self.tree.askers()
        found = self.tree.open_values()
        return [_open(node, parameter.name, origin, askers.get(id(node))) for node, parameter, origin in found]

    def forgotten(self) -> list[Problem]:
        """Those of them that no `%gin.REQUIRED` asks for."""
        says = [origin is not None for _, _, origin in self.tree.open_values()]
        return [problem for problem, is_asked in zip(self.left_open(), says, strict=True) if not is_asked]

    def spoken_of(self, message: str) -> list[Binding]:
        """The bindings that a message speaks of by `parameter=value`, the latest first.

        Where it speaks of a default, what asks for the object that has it.
        """
        askers = self.tree.askers()
        stated: dict[str, list[Argument]] = {}
        defaults: list[Binding] = []
        for node in self.tree.nodes():
            for name in named(message) & node.arguments.keys():
                argument = node.arguments[name]
                if argument.origin is not None:
                    stated.setdefault(name, []).append(argument)
                elif says(message, name, argument.value) and id(node) in askers:
                    defaults.append(askers[id(node)])
        found = []
        for name, arguments in stated.items():
            found += [a for a in arguments if says(message, name, a.value)] or arguments
        return self.latest_first([a.origin for a in found] or defaults)

    def latest_first(self, bindings: Iterable[Binding | None]) -> list[Binding]:
        """Each once, in the order in which a reader looks for what is wrong."""
        found = {id(binding) for binding in bindings}
        return [binding for binding in reversed(self.bindings) if id(binding) in found]

    def places(self, message: str) -> str:
        """The same, for the end of the message."""
        return "".join(f"\n  {b.place}: {b} = {b.value!r}" for b in self.spoken_of(message))


def examine(files: str | Sequence[str], bindings: Sequence[str] = ()) -> tuple[Config, list[Problem]]:
    """A configuration and all that is wrong with it, as far as can be said without building it.

    Wrong bindings are left out of the tree, so that what else is wrong comes to light with them. Values that are left
    open are no problem yet: `Config.left_open` has them.
    """
    registry.load()
    files = [files] if isinstance(files, str) else list(files)
    written, problems = read(files, bindings)
    try:
        tree, found = _looked_at(written)
    except RecursionError:
        tree, found = Tree({}), [Problem(None, "", "macros or objects are nested too deeply to be followed")]
    except TooLarge as error:
        tree, found = Tree({}), [error.problem]
    problems += found
    if not tree.entries and not problems:
        wrong = f"{' '.join(files)} binds nothing of `train` or `evaluation`, so nothing runs"
        problems.append(Problem(None, "", wrong))
    return Config(tuple(files), tuple(written), tree), problems


def _looked_at(written: Sequence[Binding]) -> tuple[Tree, list[Problem]]:
    """What bindings describe, and what is wrong with them."""
    good, problems = check(written)
    kept = {id(binding) for binding in good}
    tree = resolve(good, [binding for binding in written if id(binding) not in kept])
    problems += tree.problems
    problems += [_unused(binding, good, tree) for binding in tree.unused] if tree.entries else []
    return tree, problems


def load(files: str | Sequence[str], bindings: Sequence[str] = ()) -> Config:
    """A configuration without a mistake that can be found before anything is built.

    Raises:
        ConfigError: with every problem found, a line or more each.
    """
    config, problems = examine(files, bindings)
    refuse([*problems, *config.left_open()])
    return config


def _built(made: Any, builder: Builder) -> Any:
    refuse(builder.problems)
    if made is FAILED:
        raise ConfigError("a value is left open")
    return made


def _open(node: Node, name: str, origin: Binding | None, asked_by: Binding | None) -> Problem:
    what = f"{node.name}.{name}"
    asks = origin.value if origin is not None else None
    hint = "give --data DIR" if asks == Macro("DATA") or what == "train.data" else f"add `{what} = ...`"
    blamed = origin or asked_by
    return Problem(blamed.place if blamed else None, what, f"{what} is not set", hint)


def _unused(binding: Binding, bindings: Sequence[Binding], tree: Tree) -> Problem:
    return Problem(binding.place, str(binding), f"{binding} is set but nothing uses it", _why(binding, bindings, tree))


def _why(binding: Binding, bindings: Sequence[Binding], tree: Tree) -> str:
    """What would make use of it."""
    found = matching(binding.selector)
    if binding.is_macro and found:
        return f"{binding.selector} is bound by its parameters: `{binding} = ...` defines the macro %{binding}"
    if binding.is_macro:
        asked = {part.name for b in bindings for part in walk(b.value) if isinstance(part, Macro)} - {str(binding)}
        return did_you_mean(str(binding), asked) or f"nothing in use asks for %{binding}"
    known = found[0]
    if known.kind == "entry":
        return f"{known.name} runs outside of every scope, write `{known.name}.{binding.parameter} = ...`"
    nodes = [node for node in tree.nodes() if node.known is known]
    if any(used is binding for used in tree.used):  # it would reach them, but never gets through
        held = [node.arguments[binding.parameter].origin for node in nodes]
        first = next(b for b in held if b is not None)
        return f"{first} of {first.place} holds instead"
    built = sorted({node.scope for node in nodes})
    if not built or not binding.scope:
        return f"no object is built from {known.name}"
    steps = sorted({step for scope in built for step in (scope, *scope.split("/"))} - {""})
    near = did_you_mean(binding.scope, steps)
    scopes = ", ".join(repr(scope) for scope in built if scope)
    where = f"it is built in {scopes}" if scopes else "it is built outside of every scope"
    return near or f"no {known.name} is built in the scope {binding.scope!r}, {where}"
