"""The tables of exchangeable parts, one per role, and the decorators that fill them.

Everything in them is known to gin files by its name. gin itself is told nothing: sslkit only reads its language (see
`sslkit.config`), and a program with a gin configuration of its own is left alone.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points, packages_distributions
from typing import Any, Literal, TypeVar

from sslkit.parameters import Parameter, checked, parameters, refuse

ROLES = (
    "augmenters",
    "maskings",
    "datasets",
    "backbones",
    "heads",
    "centerings",
    "clusterers",
    "matchers",
    "memories",
    "aligners",
    "losses",
    "schedules",
    "evaluate",
)
OWN = "sslkit.components"  # the module that imports every part of our own
ENTRY_POINTS = "sslkit.components"
Kind = Literal["component", "joint", "entry", "helper"]

C = TypeVar("C", bound=type[Any])
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Known:
    """Something that gin files may name.

    A component fills a role; a joint (`Method`, `Term`, ...) joins components; an entry is what sslkit calls with what
    a file binds for it; a helper makes a value out of values while a file is read.
    """

    name: str  # as in gin files: `matchers.Cycle`, `Method`, `train`
    thing: Callable[..., Any]
    kind: Kind
    given: frozenset[str] = frozenset()  # parameters of an entry that its caller supplies
    free: frozenset[str] = frozenset()  # those that change no result

    @property
    def role(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What gin files may bind."""
        return {name: p for name, p in parameters(self.thing).items() if name not in self.given}

    @property
    def is_free(self) -> bool:
        """Whether nothing that is bound for it changes a result."""
        return bool(self.free) and self.free >= self.parameters.keys()

    @property
    def package(self) -> str:
        """The distribution that brings it."""
        module = self.thing.__module__.partition(".")[0]
        return packages_distributions().get(module, [module])[0] if module != "sslkit" else "sslkit"

    @property
    def summary(self) -> str:
        """The first paragraph of what it says of itself."""
        return " ".join((inspect.getdoc(self.thing) or "").partition("\n\n")[0].split())


_KNOWN: dict[str, Known] = {}


def _add(known: Known) -> None:
    if known.name in _KNOWN:
        raise ValueError(f"{known.name} is already taken by {_KNOWN[known.name].thing.__module__}")
    try:
        for parameter in parameters(known.thing).values():
            if not parameter.is_required:
                refuse(parameter.name, parameter.default, parameter.hint)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise TypeError(
            f"{known.name}: an annotation cannot be read at run time ({error}); import what it names outside of "
            f"TYPE_CHECKING, or its parameters could not be checked"
        ) from error
    _KNOWN[known.name] = known


def register(role: str) -> Callable[[C], C]:
    """Add the decorated class to the table of `role` and make it known to gin files as `@role.Name`.

    The class itself comes back; from now on it refuses what the annotations of its parameters do not allow.

    Raises:
        ValueError: the role does not exist, or another class of the role has the name.
    """
    if role not in ROLES:
        raise ValueError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}")

    def add(cls: C) -> C:
        _add(Known(f"{role}.{cls.__name__}", cls, "component"))
        checked(cls)
        return cls

    return add


def joint(cls: C) -> C:
    """Make a class that joins components known to gin files by its bare name, such as `Method`."""
    _add(Known(cls.__name__, cls, "joint"))
    checked(cls)
    return cls


def helper(function: F) -> F:
    """Make a function of values known to gin files, called as `@name()` while a file is read.

    It may be given objects that are not built yet, and only passes these on.
    """
    _add(Known(function.__name__, function, "helper"))
    return function


def entry(*, given: Iterable[str] = (), free: Iterable[str] = ()) -> Callable[[F], F]:
    """Let gin files bind the parameters of the decorated function, all but those `given` by whoever calls it.

    Args:
        free: parameters that change no result, so a run may go on with others.
    """

    def add(function: F) -> F:
        _add(Known(function.__name__, function, "entry", frozenset(given), frozenset(free)))
        return function

    return add


def everything() -> list[Known]:
    """All that gin files may name, in the order of registration."""
    return list(_KNOWN.values())


def matching(name: str) -> list[Known]:
    """What a name in a gin file may mean: the thing of that name, else those whose name ends in it after a dot."""
    if name in _KNOWN:
        return [_KNOWN[name]]
    return [known for full, known in _KNOWN.items() if full.endswith("." + name)]


def components(role: str) -> dict[str, type]:
    """The classes of one role by name.

    Raises:
        KeyError: there is no such role; the message names the nearest.
    """
    if role not in ROLES:
        raise KeyError(f"there is no role {role!r}" + did_you_mean(role, ROLES, after="; "))
    found = (known for known in _KNOWN.values() if known.role == role)
    return {known.thing.__name__: known.thing for known in found if inspect.isclass(known.thing)}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like this one; None where none is near."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    near = near or [w for w in words if w.lower() == word.lower()]
    return near[0] if near else None


def did_you_mean(word: str, known: Iterable[str], *, after: str = "") -> str:
    """`did you mean 'it'?` with the nearest of the known words, behind `after`; nothing at all where none is near."""
    near = nearest(word, known)
    return "" if near is None else f"{after}did you mean {near!r}?"


@functools.cache
def load() -> list[str]:
    """Fill the tables: sslkit's own parts, then what other packages offer under the entry point `sslkit.components`.

    The names of the plugins come back. One that cannot be imported is reported and left out: an unrelated package must
    not stop a run that does not use it. A gin file that does use it then fails with an unknown name.
    """
    importlib.import_module(OWN)
    loaded = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except (Exception, SystemExit) as error:
            print(f"sslkit: the plugin {point.name} ({point.value}) could not be loaded: {error!r}", file=sys.stderr)
        else:
            loaded.append(point.name)
    return loaded
