"""Gin files to built objects, with every mistake named by its file and line. Besides registry.py, all that knows gin.

A configuration is read in three steps: includes are joined into one text that remembers where each line came from
(`read`), every binding is checked against the code (`check`), and only then gin parses it and builds what was asked for
(`load`, `build`).
"""

from __future__ import annotations

import collections.abc
import copy
import difflib
import inspect
import re
import tokenize
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gin
from gin import config_parser

from sslkit.errors import ConfigError
from sslkit.registry import helper, load_plugins

PACKAGE = Path(__file__).resolve().parent
_INCLUDE = re.compile(r"""^include\s+(['"])(?P<path>.+)\1\s*(#.*)?$""")


@dataclass(frozen=True)
class Line:
    """One line of the joined text and where it stands."""

    text: str
    file: str
    number: int

    @property
    def place(self) -> str:
        return self.file if self.number == 0 else f"{self.file}:{self.number}"


@dataclass(frozen=True)
class Binding:
    """`scope/selector.parameter = value` as written; a macro has no parameter."""

    scope: str
    selector: str
    parameter: str
    value: Any
    line: Line

    def __str__(self) -> str:
        name = f"{self.scope}/{self.selector}" if self.scope else self.selector
        return f"{name}.{self.parameter}" if self.parameter else name


@dataclass(frozen=True)
class Reference:
    """`@scope/name` or `@scope/name()` as written."""

    scope: str
    name: str
    is_call: bool

    def __repr__(self) -> str:
        return f"@{self.scope + '/' if self.scope else ''}{self.name}{'()' if self.is_call else ''}"


@dataclass(frozen=True)
class Macro:
    """`%name` as written."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


class _AsWritten(config_parser.ParserDelegate):  # type: ignore[misc]
    """Leaves references and macros unresolved, so that all of them can be checked at once."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, name = scoped_configurable_name.rpartition("/")
        return Reference(scope, name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


@helper
def merge(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One dict out of several, such as a base's terms and a hybrid's own; gin itself cannot extend a dict.

    Raises:
        ValueError: two parts have the same key.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key in merged:
                raise ValueError(f"merge.parts: two parts have the key {key!r}")
            merged[key] = value
    return merged


def search_path() -> Path:
    """The folder that contains gin/: the checkout, or the installed package's own copy."""
    checkout = PACKAGE.parent
    return (
        checkout
        if (checkout / "gin" / "base").is_dir() and (checkout / "pyproject.toml").is_file()
        else PACKAGE / "configs"
    )


def find(path: str, *, asked_by: str) -> Path:
    """A gin file as given, or below the folder that contains gin/.

    Raises:
        ConfigError: it is in neither; the message lists both places and the nearest name.
    """
    places = [Path(path), search_path() / path]
    for place in places:
        if place.is_file():
            return place
    beside = [str(p.relative_to(search_path())) for p in sorted((search_path() / "gin").rglob("*.gin"))]
    raise ConfigError(
        f"{asked_by}: there is no file {path!r}{_did_you_mean(path, beside)}\n  looked at {', '.join(map(str, places))}"
    )


def read(files: Sequence[str], bindings: Sequence[str] = ()) -> list[Line]:
    """The lines of the files with every include put in its place, then the bindings of the command line."""
    lines: list[Line] = []
    for file in files:
        lines += _read(file, asked_by="--gin", open_files=())
    for binding in bindings:
        lines += [Line(text, f"--set '{binding}'", 0) for text in binding.splitlines()]
    return lines


def _read(path: str, *, asked_by: str, open_files: tuple[Path, ...]) -> Iterator[Line]:
    file = find(path, asked_by=asked_by)
    if file.resolve() in open_files:
        chain = " -> ".join(p.name for p in (*open_files, file))
        raise ConfigError(f"{asked_by}: {path!r} includes itself: {chain}")
    for number, text in enumerate(_text(file).splitlines(), start=1):
        line = Line(text, str(path), number)
        include = _INCLUDE.match(text.strip())
        if include:
            yield from _read(include["path"], asked_by=line.place, open_files=(*open_files, file.resolve()))
        else:
            yield line


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file} cannot be read as text: {error}") from error


def text_of(lines: Sequence[Line]) -> str:
    """The lines as one file."""
    return "\n".join(line.text for line in lines) + "\n"


def without(lines: Sequence[Line], bindings: Sequence[Binding], idle: Sequence[Binding]) -> list[Line]:
    """The lines less those of idle bindings and of those that a later one replaces."""
    last = {str(binding): binding for binding in bindings}
    starts = {id(line): n for n, line in enumerate(lines)}
    firsts = [starts[id(binding.line)] for binding in bindings]
    dropped: set[int] = set()
    for binding, first, end in zip(bindings, firsts, [*firsts[1:], len(lines)], strict=True):
        if last[str(binding)] is not binding or any(binding is other for other in idle):
            while end > first and _says_nothing(lines[end - 1]):  # comments behind it belong to what follows
                end -= 1
            dropped |= set(range(first, end))
    return [line for n, line in enumerate(lines) if n not in dropped]


def _says_nothing(line: Line) -> bool:
    return not line.text.strip() or line.text.lstrip().startswith("#")


def parse(lines: Sequence[Line]) -> list[Binding]:
    """Every binding as written.

    Raises:
        ConfigError: a line is not gin; the message names it.
    """
    bindings = []
    parser = config_parser.ConfigParser(text_of(lines), _AsWritten())
    last = lines[0] if lines else Line("", "the configuration", 0)
    try:
        for statement in parser:
            last = lines[min(statement.location.line_num, len(lines)) - 1]
            if isinstance(statement, config_parser.BindingStatement):
                scope, selector, parameter, value, _ = statement
                bindings.append(Binding(scope or "", selector, parameter or "", value, last))
            elif isinstance(statement, config_parser.ImportStatement):
                raise ConfigError(
                    f"{last.place}: a gin file cannot import, plugins are entry points: {last.text.strip()}"
                )
            elif isinstance(statement, config_parser.IncludeStatement):
                raise ConfigError(f"{last.place}: write the include on a line of its own: {last.text.strip()}")
    except (SyntaxError, tokenize.TokenError, IndentationError) as error:
        number = getattr(error, "lineno", None) or (
            error.args[1][0] if isinstance(error, tokenize.TokenError) else None
        )
        where = lines[min(number, len(lines)) - 1] if number else last
        reason = error.args[0] if isinstance(error.args[0], str) else str(error)
        raise ConfigError(f"{where.place}: not a gin binding: {where.text.strip()}\n  {reason.strip()}") from error
    return bindings


def check(bindings: Sequence[Binding]) -> list[str]:
    """What is wrong with the bindings, a message each; empty if nothing is found."""
    macros = {str(b) for b in bindings if not b.parameter}
    problems = []
    for binding in bindings:
        at = binding.line.place
        for value in _walk(binding.value):
            if isinstance(value, Macro) and value.name not in macros:
                hint = "; give --data DIR" if value.name == "DATA" else _did_you_mean(value.name, macros)
                problems.append(f"{at}: {binding} uses {value!r}, which is not defined{hint}")
            if isinstance(value, Reference) and _configurable(value.name) is None:
                problems.append(
                    f"{at}: {binding} names @{value.name}, which does not exist{_near_component(value.name)}"
                )
        if binding.parameter:
            problems += [f"{at}: {problem}" for problem in _check_parameter(binding, bindings)]
    seen: dict[tuple[str, str], Binding] = {}
    for binding in bindings:
        key = (binding.line.file, str(binding))
        if key in seen and binding.line.number != seen[key].line.number:  # a file may be included twice
            problems.append(
                f"{binding.line.place}: {binding} is set twice in this file, first in line {seen[key].line.number}"
            )
        seen[key] = binding
    return problems


def _check_parameter(binding: Binding, bindings: Sequence[Binding]) -> Iterator[str]:
    thing = _configurable(binding.selector)
    if thing is None:
        yield f"{binding.selector} does not exist{_near_component(binding.selector)}"
        return
    known = parameters(thing)
    if binding.parameter not in known:
        yield (
            f"{binding.selector} has no parameter {binding.parameter!r}{_did_you_mean(binding.parameter, known)}; "
            f"it has: {', '.join(known)}"
        )
        return
    hint = _hints(thing).get(binding.parameter, Any)
    if not _fits(_resolved(binding.value, bindings), hint):
        yield f"{binding} = {binding.value!r} does not fit its type, {_spell(hint)}"


def parameters(thing: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What may be bound of a class or function."""
    return dict(inspect.signature(thing).parameters)


def _hints(thing: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(thing.__init__ if inspect.isclass(thing) else inspect.unwrap(thing))
    except NameError:  # an annotation that only a type checker can see
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value as written may be passed where `hint` is asked for; what cannot be known passes."""
    if get_origin(hint) is typing.Annotated:
        hint = get_args(hint)[0]
    origin: Any = get_origin(hint)
    args = get_args(hint)
    if hint is Any or isinstance(value, Macro):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if isinstance(value, Reference):
        made = _configurable(value.name)
        wanted = origin or hint
        if not value.is_call or not inspect.isclass(made):
            return value.is_call or wanted is collections.abc.Callable or not inspect.isclass(wanted)
        if getattr(wanted, "_is_protocol", False):
            return all(hasattr(made, name) for name in _members(wanted))
        return not inspect.isclass(wanted) or issubclass(made, wanted)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is collections.abc.Callable:
        return False
    if inspect.isclass(origin):
        return isinstance(value, origin) and not isinstance(value, str) and _contents_fit(value, origin, args)
    return isinstance(value, hint) if inspect.isclass(hint) else True


def _contents_fit(value: Any, origin: type, args: tuple[Any, ...]) -> bool:
    """The same of what a container holds."""
    if isinstance(value, Mapping):
        return all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return len(value) == len(args) and all(map(_fits, value, args))
    return all(_fits(v, args[0]) for v in value)


def _members(protocol: type) -> list[str]:
    """Methods that a protocol asks for."""
    skipped = ("__init__", "__subclasshook__", "_no_init_or_replace_init")
    return [name for name, member in vars(protocol).items() if inspect.isfunction(member) and name not in skipped]


def _spell(hint: Any) -> str:
    if inspect.isclass(hint) and get_origin(hint) is None:
        return hint.__name__
    return re.sub(r"(?:\w+\.)+(?=\w)", "", str(hint))


def _walk(value: Any) -> Iterator[Any]:
    """The value and everything inside it."""
    yield value
    if isinstance(value, Mapping):
        for pair in value.items():
            yield from (x for item in pair for x in _walk(item))
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _walk(item)


def _configurable(name: str) -> Callable[..., Any] | None:
    found = gin.config._REGISTRY.get_match(name) if gin.config._REGISTRY.matching_selectors(name) else None
    return found.wrapped if found else None


def _names() -> list[str]:
    own = gin.config._REGISTRY.matching_selectors
    return [n for n in gin.config._REGISTRY._selector_map if own(n) and not n.startswith("gin.")]


def _did_you_mean(word: str, known: collections.abc.Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _near_component(name: str) -> str:
    """The nearest name, and what else its role offers."""
    names = _names()
    role, _, last = name.rpartition(".")
    siblings = [n for n in names if role and n.startswith(role + ".")]
    near = difflib.get_close_matches(last, [n.rpartition(".")[2] for n in siblings or names], n=1, cutoff=0.5)
    full = [n for n in siblings or names if near and n.endswith(near[0])]
    hint = f"; did you mean {full[0]!r}?" if full else ""
    return hint + (f"; {role} has: {', '.join(n.rpartition('.')[2] for n in siblings)}" if siblings else "")


@dataclass(frozen=True)
class Config:
    """A parsed configuration: the joined text and its bindings."""

    lines: tuple[Line, ...]
    bindings: tuple[Binding, ...]
    idle: tuple[Binding, ...] = ()  # of parts that a later binding replaced; known once it is built

    @property
    def text(self) -> str:
        """The configuration as one file that needs no other and says everything once."""
        return text_of(without(self.lines, self.bindings, self.idle))

    def places(self, message: str) -> str:
        """The bindings that a message speaks of by `parameter=`, for its end."""
        named = set(re.findall(r"\b(\w+)=", message))
        return "".join(f"\n  {b.line.place}: {b} = {b.value!r}" for b in self.bindings if b.parameter in named)


def load(files: Sequence[str], bindings: Sequence[str] = ()) -> Config:
    """Read, check and parse; gin holds the configuration afterwards, in place of any other.

    After parsing nothing can register, so `sslkit.components` is imported before by whoever calls this.

    Raises:
        ConfigError: with every problem found, a line or more each.
    """
    load_plugins()
    lines = read(files, bindings)
    written = parse(lines)
    problems = check(written)
    if problems:
        raise ConfigError("\n".join(problems))
    gin.clear_config()
    gin.parse_config(text_of(lines))
    gin.finalize()
    return Config(tuple(lines), tuple(written))


def build(config: Config, name: str, parameter: str | None = None) -> Any:
    """What a file binds for the function `name`, built, as keyword arguments; or the value of one parameter.

    Raises:
        ConfigError: a component refuses its arguments; the message ends with the bindings it speaks of.
    """
    try:
        if parameter is not None:
            return copy.deepcopy(gin.query_parameter(f"{name}.{parameter}"))
        return gin.get_configurable(name)()
    except (ValueError, TypeError, RuntimeError, KeyError, OSError) as error:
        reason = str(error).split("\n  In call to configurable")[0].strip()
        chain = " in ".join(re.findall(r"In call to configurable '(\w+)'", str(error)))
        raise ConfigError((f"{chain}: " if chain else "") + reason + config.places(reason)) from error


def value(config: Config, name: str, parameter: str, default: Any) -> Any:
    """The plain value that a file binds for a parameter, or the default."""
    found = [b.value for b in config.bindings if (b.selector, b.parameter) == (name, parameter)]
    return _resolved(found[-1], config.bindings) if found else default


def _resolved(value: Any, bindings: Sequence[Binding]) -> Any:
    """What a macro stands for; anything else, and a macro that leads nowhere, as it is."""
    for _ in bindings:
        found = [b.value for b in bindings if isinstance(value, Macro) and str(b) == value.name and not b.parameter]
        if not found:
            break
        value = found[-1]
    return value


def essence(text: str) -> list[str]:
    """The lines that mean something."""
    lines = (Line(text, "", 0) for text in text.splitlines())
    return [line.text.strip() for line in lines if not _says_nothing(line)]


def difference(before: str, now: str) -> list[str]:
    """Lines of two configurations that differ, `-` before and `+` now."""
    compared = difflib.unified_diff(sorted(essence(before)), sorted(essence(now)), lineterm="", n=0)
    return [line for line in compared if line[0] in "+-" and line[:3] not in ("+++", "---")]


def refuse_unused(config: Config) -> Config:
    """Refuse bindings that nothing built so far has used, such as those with a misspelt scope.

    Settings of a component are excused when a later binding put another in its place: a hybrid restates what differs
    and need not undo what its base says of the rest.

    Raises:
        ConfigError: naming each of them.
    """
    used = gin.config._OPERATIVE_CONFIG
    built = {selector for _, selector in used}
    classes, scopes = _replaced(config.bindings)
    named = {value.name for b in config.bindings for value in _walk(b.value) if isinstance(value, Macro)}
    unused, idle = [], []
    for binding in config.bindings:
        if not binding.parameter:
            is_used = str(binding) in named
        else:
            selector = _selector(binding.selector)
            where = [s for (s, x), values in used.items() if x == selector and binding.parameter in values]
            is_used = any(binding.scope in ("", s) or s.startswith(binding.scope + "/") for s in where)
            if not is_used and selector in classes and (selector not in built or binding.scope in scopes):
                idle.append(binding)
                continue
        if not is_used:
            unused.append(f"{binding.line.place}: {binding} is set but nothing uses it")
    if unused:
        raise ConfigError("\n".join(unused))
    kept = [value for b in config.bindings if not any(b is other for other in idle) for value in _walk(b.value)]
    needed = {value.name for value in kept if isinstance(value, Macro)}
    idle += [b for b in config.bindings if not b.parameter and str(b) not in needed]
    return replace(config, idle=tuple(idle))


def _replaced(bindings: Sequence[Binding]) -> tuple[set[str], set[str]]:
    """Classes and scopes that replaced bindings named, and those that the settings of these name."""
    last = {str(binding): binding for binding in bindings}
    asked = [value for b in bindings if last[str(b)] is not b for value in _walk(b.value)]
    classes: set[str] = set()
    scopes: set[str] = set()
    macros: set[str] = set()
    while asked:
        value = asked.pop()
        if isinstance(value, Macro):
            if value.name in macros:
                continue
            macros.add(value.name)
            asked += [inner for b in bindings if str(b) == value.name for inner in _walk(b.value)]
        elif isinstance(value, Reference):
            scopes |= {value.scope} - {""}
            if _selector(value.name) not in classes:
                classes.add(_selector(value.name))
                of_it = [b for b in bindings if b.parameter and _selector(b.selector) == _selector(value.name)]
                asked += [inner for b in of_it for inner in _walk(b.value)]
    return classes, scopes


def _selector(name: str) -> str:
    """The full name of a class or function."""
    found: str = gin.config._REGISTRY.get_match(name).selector
    return found


def operative() -> str:
    """The values that were used, defaults included, as a gin file."""
    text: str = gin.operative_config_str()
    return text
