"""How wide the rows are that each head takes: image vectors and patches of a backbone may differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sslkit.aligners import Aligner
from sslkit.backbones import Backbone
from sslkit.heads import Head
from sslkit.search import Search
from sslkit.term import Term


def taken(
    backbone: Backbone, heads: Sequence[Head], terms: Mapping[str, Term], searches: Mapping[str, Search]
) -> list[int]:
    """Width of the rows that each head takes, from the terms and searches that use it; of image vectors if none does.

    Raises:
        ValueError: a head would take rows of two widths, or a term compares rows of two widths.
    """
    owner = {name: i for i, head in enumerate(heads) for name in head.names}
    made = {name: width for head in heads for name, width in head.widths.items()}
    found: dict[int, tuple[int, str]] = {}  # width of the rows of each head, and who says so

    def use(output: str | None, kind: str, user: str) -> int | None:
        """What comes out where rows of a kind pass an output layer; None where that is not known."""
        width = backbone.dim if kind == "images" else backbone.patch_dim
        if output is None:
            return width
        if output not in owner:
            return None  # the network names those that there are
        before, other = found.setdefault(owner[output], (width, f"{user} sends it {kind}"))
        if before != width:
            raise ValueError(
                f"the head of {output!r} would take rows of two widths: {other} ({before}), {user} sends it {kind} "
                f"({width}). Give patches a head of their own, and set the target_head of their term to that of images"
            )
        return made[output]

    for name, search in searches.items():
        use(search.output, f"{search.level}s", f"search {name!r}")
    for name, term in terms.items():
        here = use(term.head, term.aligner.reads, f"term {name!r}")
        there = use(term.target_head, _target(term.aligner, searches), f"term {name!r}")
        if None not in (here, there) and here != there:
            raise ValueError(
                f"term {name!r} compares rows of widths {here} (head={term.head!r}) and {there} "
                f"(target_head={term.target_head!r}): they must have the same"
            )
    return [found.get(i, (backbone.dim, ""))[0] for i in range(len(heads))]


def _target(aligner: Aligner, searches: Mapping[str, Search]) -> str:
    """The kind of the teacher's rows that an aligner compares."""
    if aligner.targets is None and aligner.search is not None and aligner.search in searches:
        return f"{searches[aligner.search].level}s"
    return aligner.targets or aligner.reads
