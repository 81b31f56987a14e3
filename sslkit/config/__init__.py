"""Gin files to built objects, with every mistake named by its file and line.

A configuration goes one way: files to bindings with their places (`source`), bindings looked at one by one (`check`),
the tree of objects that they describe (`tree`), and only then the objects themselves (`build`). gin supplies the
language; no global state is involved, so parts built in Python are never touched and any number of configurations live
side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sslkit import registry
from sslkit.config import text
from sslkit.config.build import FAILED, Builder, named
from sslkit.config.check import check
from sslkit.config.source import REQUIRED as REQUIRED
from sslkit.config.source import Binding, Macro, Problem, read, walk
from sslkit.config.source import refuse as refuse
from sslkit.config.source import search_path as search_path
from sslkit.config.source import shipped as shipped
from sslkit.config.text import difference as difference
from sslkit.config.tree import Argument, Node, Tree, resolve
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
        built: dict[str, Any] = _built(builder.arguments(self.tree.entries[entry]), builder)
        return built

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
        return [_open(node, parameter.name, origin) for node, parameter, origin in self.tree.open_values()]

    def spoken_of(self, message: str) -> list[Binding]:
        """The bindings that a message speaks of by `parameter=`, the latest first."""
        found = {
            id(argument.origin)
            for node in self.tree.nodes()
            for name, argument in node.arguments.items()
            if argument.origin and name in named(message)
        }
        return [binding for binding in reversed(self.bindings) if id(binding) in found]

    def places(self, message: str) -> str:
        """The same, for the end of the message."""
        return "".join(f"\n  {b.place}: {b} = {b.value!r}" for b in self.spoken_of(message))


def examine(files: Sequence[str], bindings: Sequence[str] = ()) -> tuple[Config, list[Problem]]:
    """A configuration and all that is wrong with it, as far as can be said without building it.

    Wrong bindings are left out of the tree, so that what else is wrong comes to light with them. Values that are left
    open are no problem yet: `Config.left_open` has them.
    """
    registry.load()
    written, problems = read(files, bindings)
    good, found = check(written)
    kept = {id(binding) for binding in good}
    tree = resolve(good, [binding for binding in written if id(binding) not in kept])
    problems += [*found, *tree.problems]
    problems += [_unused(binding, good) for binding in tree.unused] if tree.entries else []
    if not tree.entries and not problems:
        problems.append(
            Problem(None, "", f"{' '.join(files)} binds nothing of `train` or `evaluation`, so nothing runs")
        )
    return Config(tuple(files), tuple(written), tree), problems


def load(files: Sequence[str], bindings: Sequence[str] = ()) -> Config:
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


def _open(node: Node, name: str, origin: Binding | None) -> Problem:
    what = f"{node.name}.{name}"
    asks = origin.value if origin is not None else None
    is_data = asks == Macro("DATA") or what == "train.data"
    hint = "give --data DIR" if is_data else f"add `{what} = ...`"
    return Problem(origin.place if origin else None, what, f"{what} is not set", hint)


def _unused(binding: Binding, bindings: Sequence[Binding]) -> Problem:
    scopes = sorted({b.scope for b in bindings} - {"", binding.scope})
    hint = did_you_mean(binding.scope, scopes) if binding.scope else ""
    if binding.is_macro:
        hint = did_you_mean(binding.selector, {x.name for b in bindings for x in _macros(b)})
    return Problem(
        binding.place, str(binding), f"{binding} is set but nothing uses it", hint.removeprefix("; ") or _why(binding)
    )


def _why(binding: Binding) -> str:
    what = matching(binding.selector)[0].name if not binding.is_macro else f"%{binding.selector}"
    return f"no object is built from {what}" + (f" in the scope {binding.scope!r}" if binding.scope else "")


def _macros(binding: Binding) -> list[Macro]:
    return [x for x in walk(binding.value) if isinstance(x, Macro)]
