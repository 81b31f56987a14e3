"""What is said of the parts of a method, whoever wrote them: class names and the values that tell most."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sslkit.config.syntax import walk
from sslkit.config.tree import BROKEN, OPEN, Node
from sslkit.diagram.text import Words, shorten
from sslkit.schedules import Product, Rest

TIMES = "\N{MULTIPLICATION SIGN}"


def value(node: Any, name: str, default: Any = OPEN) -> Any:
    """What a part has for a parameter; `default` where it has no such thing."""
    return node.arguments[name].value if isinstance(node, Node) and name in node.arguments else default


def spell(what: Any) -> str:
    """A value in few words."""
    if what is OPEN or what is BROKEN:
        return "open" if what is OPEN else "?"
    if isinstance(what, Node):
        is_schedule = what.known.role == "schedules"
        return " ".join(filter(None, schedule(what))) if is_schedule else str(what.known.thing.__name__)
    if isinstance(what, Mapping):
        return ", ".join(f"{spell(k)}: {spell(v)}" for k, v in what.items())
    if isinstance(what, (list, tuple)):
        return ", ".join(map(spell, what))
    if isinstance(what, bool):
        return "yes" if what else "no"
    if isinstance(what, float):
        return f"{what:g}"
    return str(what)


def schedule(what: Any) -> tuple[str, str]:
    """What kind of schedule, nothing for a number; and its values."""
    if not isinstance(what, Node):
        return "", spell(what)
    if what.known.thing is Product:
        return "", f" {TIMES} ".join(map(spell, value(what, "factors")))
    if what.known.thing is Rest:
        return "", f"(1 - {spell(value(what, 'value'))})"
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(what.known.thing.__name__)).lower()
    if {"start", "end"} <= set(what.arguments):
        return kind, f"{spell(value(what, 'start'))} → {spell(value(what, 'end'))}"
    return kind, ", ".join(spell(a.value) for a in what.arguments.values() if a.value is not None)


def telling(node: Any, most: int = 2, usual: bool = False) -> list[str]:
    """The values that say most of a part: the ones it demands, those unlike their default, then the usual ones."""
    if not isinstance(node, Node):
        return []
    ranks: dict[str, int] = {}
    for name, argument in node.arguments.items():
        parameter = node.known.parameters[name]
        if argument.value is not None:
            ranks[name] = 0 if parameter.is_required else 1 if argument.value != parameter.default else 2
    best = [name for name in sorted(ranks, key=lambda name: ranks[name]) if usual or ranks[name] < 2][:most]
    return [_said(name, value(node, name)) for name in ranks if name in best]


def _said(name: str, what: Any) -> str:
    words, plain = spell(what), name.replace("_", " ")
    if isinstance(what, str | PurePath) and "/" in words:
        words = PurePath(what).name
    return f"{words} {plain[2:]}" if name.startswith("n_") else f"{plain} {words}"


def card(tag: str, title: str, *lines: str) -> Words:
    """What stands in a box, from top to bottom."""
    return (("tag", tag), ("title", title), *(("line", line) for line in lines))


def views(augmenter: Any) -> list[str]:
    """How many views of which size."""
    counts: dict[str, list[Any]] = {}
    for kind in ("global", "local"):
        crops = value(augmenter, f"{kind}_crops", ())
        for crop in crops if isinstance(crops, (list, tuple)) else [crops]:
            counts.setdefault(f"{kind}, {spell(value(crop, 'size'))} px", []).append(value(crop, "n"))
    said = [f"{sum(n) if all(isinstance(x, int) for x in n) else 'open'} {what}" for what, n in counts.items()]
    return said or telling(augmenter)


def head_of(method: Any, name: Any) -> Words:
    """The output layer of that name: of which head, how wide, and how the teacher's is centred."""
    given = value(method, "heads")
    heads = [head for head in (given if isinstance(given, (list, tuple)) else [given]) if isinstance(head, Node)]
    sizes = [
        (head, f"as {a.value[name]}" if isinstance(a.value[name], str) else spell(a.value[name]))
        for head in heads
        for a in head.arguments.values()
        if isinstance(a.value, Mapping) and isinstance(name, str) and name in a.value
    ]
    lines = [f"{spell(head)}: {size}" for head, size in sizes] or [spell(head) for head in heads] or ["open"]
    if any(not getattr(head.known.thing, "scores", True) for head, _ in sizes):
        return card("head", spell(name), lines[0])  # embeddings, of which no centre is kept
    centering = value(method, "centering", None)
    centering = centering.get(name, OPEN) if isinstance(centering, Mapping) else centering
    centred = "default" if centering is None else spell(centering)
    return (*card("head", spell(name), lines[0]), ("teacher", f"teacher centering: {centred}"))


def finders_of(method: Any) -> dict[str | None, Any]:
    """What makes regions, under None, and the searches by name."""
    clusterer, searches = value(method, "clusterer", None), value(method, "searches", None)
    named = searches if isinstance(searches, Mapping) else {}
    return {**({} if clusterer is None else {None: clusterer}), **{spell(name): part for name, part in named.items()}}


def card_of(name: str | None, part: Any) -> Words:
    """What stands in the box of a clusterer or a search."""
    if name is None:
        return card("clusterer of patches", spell(part), *telling(part))
    matcher, memory = value(part, "matcher"), value(part, "memory")
    return card(
        f"search {name}", spell(matcher), *telling(matcher), ", ".join([f"in {spell(memory)}", *telling(memory, 1)])
    )


def momentum_of(method: Any) -> list[str]:
    """How the teacher follows the student, in two lines."""
    momentum = value(method, "momentum", None)
    kind, ends = ("", "default") if momentum is None else schedule(momentum)
    return [shorten(words, "line", 130) for words in (f"EMA {kind}".strip(), ends)]


def weight_of(term: Any) -> list[str]:
    """The factor of a term, then how it changes and from when on it counts."""
    kind, ends = schedule(value(term, "weight"))
    return [shorten(words, "line", 150) for words in (f"{TIMES} {ends}", *([kind] if kind else []), *starts_of(term))]


def starts_of(term: Any) -> list[str]:
    """From when on a term counts; nothing if from the start."""
    said = {"start_epoch": "from epoch {}", "start_step": "from step {}", "start_fraction": "from {} of the run"}
    return [words.format(spell(n)) for name, words in said.items() if (n := value(term, name, 0))]


@dataclass(frozen=True)
class Row:
    """One term, and what its aligner compares."""

    name: str
    term: Any
    reads: tuple[str, ...]  # in words
    regions: bool
    searches: tuple[str, ...]

    @property
    def rank(self) -> tuple[bool, int]:
        """Rows go from what is compared directly to what needs most to be found."""
        return self.regions, len(self.searches)


def rows(method: Any) -> list[Row]:
    """The terms, those of one head together, those that compare whole images first."""
    terms, searches = value(method, "terms"), value(method, "searches", None)
    made = []
    for name, term in terms.items() if isinstance(terms, Mapping) else [("open", OPEN)]:
        aligner = value(term, "aligner")
        thing = aligner.known.thing if isinstance(aligner, Node) else None
        kinds = dict.fromkeys((getattr(thing, "reads", None), getattr(thing, "targets", None)))
        named = [
            part
            for key, a in (aligner.arguments.items() if isinstance(aligner, Node) else ())
            if "search" in key
            for part in walk(a.value)
            if isinstance(part, str)
        ]
        used = tuple(x for x in named if isinstance(searches, Mapping) and x in searches)
        regions = "regions" in kinds and isinstance(value(method, "clusterer", None), Node)
        levels = ("whole images" if kind == "images" else kind for kind in kinds if kind)
        through = value(term, "target_head", None)
        targets = (f"targets through {spell(through)}",) if through is not None else ()
        reads = (*levels, *(f"matches of {x}" for x in used), *targets)
        made.append(Row(spell(name), term, reads, regions, used))
    groups: dict[str, list[Row]] = {}
    for row in made:
        groups.setdefault(spell(value(row.term, "head")), []).append(row)
    ordered = [sorted(group, key=lambda row: row.rank) for group in groups.values()]
    return [row for group in sorted(ordered, key=lambda group: group[0].rank) for row in group]
