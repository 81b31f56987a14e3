"""What is wrong with bindings, each looked at on its own: names, types, ranges, macros, places named twice."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from sslkit.config.source import REQUIRED, Binding, Macro, Problem, Reference, walk
from sslkit.config.tree import SINGLETON
from sslkit.parameters import Existing, misfit
from sslkit.registry import Known, did_you_mean, everything, matching

COMMAND_LINE = "--"


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
    good, problems = [], []
    for binding in bindings:
        wrong = list(_problems(binding, macros))
        problems += wrong
        if not wrong:
            good.append(binding)
    return good, problems + list(_given_twice(bindings))


def _problems(binding: Binding, macros: Mapping[str, Binding]) -> Iterator[Problem]:
    def problem(wrong: str, hint: str = "") -> Problem:
        return Problem(binding.place, str(binding), wrong, hint.removeprefix("; "))

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
        has = ", ".join(known.parameters) or "none"
        near = did_you_mean(binding.parameter, known.parameters)
        given = " is given by sslkit itself" if binding.parameter in known.given else ""
        yield problem(
            f"{binding}: {known.name} has no parameter {binding.parameter!r}{given}",
            f"{near.removeprefix('; ')}{'; ' if near else ''}it has: {has}",
        )
        return
    if wrong_parts:
        return
    hint = known.parameters[binding.parameter].hint
    value = _promises(binding.value, macros)
    reason = misfit(value, hint)
    if reason:
        yield problem(f"{_spell(binding, macros)} {reason}", _why(value, hint))
    elif isinstance(value, str | Path) and _asks_for_folder(hint) and not Path(value).expanduser().is_dir():
        looked = Path(value).expanduser().absolute()
        yield problem(f"{_spell(binding, macros)}: there is no such folder", f"looked at {looked}")


def _reference(reference: Reference, binding: Binding) -> Iterator[tuple[str, str]]:
    found = matching(reference.name)
    if len(found) != 1:
        yield _unknown(reference.name, found, f"{binding} names @{reference.name}, which ")
    elif found[0].kind == "entry":
        yield f"{binding} names @{reference.name}, which is what sslkit runs, not a part", "bind its parameters instead"
    elif not reference.is_call and not (binding.parameter == "constructor" and matching(SINGLETON)):
        yield f"{binding} = {binding.value!r} names a class, not an object", f"write {reference!r}() with parentheses"


def _unknown(name: str, found: Sequence[Known], subject: str) -> tuple[str, str]:
    if found:
        return f"{subject}may be any of {', '.join(known.name for known in found)}", "write the whole name"
    names = [known.name for known in everything()]
    role, _, last = name.rpartition(".")
    siblings = [n for n in names if role and n.rpartition(".")[0] == role]
    lasts = {n.rpartition(".")[2]: n for n in reversed(siblings or names)}
    near = did_you_mean(last, lasts).removeprefix("; did you mean '").removesuffix("'?")
    hints = [f"did you mean {lasts[near]!r}?"] if near in lasts else []
    hints += [f"{role} has: {', '.join(n.rpartition('.')[2] for n in siblings)}"] if siblings else []
    if not hints:
        roles = {n.rpartition(".")[0] for n in names} - {""}
        near_role = did_you_mean(role, roles).removeprefix("; ") if role else ""
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


def _spell(binding: Binding, macros: Mapping[str, Binding]) -> str:
    """The binding as written, and what its macro stands for."""
    said = f"{binding} = {binding.value!r}"
    if isinstance(binding.value, Macro) and binding.value.name in macros:
        macro = macros[binding.value.name]
        said += f" ({macro.value!r}, {macro.place})"
    return said


def _why(value: Any, hint: Any) -> str:
    """What would be right, where the type alone does not say it."""
    promised = value.promised if isinstance(value, _Promised) else None
    wanted = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if promised is not None:
        fitting = [
            k.name for k in everything() if k.kind == "component" and not misfit(_Promised(_cls(k), value), hint)
        ]
        return f"it takes {', '.join('@' + name + '()' for name in fitting)}" if fitting else ""
    if (wanted is float and isinstance(value, str)) or (wanted is int and isinstance(value, str)):
        return "write the number without quotes" if _is_number(value) else ""
    return ""


def _cls(known: Known) -> type | None:
    return known.thing if inspect.isclass(known.thing) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _asks_for_folder(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(isinstance(bound, Existing) for bound in get_args(hint)[1:])


def _given_twice(bindings: Sequence[Binding]) -> Iterator[Problem]:
    seen: dict[tuple[str, str], Binding] = {}
    for binding in bindings:
        on_command_line = binding.place.file.startswith(COMMAND_LINE)
        key = ("" if on_command_line else binding.place.file, str(binding))
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
