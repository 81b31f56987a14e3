"""What a step exchanges, from the sizes of a method alone: every call, with the bytes that each rank hands in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sslkit.centerings import Balance, Mean
from sslkit.memories import PerImage, Queue
from sslkit.method import Method

FLOAT, INT = 4, 8


@dataclass(frozen=True)
class Call:
    kind: str
    bytes: int
    part: str


@dataclass(frozen=True)
class Sizes:
    """What a step's exchanges depend on beside the method.

    Args:
        batch: images of a rank.
        rows: that a rank pushes to a queue, on the rank that has most: the others fill up with zeros.
        queries: of a rank, likewise; those of a step are pushed in the next one, as these begin with their exchanges.
        norms: channels of each synchronised BatchNorm that is passed, and whether with gradient.
        has_labels: the data set knows classes, which AdaSim watches its partners by.
    """

    world: int
    batch: int
    rows: int
    queries: int
    norms: tuple[tuple[int, bool], ...] = ()
    has_labels: bool = False


def calls(method: Method, sizes: Sizes) -> list[Call]:
    """Those of a step of one batch on which all terms count.

    Left out are those of the part `losses`: sums of few numbers by which pairs are weighed and rows counted over all
    ranks, and of InfoNCE the candidates, which are of all ranks.
    """
    if sizes.world == 1:
        return []
    of_parts = {
        "gradients": _gradients(method),
        "agreement": [("all_reduce", 3 * FLOAT)],
        "memory": _memories(method, sizes),
        "matches": _matches(method, sizes),
        "centres": _centres(method),
        "BatchNorm": _norms(sizes),
    }
    return [Call(kind, n_bytes, part) for part, of_part in of_parts.items() for kind, n_bytes in of_part]


Plain = Iterable[tuple[str, int]]


def _gradients(method: Method) -> Plain:
    """Which parameters have a gradient, and all gradients in one piece."""
    trained = [p for p in method.parameters() if p.requires_grad]
    yield "all_reduce", FLOAT * len(trained)
    yield "all_reduce", sum(p.nbytes for p in trained)


def _memories(method: Method, sizes: Sizes) -> Plain:
    for search in method.searches.values():
        memory = search.memory
        assert isinstance(memory, Queue)
        n, dim = memory.n_planes * sizes.rows, memory._rows.shape[-1]
        for n_bytes in (n * dim * FLOAT, n * 2 * FLOAT, sizes.rows * INT, sizes.batch * INT):
            yield from _gathered(n_bytes, sizes)
    if method.partners is not None:
        memory, b = method.partners.memory, sizes.batch
        assert isinstance(memory, PerImage)
        k = memory.n_neighbours
        found = [b * k * INT, b * k * FLOAT]
        for n_bytes in [b * INT, b * int(memory.dim or 0) * FLOAT, b * 2 * FLOAT, *found]:
            yield from _gathered(n_bytes, sizes)
        for n_bytes in [b * INT, b * INT] if sizes.has_labels else []:
            yield from _gathered(n_bytes, sizes)


def _matches(method: Method, sizes: Sizes) -> Plain:
    """Queries among which those of all ranks have to lead back to their own: the rows, and which count and whose."""
    for search in method.searches.values():
        if search.matcher.scope == "all":
            memory = search.memory
            assert isinstance(memory, Queue)
            n, dim = memory.n_planes * sizes.queries, memory._rows.shape[-1]
            for n_bytes in (n * dim * FLOAT, sizes.queries * 2 * INT):
                yield from _gathered(n_bytes, sizes)


def _gathered(n_bytes: int, sizes: Sizes) -> Plain:
    """The rows of all ranks, after how many each of them has."""
    yield "all_reduce", sizes.world * INT
    yield "all_gather", n_bytes


def _centres(method: Method) -> Plain:
    """Of every output layer that terms use as a target: the weight of its rows, and their mean or column sums."""
    used = {term.target_head for term in method.terms.values()}
    for name, centering in method.centerings.items():
        if name in used:
            width = method.student.width(name)
            times = {Mean: 1, Balance: getattr(centering, "n_rounds", 0)}.get(type(centering))
            if times is not None:
                yield "all_reduce", FLOAT
                yield from [("all_reduce", FLOAT * width)] * times


def _norms(sizes: Sizes) -> Plain:
    """Count, mean and scatter of each channel forwards, two sums of each backwards."""
    for channels, has_gradient in sizes.norms:
        yield "all_gather", FLOAT * (1 + 2 * channels)
        if has_gradient:
            yield "all_reduce", FLOAT * 2 * channels
