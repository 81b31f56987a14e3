"""A picture of what flows where in a composed method, drawn from its configuration alone."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import PurePath
from types import CodeType
from typing import Any, Literal

from sslkit.config import Config
from sslkit.config.tree import BROKEN, OPEN, Node, parts

Path = Literal["plain", "student", "teacher", "ema"]
Style = Literal["tag", "title", "line", "teacher", "sum"]
Words = tuple[tuple[Style, str], ...]
Point = tuple[float, float]

SIZES: dict[Style, float] = {"tag": 10.5, "title": 13, "line": 11.5, "teacher": 11.5, "sum": 20}
COLOURS: dict[Path, str] = {"plain": "#7a838d", "student": "#2468a8", "teacher": "#b3591a", "ema": "#7a838d"}
DASHES: dict[Path, str] = {"plain": "none", "student": "none", "teacher": "5 3.5", "ema": "1.5 3"}
INK, QUIET, EDGE, PAPER = "#24292f", "#5d6670", "#c4cad1", "#fcfcfb"
FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'Liberation Sans', sans-serif"
TIMES, LEADING = "\N{MULTIPLICATION SIGN}", 1.35
MARGIN, PAD, GAP, LANE = 24.0, 11.0, 28.0, 10.0
TOP, ROW_GAP, LANES_BEFORE = 62.0, 20.0, 70.0
TIP = 6.0  # length of an arrow's
PORT = 8.0  # the student's lines run so far above the middle of a row, the teacher's below
LEGEND: dict[Path, str] = {
    "student": "student",
    "teacher": "teacher, no gradient",
    "ema": "EMA of the student, after every step",
}
EMS = (("fijlrtI.,:;'|!()[]/ -", 0.4), ("mwMW@%→…+&<>=", 1.0))  # widths of the letters that are unlike most
CODE = {"patches": {"patch", "patches"}, "whole images": {"image", "images"}}  # what an aligner's code says of its rows


@dataclass(frozen=True)
class Box:
    """A part of the method; `words` are its lines, which fit."""

    x: float
    y: float
    width: float
    height: float
    words: Words
    path: Path = "plain"

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Arrow:
    """A line along the axes from the edge of one box to the edge of another."""

    points: tuple[Point, ...]
    path: Path = "plain"


@dataclass(frozen=True)
class Label:
    """Words outside the boxes; `x, y` is the left end of their base line."""

    x: float
    y: float
    words: str
    style: Style = "line"


@dataclass(frozen=True)
class Picture:
    """Everything in its place, in pixels."""

    title: str
    width: float
    height: float
    boxes: tuple[Box, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    labels: tuple[Label, ...] = ()
    legend: tuple[Arrow, ...] = ()


def draw(settings: Config) -> str:
    """The data flow of the method that a configuration composes, as SVG."""
    return render(layout(settings))


# --- what is said of the parts


def value(node: Any, name: str, default: Any = OPEN) -> Any:
    """What a part has for a parameter; `default` where it has no such thing."""
    return node.arguments[name].value if isinstance(node, Node) and name in node.arguments else default


def spell(what: Any) -> str:
    """A value in few words."""
    if what is OPEN or what is BROKEN:
        return "open" if what is OPEN else "?"
    if isinstance(what, Node):
        name = str(what.known.thing.__name__)
        if not {"start", "end"} <= set(what.arguments):
            return name
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
        return f"{kind} {spell(value(what, 'start'))} → {spell(value(what, 'end'))}"
    if isinstance(what, Mapping):
        return ", ".join(f"{spell(k)}: {spell(v)}" for k, v in what.items())
    if isinstance(what, (list, tuple)):
        return ", ".join(map(spell, what))
    if isinstance(what, bool):
        return "yes" if what else "no"
    if isinstance(what, float):
        return f"{what:g}"
    return str(what)


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
        (head, a.value[name])
        for head in heads
        for a in head.arguments.values()
        if isinstance(a.value, Mapping) and isinstance(name, str) and name in a.value
    ]
    lines = [f"{spell(head)}: {spell(size)}" for head, size in sizes] or [spell(head) for head in heads] or ["open"]
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
    kind, ends = ("", "default") if momentum is None else in_two(momentum)
    return [shorten(words, "line", 130) for words in (f"EMA {kind}".strip(), ends)]


def weight_of(term: Any) -> list[str]:
    """The factor of a term, then how it changes and from when on it counts."""
    kind, ends = in_two(value(term, "weight"))
    since = [f"from {unit} {spell(n)}" for unit in ("epoch", "step") if (n := value(term, f"start_{unit}", 0)) != 0]
    return [shorten(words, "line", 100) for words in (f"{TIMES} {ends}", *([kind] if kind else []), *since)]


def in_two(scheduled: Any) -> tuple[str, str]:
    """What kind of schedule, nothing for a number; and its values."""
    words = spell(scheduled)
    kind, start, ends = words.partition(f" {spell(value(scheduled, 'start'))} →") if "→" in words else ("", "", words)
    return kind, (start + ends).strip()


def names_in(code: CodeType) -> Iterator[str]:
    """Every name that a piece of code reads, those in its comprehensions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


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
        classes = (
            aligner.known.thing.__mro__ if isinstance(aligner, Node) and inspect.isclass(aligner.known.thing) else ()
        )
        functions = [f for c in classes for f in vars(c).values() if inspect.isfunction(f)]
        names = {name for function in functions for name in names_in(function.__code__)}
        named = [
            part
            for key, a in (aligner.arguments.items() if isinstance(aligner, Node) else ())
            if "search" in key
            for part in parts(a.value)
            if isinstance(part, str)
        ]
        used = tuple(x for x in named if isinstance(searches, Mapping) and x in searches)
        regions = "regions" in names and isinstance(value(method, "clusterer", None), Node)
        level = "regions" if regions else ", ".join(level for level, words in CODE.items() if words & names)
        reads = (*([level] if level else []), *(f"matches of {x}" for x in used))
        made.append(Row(spell(name), term, reads, regions, used))
    groups: dict[str, list[Row]] = {}
    for row in made:
        groups.setdefault(spell(value(row.term, "head")), []).append(row)
    ordered = [sorted(group, key=lambda row: row.rank) for group in groups.values()]
    return [row for group in sorted(ordered, key=lambda group: group[0].rank) for row in group]


# --- where it stands


def width_of(words: str, style: Style) -> float:
    """A little more than the words take in the widest of the usual fonts."""
    ems = sum(next((em for letters, em in EMS if c in letters), 0.74 if c.isupper() else 0.63) for c in words)
    return ems * SIZES[style] * (1.1 if style == "title" else 1)


def fit(words: str, style: Style, width: float, most: int = 2) -> list[str]:
    """The words in at most so many lines of that width; what is too long ends in an ellipsis."""
    lines = [""]
    for piece in re.split(r"(?<=[\s_,:/-])|(?<=[a-z])(?=[A-Z])", words):
        if lines[-1] and width_of((lines[-1] + piece).rstrip(), style) > width and len(lines) < most:
            lines.append("")
        lines[-1] += piece
    return [shorten(line.strip(), style, width) for line in lines]


def shorten(words: str, style: Style, width: float) -> str:
    """The words, or as many letters of them as there is room for."""
    if width_of(words, style) <= width:
        return words
    while words and width_of(words + "…", style) > width:
        words = words[:-1]
    return words + "…"


class Column:
    """Boxes of one width that stand below each other: as wide as the widest line, within bounds."""

    def __init__(self, *cards: Words, least: float = 70.0, most: float = 136.0):
        self.cards: list[Words] = [
            tuple((style, line) for style, words in lines for line in fit(words, style, most)) for lines in cards
        ]
        self.width = 2 * PAD + max([least, *(width_of(line, style) for lines in self.cards for style, line in lines)])
        self.heights = [sum(SIZES[style] * LEADING for style, _ in lines) + 2 * PAD - 2 for lines in self.cards]

    def box(self, i: int, x: float, middle: float, height: float | None = None, path: Path = "plain") -> Box:
        """Card `i` as a box around `middle`."""
        height = self.heights[i] if height is None else height
        return Box(x, middle - height / 2, self.width, height, self.cards[i], path)


def path(start: Point, *turns: float, end: Point) -> tuple[Point, ...]:
    """From start to end along the axes, by turns: to an x, to a y, to an x, ..., without needless corners."""
    points = [start]
    for i, turn in enumerate(turns):
        points.append((turn, points[-1][1]) if i % 2 == 0 else (points[-1][0], turn))
    points += [(points[-1][0], end[1]), end]
    kept = [p for p, q in pairwise(points) if p != q] + [end]
    return tuple(
        p
        for i, p in enumerate(kept)
        if i in (0, len(kept) - 1) or not any(kept[i - 1][k] == p[k] == kept[i + 1][k] for k in (0, 1))
    )


@dataclass(frozen=True)
class Parts:
    """The boxes by what they are; `heads` has one for each term, the same where terms share it."""

    data: Box
    augmenter: Box
    student: Box
    teacher: Box
    clusterer: Box | None
    searches: Mapping[str, Box]
    aligners: tuple[Box, ...]
    heads: tuple[Box, ...]
    losses: tuple[Box, ...]
    total: Box

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Each once."""
        found = [*([self.clusterer] if self.clusterer else []), *self.searches.values()]
        grid = [*self.aligners, *dict.fromkeys(self.heads), *self.losses, self.total]
        return (self.data, self.augmenter, self.student, self.teacher, *found, *grid)


def layout(settings: Config) -> Picture:
    """Boxes, arrows and words in their places."""
    title = next((b.place.file for b in reversed(settings.bindings) if b.place.line), "")
    entry = settings.tree.entries.get("train")
    method = value(entry, "method")
    heading = Label(MARGIN, 38, title, "title")
    if not isinstance(method, Node):
        said = "No method here: nothing binds train.method."
        width = max(width_of(title, "title"), width_of(said, "line")) + 2 * MARGIN
        return Picture(title, width, 84, labels=(heading, Label(MARGIN, 60, said)))
    terms = rows(method)
    made = place(entry, method, terms)
    labels = [heading]
    for row, loss in zip(terms, made.losses, strict=True):
        above, *below = weight_of(row.term)
        labels.append(Label(loss.right + 8, loss.middle - 7, above))
        labels += [Label(loss.right + 8, loss.middle + 16 + 15 * i, words) for i, words in enumerate(below)]
    y = (made.student.bottom + made.teacher.y) / 2 - 4
    labels += [Label(made.student.x + 32, y + 15 * i, words) for i, words in enumerate(momentum_of(method))]
    x, y, legend = MARGIN, max(box.bottom for box in made.boxes) + 40, []
    for kind, said in LEGEND.items():
        legend.append(Arrow(((x, y), (x + 34, y)), kind))
        labels.append(Label(x + 43, y + 4, said))
        x += 43 + width_of(said, "line") + 20
    width = max(made.total.right, x - 20, MARGIN + width_of(title, "title")) + MARGIN
    return Picture(title, width, y + 28, made.boxes, tuple(connect(made, method, terms)), tuple(labels), tuple(legend))


def place(entry: Any, method: Any, terms: Sequence[Row]) -> Parts:
    """Every box: columns from left to right, each as wide as its words ask for, the terms below each other."""
    data, augmenter, backbone = value(entry, "data"), value(entry, "augmenter"), value(method, "backbone")
    network = spell(value(backbone, "name", backbone))
    sources = Column(
        card("data", spell(data), *telling(data)), card("augmenter", spell(augmenter), *views(augmenter)[:4])
    )
    room = 32 - 2 * PAD + max(width_of(words, "line") for words in momentum_of(method))
    networks = Column(card("student", network, "all views"), card("teacher", network, "global views"), least=room)
    finders = Column(*(card_of(name, part) for name, part in finders_of(method).items()))
    aligners = Column(*(card(f"term {r.name}", spell(value(r.term, "aligner")), *r.reads) for r in terms))
    heads = Column(*(head_of(method, value(r.term, "head")) for r in terms))
    losses = Column(
        *(card("loss", spell(value(r.term, "loss")), *telling(value(r.term, "loss"), 3, usual=True)) for r in terms),
        most=158,
    )

    # as high as the higher of both: the networks above each other, the terms
    tall, high = max(networks.heights), max([*aligners.heights, *heads.heights, *losses.heights])
    pitch = max(high + ROW_GAP, tall + 54)
    slack = tall + pitch - (len(terms) * pitch - pitch + high)
    ys = [TOP + max(0.0, slack / 2) + i * pitch + high / 2 for i in range(len(terms))]
    y_student = TOP + tall / 2 if slack > 0 else ys[0]
    y_teacher = y_student + pitch

    x = MARGIN
    data_box, views_box = sources.box(0, x, y_student), sources.box(1, x, y_teacher)
    x = views_box.right + GAP
    student = networks.box(0, x, y_student, tall, "student")
    teacher = networks.box(1, x, y_teacher, tall, "teacher")
    x = student.right + LANES_BEFORE
    floor = ys[0] + PORT + 18 if any(not row.regions for row in terms) else 0.0  # whole images pass above
    found: dict[str | None, Box] = {}
    for i, name in enumerate(finders_of(method)):
        users = [
            y for y, row in zip(ys, terms, strict=True) if name in (row.searches or ([None] if row.regions else []))
        ]
        half = finders.heights[i] / 2
        found[name] = finders.box(i, x, max(floor + half, users[0] if users else TOP + half))
        floor = found[name].bottom + GAP
    x = max([student.right, *(box.right for box in found.values())]) + 36 + LANE * (3 + len(found))
    grid = [aligners.box(i, x, y, high) for i, y in enumerate(ys)]
    x = grid[0].right + GAP
    shared: dict[str, list[int]] = {}
    for i, row in enumerate(terms):
        shared.setdefault(spell(value(row.term, "head")), []).append(i)
    spans = {i: rows for rows in shared.values() for i in rows}
    head_boxes = [
        heads.box(spans[i][0], x, (ys[spans[i][0]] + ys[spans[i][-1]]) / 2, high + ys[spans[i][-1]] - ys[spans[i][0]])
        for i in range(len(terms))
    ]
    x = head_boxes[0].right + GAP
    loss_boxes = [losses.box(i, x, y, high) for i, y in enumerate(ys)]
    x = loss_boxes[0].right + max(width_of(line, "line") for row in terms for line in weight_of(row.term)) + 26
    total = Box(x, ys[0] - high / 2, 36, ys[-1] - ys[0] + high, (("sum", "Σ"),))
    clusterer = found.pop(None, None)
    named = {name: box for name, box in found.items() if name is not None}
    return Parts(
        data_box,
        views_box,
        student,
        teacher,
        clusterer,
        named,
        tuple(grid),
        tuple(head_boxes),
        tuple(loss_boxes),
        total,
    )


def connect(made: Parts, method: Any, terms: Sequence[Row]) -> Iterator[Arrow]:
    """Every arrow. Those of one source leave from one point, so that they look like one line that forks."""
    student, teacher, clusterer, views_box = made.student, made.teacher, made.clusterer, made.augmenter
    center, turn = made.data.x + made.data.width / 2, views_box.right + GAP / 2
    yield Arrow(((center, made.data.bottom), (center, views_box.y)))
    yield Arrow(path((views_box.right, views_box.middle - 12), turn, end=(student.x, student.middle)), "student")
    yield Arrow(path((views_box.right, views_box.middle), end=(teacher.x, teacher.middle)), "teacher")
    yield Arrow(((student.x + 20, student.bottom), (student.x + 20, teacher.y)), "ema")

    lanes = [student.right + 14 + LANE * i for i in range(4)]
    above, below = made.aligners[0].middle - PORT, made.aligners[0].middle + PORT
    is_direct, has_regions = any(not row.regions for row in terms), any(row.regions for row in terms)
    if clusterer is not None:
        out, into = lanes[1:3] if clusterer.middle <= teacher.middle else lanes[2:0:-1]
        if has_regions:
            start = (student.right, student.middle + (22 if is_direct else -PORT))
            yield Arrow(path(start, out, end=(clusterer.x, clusterer.middle - PORT)), "student")
        start = (teacher.right, teacher.middle + PORT)
        yield Arrow(path(start, into, end=(clusterer.x, clusterer.middle + PORT)), "teacher")
    for i, (name, box) in enumerate(made.searches.items()):
        if value(finders_of(method)[name], "level") != "region" or clusterer is None:
            lane = lanes[0] if box.middle > teacher.middle else lanes[3]
            yield Arrow(path((teacher.right, teacher.middle + 22), lane, end=(box.x, box.middle)), "teacher")
        elif i == 0:
            center = box.x + box.width / 2
            yield Arrow(((center, clusterer.bottom), (center, box.y)), "teacher")
        else:  # around those between
            x, y = box.x - 12, clusterer.bottom + GAP / 2
            yield Arrow(
                ((box.x + 24, clusterer.bottom), (box.x + 24, y), (x, y), (x, box.middle), (box.x, box.middle)),
                "teacher",
            )

    lanes = [made.aligners[0].x - 26 - LANE * i for i in range(4 + len(made.searches))]
    of_search = dict(zip(made.searches, lanes[4:], strict=True))
    for row, box in zip(terms, made.aligners, strict=True):
        to_student, to_teacher = (box.x, box.middle - PORT), (box.x, box.middle + PORT)
        first = student.right + 14
        if row.regions and clusterer is not None:
            from_student = path((clusterer.right, clusterer.middle - PORT), lanes[2], end=to_student)
            from_teacher = path((clusterer.right, clusterer.middle + PORT), lanes[3], end=to_teacher)
        else:
            from_student = path((student.right, student.middle - PORT), first, above, lanes[0], end=to_student)
            from_teacher = path((teacher.right, teacher.middle - PORT), first, below, lanes[1], end=to_teacher)
        yield Arrow(from_student, "student")
        if not row.searches:
            yield Arrow(from_teacher, "teacher")
        for i, name in enumerate(row.searches):
            search = made.searches[name]
            end = (box.x, box.middle + PORT + 10 * i)
            yield Arrow(path((search.right, search.middle + PORT), of_search[name], end=end), "teacher")
    for boxes in zip(made.aligners, made.heads, made.losses, strict=True):
        for one, other in pairwise(boxes):
            y = boxes[0].middle
            yield Arrow(((one.right, y - PORT), (other.x, y - PORT)), "student")
            yield Arrow(((one.right, y + PORT), (other.x, y + PORT)), "teacher")
        yield Arrow(((boxes[2].right, boxes[2].middle), (made.total.x, boxes[2].middle)))


# --- how it is drawn


def render(picture: Picture) -> str:
    """A picture as SVG."""
    width, height, title = round(picture.width), round(picture.height), escape(picture.title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="{escape(FONTS)}">',
        f"<title>{title}</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" fill="{PAPER}" stroke="{EDGE}"/>',
    ]
    for kind, colour in COLOURS.items():  # one element for all, so that lines drawn over each other look like one
        arrows = [arrow for arrow in (*picture.arrows, *picture.legend) if arrow.path == kind]
        if arrows:
            way, style = "".join(map(_way, arrows)), f'stroke="{colour}" stroke-width="1.4"'
            lines.append(f'<path d="{way}" fill="none" {style} stroke-dasharray="{DASHES[kind]}"/>')
            lines.append(f'<path d="{"".join(map(_tip, arrows))}" fill="{colour}"/>')
    for box in picture.boxes:
        lines += _box(box)
    lines += [_text(x.x, x.y, x.words, x.style) for x in picture.labels]
    return "\n".join([*lines, "</svg>", ""])


def _box(box: Box) -> list[str]:
    edge = EDGE if box.path == "plain" else COLOURS[box.path]
    dashes = "" if DASHES[box.path] == "none" else f' stroke-dasharray="{DASHES[box.path]}"'
    made = [
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="7" fill="#ffffff" '
        f'stroke="{edge}"{dashes}/>'
    ]
    y = box.middle - sum(SIZES[style] * LEADING for style, _ in box.words) / 2
    for style, words in box.words:
        y += SIZES[style] * LEADING
        x, anchor = (box.x + box.width / 2, "middle") if style == "sum" else (box.x + PAD, "start")
        made.append(_text(x, y - 0.3 * SIZES[style], words, style, anchor))
    return made


def _text(x: float, y: float, words: str, style: Style, anchor: str = "start") -> str:
    colour = {"tag": QUIET, "line": QUIET, "teacher": COLOURS["teacher"]}.get(style, INK)
    weight = ' font-weight="600"' if style == "title" else ""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    font = f'font-size="{SIZES[style]:g}" fill="{colour}"{weight}'
    return f'<text x="{x:g}" y="{y:.1f}" {font}{where}>{escape(words)}</text>'


def _way(arrow: Arrow) -> str:
    """The line with rounded corners, up to its tip."""
    points = arrow.points
    way = "M{:g} {:g}".format(*points[0])
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(6.0, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        bend = (*_towards(corner, before, radius), *corner, *_towards(corner, after, radius))
        way += "L{:g} {:g}Q{:g} {:g} {:g} {:g}".format(*bend)
    return way + "L{:g} {:g}".format(*_towards(points[-1], points[-2], TIP))


def _tip(arrow: Arrow) -> str:
    end, base = arrow.points[-1], _towards(arrow.points[-1], arrow.points[-2], TIP)
    dx, dy = 0.65 * (end[1] - base[1]), 0.65 * (end[0] - base[0])
    return "M{:g} {:g}L{:g} {:g}L{:g} {:g}Z".format(*end, base[0] + dx, base[1] + dy, base[0] - dx, base[1] - dy)


def _towards(start: Point, end: Point, distance: float) -> Point:
    share = distance / max(math.dist(start, end), 1e-6)
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share
