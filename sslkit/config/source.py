"""Gin files and the command line to bindings, each with its place: includes joined, nothing resolved yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sslkit.config.problem import Place, Problem
from sslkit.config.syntax import REQUIRED, Binding, Include, Macro, parse
from sslkit.registry import did_you_mean

LARGEST = 100_000  # bytes that all files of a configuration have, a file counted as often as it is included
MOST = 100  # files, counted likewise
PACKAGE = Path(__file__).resolve().parent.parent


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
        reader.file(file, asked_by=(Place("the command line"),), open_files=())
    for binding in bindings:
        reader.command_line(binding)
    return reader.bindings, reader.problems


class _Reader:
    def __init__(self) -> None:
        self.bindings: list[Binding] = []
        self.problems: list[Problem] = []
        self.seen: set[Path] = set()
        self.again: dict[str, Binding] | None = None  # what a file that is included again would set
        self.below: dict[str, set[str]] = {}  # the files that a file includes, and those that these include
        self.n_files = self.n_bytes = 0

    def file(self, path: str, *, asked_by: tuple[Place, ...], open_files: tuple[Path, ...]) -> None:
        """Read a file, asked for by the includes that lead to it, the outermost first."""
        file = self._find(path, asked_by[-1])
        if file is None:
            return
        for place in asked_by:
            self.below.setdefault(place.file, set()).add(path)
        if file.resolve() in open_files:
            chain = " -> ".join(p.name for p in (*open_files, file))
            self.problems.append(Problem(asked_by[-1], "", f"{path!r} includes itself: {chain}"))
            return
        text = self._text(file, path, asked_by[-1], is_included=bool(open_files))
        if text is None:
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
                self.file(
                    statement.path, asked_by=(*asked_by, statement.place), open_files=(*open_files, file.resolve())
                )
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
        hint = did_you_mean(path, shipped(), after="; ")
        self.problems.append(Problem(asked_by, "", f"there is no file {path!r}{hint}\n  looked at {looked}"))
        return None

    def _text(self, file: Path, path: str, asked_by: Place, *, is_included: bool) -> str | None:
        """What stands in it, if it is a gin file and there is room for it."""
        if is_included and file.resolve().suffix != ".gin":  # its lines would be shown as what is wrong with them
            self._refuse(asked_by, f"{path!r} is no gin file", "an include names a file that ends in .gin")
            return None
        try:
            size = file.stat().st_size
            self.n_files, self.n_bytes = self.n_files + 1, self.n_bytes + size
            if self.n_files > MOST:
                if self.n_files == MOST + 1:  # once: each of them may include others that do the same
                    self._refuse(asked_by, f"more than {MOST} files are read", "include each of them once")
                return None
            if self.n_bytes > LARGEST:
                said = f"{file} has {size:,} bytes, and all files together more than {LARGEST:,}"
                self._refuse(asked_by, said, "a configuration is shorter")
                return None
            return file.read_text(encoding="utf-8-sig") if size else ""  # what has no size may have no end
        except (UnicodeDecodeError, OSError) as error:
            self._refuse(asked_by, f"{file} cannot be read as text: {error}")
            return None

    def _refuse(self, place: Place, wrong: str, hint: str = "") -> None:
        self.problems.append(Problem(place, "", wrong, hint))

    def _refuse_include_below(self, file: str, n_before: int, include: Include) -> None:
        """An include that sets what its own file has set above would undo it without a word."""
        above = {b.target: b for b in self.bindings[:n_before] if b.place.file == file}
        for binding in self.bindings[n_before:]:
            own = above.get(binding.target)
            if own is not None and own.value != Macro(REQUIRED) and repr(own.value) != repr(binding.value):
                wrong = f"{include.path!r} would undo {own} = {own.value!r} of line {own.place.line}"
                self.problems.append(Problem(include.place, str(own), wrong, "put the include above it"))

    def _refuse_undoing(self, again: Binding, now: Binding | None, asked_by: tuple[Place, ...]) -> None:
        """A file counts once; included again behind a binding that changes it, it would silently undo that."""
        if now is not None and now.place != again.place and repr(now.value) != repr(again.value):
            from_both = (p for p in reversed(asked_by) if now.place.file in {p.file} | self.below.get(p.file, set()))
            self.problems.append(
                Problem(
                    next(from_both, asked_by[-1]),  # the include whose order can be changed
                    str(again),
                    f"{again.place.file} is included a second time and would undo {now} = {now.value!r} of {now.place}",
                    "include it before whatever changes it",
                )
            )
