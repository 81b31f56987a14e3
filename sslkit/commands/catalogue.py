"""What gin files may name, as a person looks it up: by role, with parameters, ranges, defaults and sources."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator

from sslkit.errors import ConfigError
from sslkit.parameters import Parameter, spell
from sslkit.registry import ROLES, Known, did_you_mean, everything, matching

WIDTH = 110
OTHERS = {
    "joints": ("joint", "What joins components."),
    "helpers": ("helper", "Values made out of values while a file is read."),
    "entries": ("entry", "What sslkit calls with what a file binds for it."),
}


def overview() -> str:
    """Every role with its components, a line each."""
    return "\n".join(line for role in (*ROLES, *OTHERS) for line in _overview_of(role)).rstrip() + "\n"


def details(what: str) -> str:
    """A role's components, or one thing, with all parameters.

    Raises:
        ConfigError: there is no such role or thing.
    """
    if what in (*ROLES, *OTHERS):
        parts = [f"{what}: {_about(what)}", *(_entry(known) for known in _of(what))]
        return "\n".join(parts)
    found = matching(what)
    if not found:
        known = [*ROLES, *OTHERS, *(each.name for each in everything())]
        hint = did_you_mean(what, known, after="; ")
        raise ConfigError(f"there is no {what!r}{hint}; the roles are {', '.join(ROLES)}")
    return "\n".join(_entry(known) for known in found)


def _of(role: str) -> list[Known]:
    if role in OTHERS:
        return [known for known in everything() if known.kind == OTHERS[role][0]]
    return sorted((known for known in everything() if known.role == role), key=lambda known: known.name)


def _about(role: str) -> str:
    if role in OTHERS:
        return OTHERS[role][1]
    return (importlib.import_module(f"sslkit.{role}").__doc__ or "").partition("\n")[0]


def _overview_of(role: str) -> Iterator[str]:
    yield f"{role}: {_about(role)}"
    found = _of(role)
    width = max((len(_short(known)) for known in found), default=0)
    for known in found:
        said = known.summary + (f"  [{known.package}]" if known.package != "sslkit" else "")
        indent = " " * (width + 4)
        yield textwrap.fill(said, WIDTH, initial_indent=f"  {_short(known):<{width}}  ", subsequent_indent=indent)
    yield ""


def _short(known: Known) -> str:
    return known.name.rpartition(".")[2]


def _entry(known: Known) -> str:
    mark = f"  [{known.package}]" if known.package != "sslkit" else ""
    drawn = ["", known.name + mark, textwrap.fill(known.summary, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    drawn += _table(list(known.parameters.values()))
    source = _source(known)
    if source:
        drawn.append(textwrap.fill(f"Source: {source}", WIDTH, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(drawn)


def _table(parameters: list[Parameter]) -> Iterator[str]:
    if not parameters:
        return
    names = max(len(p.name) for p in parameters)
    types = min(60, max(len(spell(p.hint)) for p in parameters))
    for p in parameters:
        default = "required" if p.is_required else f"= {p.default!r}"
        yield f"    {p.name:<{names}}  {spell(p.hint):<{types}}  {default}"


def _source(known: Known) -> str:
    """The first sentence of where it is from."""
    said = re.search(r"^Source: (.+?)(?:\n\n|\Z)", inspect.getdoc(known.thing) or "", re.MULTILINE | re.DOTALL)
    text = " ".join(said[1].split()) if said else ""
    return re.split(r"(?<=[.;]) (?=Deliberate|Difference|The |[A-Z])", text)[0]
