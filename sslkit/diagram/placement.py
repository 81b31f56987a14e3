"""Where the parts of a method stand in the picture, and the arrows between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from sslkit.config import Config
from sslkit.config.tree import Node
from sslkit.diagram.content import (
    Row,
    card,
    card_of,
    finders_of,
    head_of,
    momentum_of,
    rows,
    spell,
    telling,
    value,
    views,
    weight_of,
)
from sslkit.diagram.text import LEADING, SIZES, Style, Words, fit, width_of

Stroke = Literal["plain", "student", "teacher", "ema"]
Point = tuple[float, float]

LEGEND: dict[Stroke, str] = {
    "student": "student",
    "teacher": "teacher, no gradient",
    "ema": "EMA of the student, after every step",
}
MARGIN, PAD, GAP, LANE = 24.0, 11.0, 28.0, 10.0
TOP, ROW_GAP, LANES_BEFORE = 62.0, 20.0, 70.0
PORT = 8.0  # the student's lines run so far above the middle of a row, the teacher's below


@dataclass(frozen=True)
class Box:
    """A part of the method; `words` are its lines, which fit."""

    x: float
    y: float
    width: float
    height: float
    words: Words
    stroke: Stroke = "plain"

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
    stroke: Stroke = "plain"


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


class Column:
    """Boxes of one width that stand below each other: as wide as the widest line, within bounds."""

    def __init__(self, *cards: Words, least: float = 70.0, most: float = 136.0):
        self.cards: list[Words] = [
            tuple((style, line) for style, words in lines for line in fit(words, style, most)) for lines in cards
        ]
        self.width = 2 * PAD + max([least, *(width_of(line, style) for lines in self.cards for style, line in lines)])
        self.heights = [sum(SIZES[style] * LEADING for style, _ in lines) + 2 * PAD - 2 for lines in self.cards]

    def box(self, i: int, x: float, middle: float, height: float | None = None, stroke: Stroke = "plain") -> Box:
        """Card `i` as a box around `middle`."""
        height = self.heights[i] if height is None else height
        return Box(x, middle - height / 2, self.width, height, self.cards[i], stroke)


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
    title = " ".join(settings.files)
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
