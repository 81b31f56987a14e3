"""What of a method makes ranks differ from one that has all images, and accumulated batches from one large batch."""

from __future__ import annotations

from collections.abc import Iterator

from sslkit.batch_norm import BatchNorm
from sslkit.component import Component
from sslkit.method import Method
from sslkit.registry import everything


def rank_local(method: Method) -> list[str]:
    """The settings by which W ranks do not come to what one rank does with the same global batch, if any.

    One that is not there does not hold anything apart: for each of them the other setting makes ranks agree.
    """
    said = [
        f"{_called(part)}.{part.switch} = {getattr(part, part.switch)!r}{place}"
        for place, part in _parts(method)
        if part.scope == "rank"
    ]
    if method.batch_norm_scope == "rank":
        said += [f"Method.batch_norm_scope = 'rank': {layers}" for layers in _batch_norm(method)]
    return said + _draws(method)


def batch_scoped(method: Method) -> list[str]:
    """The parts by which `train.accumulate = A` does not come to what one batch of A times the size does, if any.

    In each of them images of a batch meet, or the number of their regions or matches counts, batch by batch.
    """
    said = [f"{_called(part)}{place}" for place, part in _parts(method) if part.scope is not None]
    return said + list(_batch_norm(method)) + _draws(method)


def _parts(method: Method) -> Iterator[tuple[str, Component]]:
    """What is asked in a step, and whose it is where there may be several."""
    yield "", method.student.backbone
    for head in method.student.heads:
        yield f" of {_quoted(head.names)}", head
    if method.clusterer is not None:
        yield "", method.clusterer
    for name, search in method.searches.items():
        yield f" of search {name!r}", search.matcher
        yield f" of search {name!r}", search.memory
    for name, centering in method.centerings.items():
        yield f" of {name!r}", centering
    for name, term in method.terms.items():
        yield f" of term {name!r}", term.aligner
        yield f" of term {name!r}", term.loss


def _batch_norm(method: Method) -> Iterator[str]:
    """Where there is BatchNorm."""
    for where, network in _networks(method):
        if any(isinstance(module, BatchNorm) for module in network.modules()):
            yield f"BatchNorm in {where}"


def _draws(method: Method) -> list[str]:
    return [f"drop path or dropout in {where}" for where, network in _networks(method) if network.draws]


def _networks(method: Method) -> Iterator[tuple[str, Component]]:
    yield "student.backbone", method.student.backbone
    for head in method.student.heads:
        yield f"the head of {_quoted(head.names)}", head


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))


def _called(part: Component) -> str:
    """The name of its class in gin files, or in Python where these do not know it."""
    known = (known.name for known in everything() if known.thing is type(part))
    return next(known, type(part).__name__)
