"""Gin files to bindings, each with its place: includes joined, nothing resolved yet."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gin import config_parser

from sslkit.errors import ConfigError
from sslkit.registry import did_you_mean, matching

PACKAGE = Path(__file__).resolve().parent.parent
REQUIRED = "gin.REQUIRED"  # `%gin.REQUIRED`: whoever includes this file must give a value
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
class Place:
    """A line of a file; line 0 is an option of the command line, such as `--set` or `--steps 60`."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and what would be right."""

    place: Place | None
    binding: str  # what it is about, such as `train.batch_size`; may be empty
    wrong: str
    hint: str = ""

    def __str__(self) -> str:
        return (f"{self.place}: " if self.place else "") + self.wrong + (f"; {self.hint}" if self.hint else "")


def refuse(problems: Sequence[Problem]) -> None:
    """Stop if there are any.

    Raises:
        ConfigError: with a line or more for each.
    """
    if problems:
        raise ConfigError("\n".join(map(str, in_order(problems))))


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Each of them once, by file and line."""
    return sorted(dict.fromkeys(problems), key=lambda p: (p.place.file, p.place.line) if p.place else ("", 0))


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


class _Parser(config_parser.ConfigParser):  # type: ignore[misc]
    """gin's, which would let the last of two equal keys of a dict hold."""

    _keys: tuple[Any, ...] = ()  # of the dict that is being read

    def _maybe_parse_container(self) -> Any:
        outer, self._keys = self._keys, ()
        try:
            return super()._maybe_parse_container()
        finally:
            self._keys = outer

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
        return Reference(scope, name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def walk(value: Any) -> Iterator[Any]:
    """The value and everything inside it."""
    yield value
    if isinstance(value, Mapping):
        for pair in value.items():
            yield from (x for item in pair for x in walk(item))
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from walk(item)


def search_path() -> Path:
    """The folder that contains gin/: the checkout, or the installed package's own copy."""
    checkout = PACKAGE.parent
    is_checkout = (checkout / "gin" / "base").is_dir() and (checkout / "pyproject.toml").is_file()
    return checkout if is_checkout else PACKAGE / "configs"


def shipped() -> list[str]:
    """Every gin file that comes with sslkit, as it is included."""
    return [str(p.relative_to(search_path())) for p in sorted((search_path() / "gin").rglob("*.gin"))]


def read(files: Sequence[str], bindings: Sequence[str] = ()) -> tuple[list[Binding], list[Problem]]:
    """The bindings of the files, then those of the command line, and what could not be read."""
    reader = _Reader()
    for file in files:
        reader.file(file, asked_by=Place("the command line"), open_files=())
    for binding in bindings:
        reader.command_line(binding)
    return reader.bindings, reader.problems


class _Reader:
    def __init__(self) -> None:
        self.bindings: list[Binding] = []
        self.problems: list[Problem] = []
        self.seen: set[Path] = set()
        self.again: dict[str, Binding] | None = None  # what a file that is included again would set

    def file(self, path: str, *, asked_by: Place, open_files: tuple[Path, ...]) -> None:
        file = self._find(path, asked_by)
        if file is None:
            return
        if file.resolve() in open_files:
            chain = " -> ".join(p.name for p in (*open_files, file))
            self.problems.append(Problem(asked_by, "", f"{path!r} includes itself: {chain}"))
            return
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (UnicodeDecodeError, OSError) as error:
            self.problems.append(Problem(asked_by, "", f"{file} cannot be read as text: {error}"))
            return
        is_again, is_outermost = file.resolve() in self.seen, self.again is None
        self.seen.add(file.resolve())
        if is_again and is_outermost:
            self.again = {}
        statements, problems = parse(text, str(path))
        self.problems += [] if is_again else problems
        for statement in statements:
            if isinstance(statement, Include):
                n_before = len(self.bindings)
                self.file(statement.path, asked_by=statement.place, open_files=(*open_files, file.resolve()))
                self._refuse_include_below(str(path), n_before, statement)
            elif is_again and self.again is not None:
                self.again[statement.target] = statement
            else:
                self.bindings.append(statement)
        if is_again and is_outermost and self.again is not None:
            now = {binding.target: binding for binding in self.bindings}
            for target, statement in self.again.items():
                self._refuse_undoing(statement, now.get(target), asked_by)
            self.again = None

    def command_line(self, text: str) -> None:
        """A binding of the command line; one that an option stands for says so: `train.n_steps = 5  # --steps 5`."""
        statements, problems = parse(text, "the command line")
        option = re.search(r"#\s*(--.*)$", text)
        said = Place(option[1] if option else "--set")
        self.problems += [Problem(said, p.binding, p.wrong, p.hint) for p in problems]
        if not statements and not problems:
            self.problems.append(Problem(said, "", f"{text!r} sets nothing", "write `name.parameter = value`"))
        for each in statements:
            if isinstance(each, Include):
                self.problems.append(Problem(said, "", "an include belongs into a file; give that file with --gin"))
            else:
                self.bindings.append(replace(each, place=said))

    def _find(self, path: str, asked_by: Place) -> Path | None:
        """A gin file as given, or below the folder that contains gin/."""
        places = [Path(path), search_path() / path]
        try:
            for place in places:
                if place.is_file():
                    return place
        except (OSError, ValueError):  # a name that no file can have
            pass
        looked = ", ".join(map(str, dict.fromkeys(p.absolute() for p in places)))
        hint = did_you_mean(path, shipped())
        self.problems.append(Problem(asked_by, "", f"there is no file {path!r}{hint}\n  looked at {looked}"))
        return None

    def _refuse_include_below(self, file: str, n_before: int, include: Include) -> None:
        """An include that sets what its own file has set above would undo it without a word."""
        above = {b.target: b for b in self.bindings[:n_before] if b.place.file == file}
        for binding in self.bindings[n_before:]:
            own = above.get(binding.target)
            if own is not None and own.value != Macro(REQUIRED) and repr(own.value) != repr(binding.value):
                wrong = f"{include.path!r} would undo {own} = {own.value!r} of line {own.place.line}"
                self.problems.append(Problem(include.place, str(own), wrong, "put the include above it"))

    def _refuse_undoing(self, again: Binding, now: Binding | None, asked_by: Place) -> None:
        """A file counts once; included again behind a binding that changes it, it would silently undo that."""
        if now is not None and now.place != again.place and repr(now.value) != repr(again.value):
            self.problems.append(
                Problem(
                    asked_by,
                    str(again),
                    f"{again.place.file} is included a second time and would undo {now} = {now.value!r} of {now.place}",
                    "include it before whatever changes it",
                )
            )


def parse(text: str, file: str) -> tuple[list[Binding | Include], list[Problem]]:
    """The statements of one file, and every line that is not gin."""
    try:
        return list(_statements(text, file)), []
    except _NOT_GIN as error:
        whole = error
    statements: list[Binding | Include] = []
    problems = []
    for first, chunk in _chunks(text):
        try:
            statements += _statements("\n" * first + chunk, file)
        except _NotThere as error:
            problems.append(error.problem)
        except _NOT_GIN as error:
            problems.append(_not_gin(error, text, file, range(first, first + chunk.count("\n"))))
    if not problems:  # every stretch is gin, but not all of them together
        problems.append(_not_gin(whole, text, file, range(text.count("\n") + 1)))
    return statements, problems


def _not_gin(error: Exception, text: str, file: str, where: range) -> Problem:
    at = getattr(error, "lineno", None)
    number = at if at is not None and at - 1 in where else where.start + 1
    line = [*text.split("\n"), ""][number - 1].strip()
    said = (str(error.args[0]) if error.args else "").strip() or type(error).__name__
    plain = next((reason for word, reason in _REASONS.items() if word in said), said.splitlines()[0].rstrip(".: "))
    return Problem(Place(file, number), "", f"not a gin binding: {line}\n  {plain}")


class _NotThere(SyntaxError):
    """A statement that gin has and sslkit does not."""

    def __init__(self, problem: Problem):
        super().__init__(problem.wrong)
        self.problem = problem


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """Stretches that start where a statement can start, at the left margin, each with the number of lines before it."""
    lines = text.split("\n")
    starts = sorted({0, *(n for n, line in enumerate(lines) if re.match(r"[^\s#)\]}]", line))})
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield start, "\n".join(lines[start:end]) + "\n"


def _statements(text: str, file: str) -> Iterator[Binding | Include]:
    lines = text.split("\n")  # as gin counts them
    found = []
    for statement in _Parser(text, _AsWritten()):
        place = Place(file, statement.location.line_num)
        if isinstance(statement, config_parser.ImportStatement):
            raise _NotThere(Problem(place, "", "a gin file imports nothing here", "plugins are entry points"))
        found.append((place, statement))
    ends = [*(place.line - 1 for place, _ in found[1:]), len(lines)][: len(found)]
    before = 0
    for (place, statement), end in zip(found, ends, strict=True):
        while end > place.line and _says_nothing(lines[end - 1]):  # comments behind it belong to what follows
            end -= 1
        written = "\n".join(lines[before:end]).strip("\n")
        before = end
        if isinstance(statement, config_parser.IncludeStatement):
            yield Include(statement.filename, place)
        elif isinstance(statement, config_parser.BindingStatement):
            scope, selector, parameter, value, _ = statement
            binding = Binding(scope or "", selector, parameter or "", value, place, written)
            in_block = lines[place.line - 1][:1].isspace()  # there the name stands above
            yield replace(binding, text=f"{binding} = {value!r}") if in_block else binding


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")
