"""What a component's parameters accept: types, ranges and defaults, declared once where the parameter stands.

A range is part of the annotation, `n_clusters: Count` or `hue: Annotated[float, Within(0, 0.5)]`. It is enforced when a
component is built in Python, when a gin file is checked, and shown by `sslkit list`.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Within:
    """Numbers from `least` to `most`, both included, and above `above`, which is not."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and (value > self.above or self.above == -math.inf)

    def __str__(self) -> str:
        if self.least > -math.inf and self.most < math.inf:
            return f"from {self.least:.12g} to {self.most:.12g}"
        ends = {"at least": self.least, "above": self.above, "at most": self.most}
        return " and ".join(f"{word} {end:.12g}" for word, end in ends.items() if math.isfinite(end)) or "a number"


@dataclass(frozen=True)
class Existing:
    """A folder that must be there before a run starts."""

    def __str__(self) -> str:
        return "an existing folder"


@dataclass(frozen=True)
class Plain:
    """Text that may become part of the name of a file, and may be shown anywhere."""

    def __contains__(self, text: str) -> bool:
        return re.fullmatch(r"[^\W_][\w .+=-]*", text) is not None

    def __str__(self) -> str:
        return "of letters, digits, spaces and _ - . + =, a letter or digit first"


Count = Annotated[int, Within(least=1)]
Natural = Annotated[int, Within(least=0)]
Positive = Annotated[float, Within(above=0)]
NonNegative = Annotated[float, Within(least=0)]
Share = Annotated[float, Within(0, 1)]  # of a whole, or a probability
Seed = Annotated[int, Within(0, 2**32 - 1)]  # what numpy and torch both take
Folder = Annotated[str | Path, Existing()]
Name = Annotated[str, Plain()]  # of a term, a search, ...: it stands in logs and in names of pictures


class Promise(typing.Protocol):
    """Stands for an object that is not built yet; `promised` is its class, None if that cannot be known."""

    promised: type | None


@dataclass(frozen=True)
class Parameter:
    """One parameter of a class or function."""

    name: str
    hint: Any
    default: Any = inspect.Parameter.empty

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def __str__(self) -> str:
        return f"{self.name}: {spell(self.hint)}" + ("" if self.is_required else f" = {self.default!r}")


@functools.cache
def parameters(thing: Callable[..., Any]) -> Mapping[str, Parameter]:
    """What may be given to a class or function, by name and in its order."""
    hints = _hints(thing)
    found = [p for p in inspect.signature(thing).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return types.MappingProxyType({p.name: Parameter(p.name, hints.get(p.name, Any), p.default) for p in found})


def _hints(thing: Callable[..., Any]) -> dict[str, Any]:
    function = thing.__init__ if inspect.isclass(thing) else thing
    return get_type_hints(inspect.unwrap(function), include_extras=True)


def misfit(value: Any, hint: Any) -> str | None:
    """What is wrong with a value where `hint` is asked for, to be read after it; None if nothing is."""
    if not _is_of(value, hint):
        words = get_args(hint) if get_origin(hint) is Literal else ()
        if isinstance(value, str) and words:
            return f"is not allowed: it must be {' or '.join(map(repr, words))}"
        return f"does not fit its type, {spell(hint)}"
    wrong = _out_of_bounds(value, hint) or (None if _is_finite(value) else "finite")
    return None if wrong is None else f"is not allowed: it must be {wrong}"


def refuse(name: str, value: Any, hint: Any) -> None:
    """Refuse a number that is out of its range or not whole, a word not among those allowed, and a name not plain.

    So is a word in place of anything else; other types are left to Python.

    Raises:
        ValueError: naming the parameter, its value and what would be right.
    """
    wrong = _out_of_bounds(value, hint, and_kinds=True)
    if wrong is None and isinstance(value, str) and not _is_of(value, hint):
        wrong = f"of the type {spell(hint)}"
    if wrong is not None:
        raise ValueError(f"{name}={value!r}, but it must be {wrong}")


def refuse_unordered(**spans: Any) -> None:
    """Refuse what is not a pair of which the first is the lowest.

    Raises:
        ValueError: naming the parameter and its value.
    """
    for name, span in spans.items():
        if not isinstance(span, (list, tuple)) or len(span) != 2 or span[0] > span[1]:
            raise ValueError(f"{name}={span!r}, but it must be a pair (lowest, highest)")


def checked(cls: type) -> None:
    """Let a class refuse what its annotations do not allow, before its own `__init__` runs."""
    init = cls.__init__  # type: ignore[misc]
    if init is object.__init__ or getattr(init, "is_checked", False):
        return
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError:  # the call itself says best what is wrong with it
            given = {}
        hints = parameters(init)
        for name, value in given.items():
            if name in hints:
                refuse(name, value, hints[name].hint)
        init(self, *args, **kwargs)

    checked_init.is_checked = True  # type: ignore[attr-defined]
    cls.__init__ = checked_init  # type: ignore[misc]


def range_of(hint: Any) -> Within | None:
    """The range that an annotation declares for a number, if any."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        return next((found for arg in get_args(hint) if (found := range_of(arg)) is not None), None)
    bounds = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((bound for bound in bounds if isinstance(bound, Within)), None)


def absolute(folder: str) -> str:
    """A folder by its whole path; as it is where it has none, such as the home of nobody."""
    try:
        return str(Path(folder).expanduser().absolute())
    except RuntimeError:
        return folder


def asks_for_folder(hint: Any) -> bool:
    """Whether an annotation declares a folder that must be there."""
    return get_origin(hint) is Annotated and any(isinstance(bound, Existing) for bound in get_args(hint)[1:])


def spell(hint: Any) -> str:
    """A type as a person writes it, its range behind it."""
    origin: Any = get_origin(hint)
    args = get_args(hint)
    if origin is Annotated:
        bounds = [str(bound) for bound in args[1:] if isinstance(bound, Within | Existing)]
        return spell(args[0]) + (f" ({' and '.join(bounds)})" if bounds else "")
    if hint is None or hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    if origin in (typing.Union, types.UnionType):
        return " | ".join(spell(arg) for arg in args)
    if origin is Literal:
        return " | ".join(map(repr, args))
    if origin is not collections.abc.Callable and inspect.isclass(origin) and args:
        return f"{origin.__name__}[{', '.join(spell(arg) for arg in args)}]"
    if inspect.isclass(hint):
        return hint.__name__
    return re.sub(r"(?:\w+\.)+(?=\w)", "", str(hint))


def _is_promise(value: Any) -> TypeGuard[Promise]:
    return hasattr(value, "promised")  # what `isinstance` would ask of the protocol, at a tenth of the time


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value may be passed where `hint` is asked for; what cannot be known passes."""
    origin: Any = get_origin(hint)
    args = get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _is_of(value, args[0])
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, arg) for arg in args)
    if origin is Literal:
        is_unknown = _is_promise(value) and value.promised is None
        return is_unknown or any(value == arg and type(value) is type(arg) for arg in args)
    if _is_promise(value):
        return _will_be(value.promised, origin or hint)
    if getattr(hint, "_is_protocol", False):
        is_plain = value is None or isinstance(value, str | int | float)
        return not is_plain and all(hasattr(value, name) for name in _members(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return callable(value)
    if origin is type:
        return inspect.isclass(value) and issubclass(value, args[0])
    if inspect.isclass(origin):
        return isinstance(value, origin) and not isinstance(value, str) and _holds(value, origin, args)
    return isinstance(value, hint) if inspect.isclass(hint) else hint is not None or value is None


def _is_finite(value: Any) -> bool:
    """Whether every number in it is one that can be counted with, and written down again."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    try:
        return not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _will_be(cls: type | None, wanted: Any) -> bool:
    if cls is None or not inspect.isclass(wanted):
        return True
    if getattr(wanted, "_is_protocol", False):
        return all(_defines(cls, name) for name in _members(wanted))
    if wanted is collections.abc.Callable:
        return _defines(cls, "__call__")
    return issubclass(cls, wanted)


def _defines(cls: type, name: str) -> bool:
    """Whether instances have it; a class itself has a `__call__` in any case."""
    return any(name in vars(base) for base in cls.__mro__)


def _holds(value: Any, origin: type, args: tuple[Any, ...]) -> bool:
    """The same of what a container holds."""
    if isinstance(value, Mapping):
        return all(_is_of(k, args[0]) and _is_of(v, args[1]) for k, v in value.items())
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return len(value) == len(args) and all(map(_is_of, value, args))
    return all(_is_of(v, args[0]) for v in value)


def _members(protocol: type) -> list[str]:
    """Methods that a protocol asks for."""
    skipped = ("__init__", "__subclasshook__", "_no_init_or_replace_init")
    return [name for name, member in vars(protocol).items() if inspect.isfunction(member) and name not in skipped]


def _out_of_bounds(value: Any, hint: Any, *, and_kinds: bool = False) -> str | None:
    """What the value, or what it holds, would have to be; None if it is that."""
    for part, bound in _parts(value, hint):
        if _is_promise(part):
            continue
        is_number = isinstance(part, numbers.Real) and not isinstance(part, bool)  # numpy's too
        if isinstance(bound, Within) and is_number and part not in bound:
            one, many = str(bound), f"numbers {bound}"
        elif isinstance(bound, Plain) and isinstance(part, str) and part not in bound:
            one, many = str(bound), f"names {bound}, which {part!r} is not"
        elif and_kinds and bound is int and isinstance(part, (bool, float)):
            one, many = "a whole number", "whole numbers"
        elif and_kinds and isinstance(bound, tuple) and part not in bound:
            one = many = " or ".join(map(repr, bound))
        else:
            continue
        return one if part is value else f"made of {many}"
    return None


def _parts(value: Any, hint: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a value for which the annotation declares a range, words or whole numbers, and these."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for bound in args[1:]:
            yield value, bound
        yield from _parts(value, args[0])
    elif origin is Literal:
        yield value, args
    elif hint is int:
        yield value, int
    elif origin in (typing.Union, types.UnionType):
        fitting = [arg for arg in args if _is_of(value, arg)]
        others = [arg for arg in args if arg is not type(None) and (arg is not str or isinstance(value, str))]
        if fitting or len(others) == 1:
            yield from _parts(value, (fitting or others)[0])
    elif isinstance(value, Mapping) and len(args) == 2:
        for key, item in value.items():
            yield from (*_parts(key, args[0]), *_parts(item, args[1]))
    elif isinstance(value, (list, tuple, range)) and args:
        kinds = args if origin is tuple and args[-1] is not Ellipsis else [args[0]] * len(value)
        for item, kind in zip(value, kinds, strict=False):
            yield from _parts(item, kind)
