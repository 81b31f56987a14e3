"""The tables of exchangeable parts, one per role, and the decorator that fills them."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

import gin

ROLES = (
    "augmenters",
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
ENTRY_POINTS = "sslkit.components"

C = TypeVar("C", bound=type[Any])
F = TypeVar("F", bound=Callable[..., Any])
_TABLES: dict[str, dict[str, type]] = {role: {} for role in ROLES}


def register(role: str) -> Callable[[C], C]:
    """Add the decorated class to the table of `role` and make it known to gin files as `@role.Name`.

    The class comes back unchanged: called from Python it ignores gin.

    Raises:
        ValueError: the role does not exist, or another class of the role has the name.
    """
    if role not in _TABLES:
        raise ValueError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}")
    table = _TABLES[role]

    def add(cls: C) -> C:
        name = cls.__name__
        if name in table:
            raise ValueError(f"{role}.{name} is already taken by {table[name].__module__}")
        gin.register(name, module=role)(cls)
        table[name] = cls
        return cls

    return add


def top_level(thing: F) -> F:
    """Make a class or function that joins components known to gin files by its bare name, such as `Method`."""
    gin.register(thing)
    return thing


def components(role: str) -> dict[str, type]:
    """The classes of one role by name.

    Raises:
        KeyError: there is no such role; the message names the nearest.
    """
    if role not in _TABLES:
        near = difflib.get_close_matches(role, ROLES, n=1)
        raise KeyError(f"there is no role {role!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return dict(_TABLES[role])


def load_plugins() -> list[str]:
    """Import what other packages offer under the entry point `sslkit.components`; their names come back.

    A plugin that cannot be imported is reported and left out: an unrelated package must not stop a run that does not
    use it. A gin file that does use it then fails with an unknown name.
    """
    loaded = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            print(f"sslkit: the plugin {point.name} ({point.value}) could not be loaded: {error!r}", file=sys.stderr)
        else:
            loaded.append(point.name)
    return loaded


def entry_function(function: F) -> F:
    """Let gin files bind the parameters of a function that we call: for gin it only hands its arguments back."""

    @functools.wraps(function)
    def arguments(**given: Any) -> dict[str, Any]:
        return given

    gin.register(function.__name__)(arguments)
    return function
