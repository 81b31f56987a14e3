"""A composed method as a person reads it: a tree of its parts, every value with where it came from, and its sizes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sslkit.config import Config, examine, refuse
from sslkit.config.build import FAILED, Builder
from sslkit.config.source import search_path
from sslkit.config.text import spell
from sslkit.config.tree import OPEN, Argument, Node
from sslkit.diagram import content, draw
from sslkit.launch.options import with_data
from sslkit.method import Method
from sslkit.shown import as_code, in_markdown, visible

FIRST = ("method", "terms", "aligner", "search", "matcher", "memory", "head", "loss", "weight")  # in this order
WIDEST = 80  # places stand in a column as far as lines of this width allow
BY_DEFAULT = "by default"


def description(files: list[str], data: Path | None, bindings: list[str], markdown: bool, picture: Path | None) -> str:
    """The method as text; drawn into `picture` as well, if that is given.

    Raises:
        ConfigError: something is wrong; what is only left open is shown as that.
    """
    settings, problems = examine(files, with_data(files, data, bindings))
    refuse(problems)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(draw(settings))
    return as_markdown(settings) if markdown else as_text(settings)


@dataclass(frozen=True)
class Line:
    """One part or value of the tree."""

    name: str
    value: str  # of a value; the class of a part
    place: str  # where it was set
    inside: tuple[Line, ...] = ()
    is_part: bool = False


def lines(settings: Config) -> tuple[Line, ...]:
    """Every entry that a configuration binds, with all that it is called with."""
    return tuple(_part(name, node, "", node) for name, node in settings.tree.entries.items())


def _part(name: str, node: Node, place: str, entry: Node) -> Line:
    given = node.arguments
    order = sorted(given, key=lambda each: FIRST.index(each) if each in FIRST else len(FIRST))
    inside = [line for each in order if given[each].origin for line in _argument(each, given[each], node, entry)]
    inside += [Line(each, "open", "") for each in order if given[each].value is OPEN and not given[each].origin]
    plain = {each: spell(given[each].value) for each in given if not given[each].origin and each not in _open(node)}
    if plain:
        inside.append(Line(BY_DEFAULT, ", ".join(f"{each} {value}" for each, value in plain.items()), ""))
    shared = f", shared as {node.shared_as!r}" if node.shared_as is not None else ""
    is_root = node is entry
    return Line(name, "" if is_root else node.known.thing.__name__ + shared, place, tuple(inside), True)


def _open(node: Node) -> list[str]:
    return [name for name, argument in node.arguments.items() if argument.value is OPEN]


def _argument(name: str, argument: Argument, node: Node, entry: Node) -> Iterator[Line]:
    place = _place(argument)
    value = argument.value
    if isinstance(value, Node):
        yield _part(name, value, place, entry)
    elif name == "searches" and node.known.name == "Method" and isinstance(value, Mapping):
        shown = _searched(node)
        yield Line(name, "", place, tuple(_found(value, shown, place, entry)), True)
    elif isinstance(value, Mapping) and any(isinstance(v, Node) for v in value.values()):
        yield Line(name, "", place, tuple(_items(value.items(), place, entry)), True)
    elif isinstance(value, (list, tuple)) and any(isinstance(v, Node) for v in value):
        yield Line(name, "", place, tuple(_items(((f"{i}", v) for i, v in enumerate(value)), place, entry)), True)
    else:
        note, linked = _linked(name, value, node, entry)
        yield Line(name, ("open" if value is OPEN else spell(value)) + note, place, linked)


def _searched(method: Node) -> dict[str, str]:
    """The first term that uses each search."""
    shown: dict[str, str] = {}
    for name, term in (method.arguments["terms"].value or {}).items():
        aligner = term.arguments["aligner"].value if isinstance(term, Node) else None
        search = aligner.arguments.get("search") if isinstance(aligner, Node) else None
        if search is not None and isinstance(search.value, str):
            shown.setdefault(search.value, name)
    return shown


def _found(searches: Mapping[str, Any], shown: Mapping[str, str], place: str, entry: Node) -> Iterator[Line]:
    """Searches: those that a term uses stand there, the others here."""
    for name, search in searches.items():
        if name in shown:
            yield Line(name, f"see term {shown[name]!r}", place, (), True)
        elif isinstance(search, Node):
            yield _part(name, search, place, entry)


def _items(items: Any, place: str, entry: Node) -> Iterator[Line]:
    for name, value in items:
        if isinstance(value, Node):
            yield _part(name, value, place, entry)
        else:
            yield Line(name, spell(value), place)


def _linked(name: str, value: Any, node: Node, entry: Node) -> tuple[str, tuple[Line, ...]]:
    """What a term's `head` and an aligner's `search` name, so that a term can be read without looking elsewhere."""
    method = entry.arguments["method"].value if "method" in entry.arguments else None
    if not isinstance(method, Node) or not isinstance(value, str):
        return "", ()
    if name == "head" and node.known.name == "Term":
        for head in method.arguments["heads"].value or ():
            outputs = head.arguments["outputs"].value if isinstance(head, Node) and "outputs" in head.arguments else {}
            if isinstance(outputs, Mapping) and value in outputs:
                size = outputs[value]
                said = f"the prototypes of {size!r}" if isinstance(size, str) else f"{size} wide"
                return f" of {head.known.thing.__name__}, {said}", ()
    if name == "search" and node.known.role == "aligners":
        search = (method.arguments["searches"].value or {}).get(value)
        if isinstance(search, Node):
            return "", _part("", search, "", entry).inside
    return "", ()


def _place(argument: Argument) -> str:
    return str(argument.origin.place) if argument.origin else ""


def as_text(settings: Config) -> str:
    """The tree with a rule down each level, places in a column of their own."""
    rows = [row for line in lines(settings) for row in _rows(line, "", "")]
    width = max((len(left) for left, _ in rows if len(left) <= WIDEST), default=0)
    drawn = [f"{left:<{width}}  {place}".rstrip() for left, place in rows]
    return visible("\n".join([*_title(settings), *drawn, "", *sizes(settings)]).rstrip() + "\n")


def _rows(line: Line, here: str, below: str) -> Iterator[tuple[str, str]]:
    separator = ": " if line.is_part or line.name == BY_DEFAULT else " = "
    first, *rest = textwrap.wrap(
        f"{line.name}{separator + line.value if line.value else ''}", max(40, WIDEST - len(here))
    )
    yield here + first, line.place
    for more in rest:
        yield f"{below}{'│' if line.inside else ' '}    {more}", ""
    for n, inner in enumerate(line.inside):
        is_last = n + 1 == len(line.inside)
        yield from _rows(inner, below + ("└─ " if is_last else "├─ "), below + ("   " if is_last else "│  "))


def as_markdown(settings: Config) -> str:
    """The tree as nested lists."""
    drawn = [row for line in lines(settings) for row in _bullets(line, 0)]
    title, *said = map(in_markdown, _title(settings))
    return "\n".join([f"# {title}", *said, *drawn, "", *(f"- {s}" for s in sizes(settings))]).rstrip() + "\n"


def _bullets(line: Line, depth: int) -> Iterator[str]:
    sign = "" if line.is_part or line.name == BY_DEFAULT else "= "
    value = f" {sign}{as_code(line.value)}" if line.value else ""
    place = f" ({in_markdown(line.place)})" if line.place else ""
    name = in_markdown(line.name)
    yield f"{'  ' * depth}- {f'**{name}**' if line.is_part else name}{value}{place}"
    for inner in line.inside:
        yield from _bullets(inner, depth + 1)


def _title(settings: Config) -> list[str]:
    """The files and, where the last of them starts with a comment, what it says of itself."""
    files = list(dict.fromkeys(settings.files))
    said: list[str] = []
    for file in files[-1:]:
        path = next((p for p in (Path(file), search_path() / file) if p.is_file()), None)
        text = path.read_text(encoding="utf-8-sig").splitlines() if path else []
        said = [line.lstrip("# ") for line in text[:1] if line.startswith("#")]
    return [" ".join(files), *said, *_objective(settings), ""]


def _objective(settings: Config) -> Iterator[str]:
    """The sum of terms in one line."""
    entry = settings.tree.entries.get("train")
    method = entry.arguments["method"].value if entry is not None else None
    if not isinstance(method, Node) or not isinstance(method.arguments["terms"].value, Mapping):
        return
    yield "loss = " + " + ".join(_term(name, term) for name, term in method.arguments["terms"].value.items())


def _term(name: str, term: Node) -> str:
    given = {key: argument.value for key, argument in term.arguments.items()}
    weight = spell(given["weight"])
    if isinstance(given["weight"], Node):
        kind, numbers = content.schedule(given["weight"])
        weight = given["weight"].known.thing.__name__ if kind else numbers
    starts = content.starts_of(term)
    return f"{weight} {name}" + (f" ({', '.join(starts)})" if starts else "")


def sizes(settings: Config) -> list[str]:
    """Parameters and memory of the method; nothing where it cannot be built yet."""
    entry = settings.tree.entries.get("train")
    if entry is None:
        return []
    with torch.device("meta"):
        method = Builder().value(entry.arguments["method"].value)
    if method is FAILED:
        return ["sizes: known once the method is complete"]
    return [*_networks(method), *_memories(method)]


def _networks(method: Method) -> Iterator[str]:
    count = {
        "backbone": sum(p.numel() for p in method.student.backbone.parameters()),
        "heads": sum(p.numel() for head in method.student.heads for p in head.parameters()),
    }
    trained = sum(p.numel() for p in method.student.parameters() if p.requires_grad)
    inside = ", ".join(f"{name} {_count(n)}" for name, n in count.items())
    yield f"student: {_count(sum(count.values()))} parameters ({inside}), {_count(trained)} of them trained"
    everything = 4 * (2 * sum(count.values()) + 3 * trained)
    yield f"weights of both networks, gradients and Adam's two moments, in float32: {_bytes(everything)}"


def _memories(method: Method) -> Iterator[str]:
    for name, search in method.searches.items():
        held = sum(x.numel() * x.element_size() for x in search.memory.buffers())
        yield f"memory of search {name!r}: {_bytes(held)} on each rank"


def _count(n: int) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n:,}"


def _bytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
