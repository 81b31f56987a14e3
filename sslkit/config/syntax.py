"""The text of one gin file to its statements, as written: references and macros stay what they are."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gin import config_parser

from sslkit.config.problem import Place, Problem
from sslkit.registry import matching

REQUIRED = "gin.REQUIRED"  # `%gin.REQUIRED`: whoever includes this file must give a value
DEEPEST = 50  # brackets inside one another
LARGEST_BITS = 2048  # of a whole number; Python does not write out much larger ones
_NOT_GIN = (SyntaxError, tokenize.TokenError, ValueError, TypeError, RecursionError)
_REASONS = {  # what gin's parser and Python's tokenizer say, and what a person can do about it
    "in multi-line statement": "a bracket is opened and not closed",
    "Unable to parse value": "there is no value: a number, a 'text', a list, @name() or %NAME",
    "Expected newline": "the line goes on behind its value",
    "Couldn't parse statement": "write `name.parameter = value`",
    "Malformatted scope or selector": "names are joined by . and /, without spaces",
    "Unexpected token": "a name is missing",
    "Expected ')'": "write @name() with nothing in the parentheses, and bind its parameters",
    "Expected indentation": "the parameters of a block are indented",
    "malformed node or string": "text stands in quotes; without them there are numbers, True, False and None",
}


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


@dataclass(frozen=True, eq=False)
class Binding:
    """`scope/selector.parameter = value` as written; a macro has no parameter."""

    scope: str
    selector: str
    parameter: str
    value: Any
    place: Place
    text: str = ""  # its lines, with the comments before them

    def __str__(self) -> str:
        name = f"{self.scope}/{self.selector}" if self.scope else self.selector
        return f"{name}.{self.parameter}" if self.parameter else name

    @property
    def target(self) -> str:
        """The same with the whole name of what it binds, of which a file may give the end alone."""
        found = matching(self.selector) if self.parameter else []
        return str(replace(self, selector=found[0].name)) if len(found) == 1 else str(self)

    @property
    def is_macro(self) -> bool:
        return not self.parameter

    @property
    def is_given(self) -> bool:
        """Whether it is from the command line."""
        return self.place.line == 0


@dataclass(frozen=True, eq=False)
class Include:
    """`include 'path'` as written."""

    path: str
    place: Place


def walk(value: Any) -> Iterator[Any]:
    """The value and everything inside it."""
    yield value
    if isinstance(value, Mapping):
        for pair in value.items():
            yield from (x for item in pair for x in walk(item))
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from walk(item)


def parse(text: str, file: str) -> tuple[list[Binding | Include], list[Problem]]:
    """The statements of one file, and every line that is not gin."""
    try:
        return list(_statements(text, file)), []
    except _NOT_GIN as error:
        whole = error
    statements: list[Binding | Include] = []
    problems = []
    lines = text.split("\n")
    for first, chunk in _chunks(lines):
        try:
            statements += _statements(chunk, file, first)
        except _NotThere as error:
            problems.append(error.problem)
        except _NOT_GIN as error:
            problems.append(_not_gin(error, lines, file, range(first, first + chunk.count("\n"))))
    if not problems:  # every stretch is gin, but not all of them together
        problems.append(_not_gin(whole, lines, file, range(len(lines))))
    return statements, problems


def _not_gin(error: Exception, lines: list[str], file: str, where: range) -> Problem:
    at = getattr(error, "lineno", None) or 0  # of the stretch
    number = where.start + (at if 0 < at <= len(where) else 1)
    line = lines[number - 1].strip() if number <= len(lines) else ""
    said = (str(error.args[0]) if error.args else "").strip() or type(error).__name__
    plain = next((reason for word, reason in _REASONS.items() if word in said), said.splitlines()[0].rstrip(".: "))
    return Problem(Place(file, number), "", f"not a gin binding: {line}\n  {plain}")


class _NotThere(SyntaxError):
    """A statement that gin has and sslkit does not."""

    def __init__(self, problem: Problem):
        super().__init__(problem.wrong)
        self.problem = problem


def _chunks(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Stretches that start where a statement can start, at the left margin, each with the number of lines before it."""
    starts = sorted({0, *(n for n, line in enumerate(lines) if re.match(r"[^\s#)\]}]", line))})
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield start, "\n".join(lines[start:end]) + "\n"


def _statements(text: str, file: str, first: int = 0) -> Iterator[Binding | Include]:
    """Those of a stretch of a file behind its `first` lines."""
    lines = text.split("\n")  # as gin counts them
    found = []
    for statement in _Parser(text, _AsWritten()):
        number = statement.location.line_num
        if isinstance(statement, config_parser.ImportStatement):
            place = Place(file, first + number)
            raise _NotThere(Problem(place, "", "a gin file imports nothing here", "plugins are entry points"))
        found.append((number, statement))
    ends = [*(number - 1 for number, _ in found[1:]), len(lines)][: len(found)]
    before = 0
    for (number, statement), end in zip(found, ends, strict=True):
        place = Place(file, first + number)
        while end > number and _says_nothing(lines[end - 1]):  # comments behind it belong to what follows
            end -= 1
        written = "\n".join(lines[before:end]).strip("\n")
        before = end
        if isinstance(statement, config_parser.IncludeStatement):
            yield Include(statement.filename, place)
        elif isinstance(statement, config_parser.BindingStatement):
            scope, selector, parameter, value, _ = statement
            binding = Binding(scope or "", selector, parameter or "", value, place, written)
            in_block = lines[number - 1][:1].isspace()  # there the name stands above
            yield replace(binding, text=f"{binding} = {value!r}") if in_block else binding


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


class _Parser(config_parser.ConfigParser):  # type: ignore[misc]
    """gin's, which would let the last of two equal keys of a dict hold, and read what can never be written again."""

    _keys: tuple[Any, ...] = ()  # of the dict that is being read
    _depth = 0

    def _maybe_parse_container(self) -> Any:
        if self._depth > DEEPEST:
            self._raise_syntax_error(f"brackets are nested more than {DEEPEST} deep")
        outer, self._keys = self._keys, ()
        self._depth += 1
        try:
            return super()._maybe_parse_container()
        finally:
            self._keys = outer
            self._depth -= 1

    def _maybe_parse_basic_type(self) -> tuple[bool, Any]:
        place = self._current_location()
        found, value = super()._maybe_parse_basic_type()
        if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
            self._raise_syntax_error(f"a whole number has more than {LARGEST_BITS} bits", place)
        return found, value

    def _parse_dict_item(self) -> tuple[Any, Any]:
        place = self._current_location()
        key, value = super()._parse_dict_item()
        if key in self._keys:
            self._raise_syntax_error(f"the key {key!r} stands twice", place)
        if any(isinstance(part, Reference | Macro) for part in walk(key)):
            self._raise_syntax_error(f"the key {key!r} is no plain value", place)
        self._keys = (*self._keys, key)
        return key, value


class _AsWritten(config_parser.ParserDelegate):  # type: ignore[misc]
    """Leaves references and macros unresolved, so that all of them can be checked at once."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, name = scoped_configurable_name.rpartition("/")
        if "." in scope:  # no binding could name it
            raise SyntaxError(f"Malformatted scope or selector in @{scoped_configurable_name}")
        return Reference(scope, name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)
