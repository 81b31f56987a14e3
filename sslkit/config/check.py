"""What is wrong with bindings, each looked at on its own: names, types, ranges, macros, places named twice."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from sslkit.config.problem import Problem
from sslkit.config.syntax import REQUIRED, Binding, Macro, Reference, walk
from sslkit.config.tree import MOST, SINGLETON
from sslkit.parameters import misfit
from sslkit.registry import Known, did_you_mean, everything, matching, nearest

COMMAND_LINE = "--"
MANY = 10  # a list of more names says nothing


@dataclass(frozen=True)
class _Promised:
    """What a reference stands for, as far as its class tells."""

    promised: type | None
    written: Reference

    def __repr__(self) -> str:
        return repr(self.written)


def check(bindings: Sequence[Binding]) -> tuple[list[Binding], list[Problem]]:
    """The bindings that can be worked with, and what is wrong with the others."""
    macros = {str(b): b for b in bindings if b.is_macro}
    good, problems, sizes = [], [], dict[str, int]()
    for binding in bindings:
        size = _size(binding.value, macros, sizes)
        wrong = [_too_large(binding)] if size > MOST else list(_problems(binding, macros))
        problems += wrong
        if not wrong:
            good.append(binding)
    return good, problems + list(_given_twice(bindings))


def _size(value: Any, macros: Mapping[str, Binding], known: dict[str, int]) -> int:
    """How many values it comes to, each macro written out wherever it is used; `known` keeps the sizes of macros."""
    size = 0
    for part in walk(value):
        size += 1
        if isinstance(part, Macro) and part.name in macros:
            if part.name not in known:
                known[part.name] = 0  # where macros lead back to themselves
                known[part.name] = _size(macros[part.name].value, macros, known)
            size += known[part.name]
    return size


def _too_large(binding: Binding) -> Problem:
    wrong = f"{binding} comes to more than {MOST:,} values once its macros are written out"
    return Problem(binding.place, str(binding), wrong, "a macro is written out at each of its uses")


def _problems(binding: Binding, macros: Mapping[str, Binding]) -> Iterator[Problem]:
    def problem(wrong: str, hint: str = "") -> Problem:
        return Problem(binding.place, str(binding), wrong, hint)

    wrong_parts = False
    for part in walk(binding.value):
        if isinstance(part, Macro) and part.name not in {*macros, REQUIRED}:
            hint = "give --data DIR" if part.name == "DATA" else did_you_mean(part.name, macros)
            yield problem(f"{binding} uses {part!r}, which is not defined", hint or f"add `{part.name} = ...`")
            wrong_parts = True
        elif isinstance(part, Reference):
            for wrong, hint in _reference(part, binding):
                yield problem(wrong, hint)
                wrong_parts = True
    if binding.is_macro:
        return
    found = matching(binding.selector)
    if len(found) != 1:
        yield problem(*_unknown(binding.selector, found, f"{binding.selector} "))
        return
    known = found[0]
    if binding.parameter not in known.parameters:
        if binding.parameter in known.given:
            yield problem(f"{binding} is given by sslkit itself", "leave it out")
            return
        has = ", ".join(known.parameters) or "none"
        near = did_you_mean(binding.parameter, known.parameters)
        yield problem(
            f"{binding}: {known.name} has no parameter {binding.parameter!r}",
            f"{near}{'; ' if near else ''}it has: {has}",
        )
        return
    if wrong_parts or _is_ring(binding.value, macros):  # of rings the tree tells
        return
    hint = known.parameters[binding.parameter].hint
    value = _promises(binding.value, macros)
    unfit = misfit(value, hint)
    if unfit:
        yield problem(f"{_spell(binding, macros)} {unfit}", _why(value, hint))


def _reference(reference: Reference, binding: Binding) -> Iterator[tuple[str, str]]:
    found = matching(reference.name)
    if len(found) != 1:
        yield _unknown(reference.name, found, f"{binding} names @{reference.name}, which ")
    elif found[0].kind == "entry":
        yield f"{binding} names @{reference.name}, which is what sslkit runs, not a part", "bind its parameters instead"
    elif found[0].name == SINGLETON and not reference.scope:
        yield f"{binding} = {binding.value!r} does not say which", f"name it: @shared/{SINGLETON}()"
    elif not reference.is_call and not (binding.parameter == "constructor" and matching(SINGLETON)):
        yield f"{binding} = {binding.value!r} names a class, not an object", f"write {reference!r}() with parentheses"


def _unknown(name: str, found: Sequence[Known], subject: str) -> tuple[str, str]:
    if found:
        return f"{subject}may be any of {', '.join(known.name for known in found)}", "write the whole name"
    names = [known.name for known in everything()]
    role, _, last = name.rpartition(".")
    siblings = [n for n in names if role and n.rpartition(".")[0] == role]
    lasts = {n.rpartition(".")[2]: n for n in reversed(siblings or names)}
    near = nearest(last, lasts)
    hints = [f"did you mean {lasts[near]!r}?"] if near is not None else []
    hints += [f"{role} has: {', '.join(n.rpartition('.')[2] for n in siblings)}"] if siblings else []
    if not hints:
        roles = {n.rpartition(".")[0] for n in names} - {""}
        near_role = did_you_mean(role, roles) if role else ""
        hints = [near_role or "`sslkit list` shows what there is"]
    return f"{subject}does not exist", "; ".join(hints)


def _promises(value: Any, macros: Mapping[str, Binding], inside: tuple[str, ...] = ()) -> Any:
    """A value with its macros put in and its references replaced by what they will be."""
    if isinstance(value, Macro):
        if value.name == REQUIRED or value.name in inside or value.name not in macros:
            return _Promised(None, Reference("", value.name, True))
        return _promises(macros[value.name].value, macros, (*inside, value.name))
    if isinstance(value, Reference):
        found = matching(value.name)
        is_class = len(found) == 1 and inspect.isclass(found[0].thing)
        return _Promised(found[0].thing if is_class else None, value)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return {k: _promises(v, macros, inside) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_promises(v, macros, inside) for v in value)
    return value


def _is_ring(value: Any, macros: Mapping[str, Binding], inside: tuple[str, ...] = ()) -> bool:
    """Whether macros lead back to themselves."""
    asked = {part.name for part in walk(value) if isinstance(part, Macro) and part.name in macros}
    return any(name in inside or _is_ring(macros[name].value, macros, (*inside, name)) for name in asked)


def _spell(binding: Binding, macros: Mapping[str, Binding]) -> str:
    """The binding as written, and what its macros stand for."""
    said = ""
    asked, seen = [binding.value], set()
    while asked:
        for part in walk(asked.pop()):
            if isinstance(part, Macro) and part.name in macros and part.name not in seen:
                seen.add(part.name)
                macro = macros[part.name]
                said += f"{', ' if said else ''}{macro.place}: {macro} = {macro.value!r}"
                asked.append(macro.value)
    return f"{binding} = {binding.value!r}" + (f" ({said})" if said else "")


def _why(value: Any, hint: Any) -> str:
    """What would be right, where the type alone does not say it."""
    wanted: set[Any] = {get_args(each)[0] if get_origin(each) is Annotated else each for each in _choices(hint)}
    if isinstance(value, _Promised):
        fitting = [known.name for known in everything() if _may_be(known, hint)]
        named = ", ".join(f"@{name}()" for name in fitting)
        return f"it takes {named}" if 0 < len(fitting) <= MANY else ""
    if wanted & {int, float} and isinstance(value, str) and _is_number(value):
        return "write the number without quotes"
    if int in wanted and isinstance(value, float) and value.is_integer():
        return f"write {value:.0f}"
    if bool in wanted:
        return "write True or False"
    if isinstance(value, list) and misfit(tuple(value), hint) is None:
        return "write it in round brackets"
    if not isinstance(value, Mapping | str) and misfit([value], hint) is None:
        return "write it in square brackets"
    return ""


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _may_be(known: Known, hint: Any) -> bool:
    is_part = known.kind in ("component", "joint") and inspect.isclass(known.thing)
    return is_part and misfit(_Promised(known.thing, Reference("", known.name, True)), hint) is None  # type: ignore[arg-type]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _given_twice(bindings: Sequence[Binding]) -> Iterator[Problem]:
    seen: dict[tuple[str, str], Binding] = {}
    for binding in bindings:
        on_command_line = binding.place.file.startswith(COMMAND_LINE)
        key = ("" if on_command_line else binding.place.file, binding.target)
        first = seen.setdefault(key, binding)
        if first is not binding and on_command_line:
            yield Problem(binding.place, str(binding), f"{binding} is set twice, also by {first.place}", "give it once")
        elif first is not binding:
            yield Problem(
                binding.place,
                str(binding),
                f"{binding} is set twice in this file, first in line {first.place.line}",
                "keep one of the two",
            )
