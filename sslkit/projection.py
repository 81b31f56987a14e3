"""Rows of many terms through the heads that they share, each row once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sslkit import distributed
from sslkit.distributed import Scope
from sslkit.network import Network
from sslkit.types import Pairs, Rows, Step


def without_idle_rows(
    pairs: Mapping[str, Pairs],
    heads: Mapping[str, str | None],
    target_heads: Mapping[str, str | None],
    batch_norm_scope: Scope,
) -> dict[str, Pairs]:
    """The same pairs without those of weight 0, and without rows that none is left for in any term of their head.

    A single row that is left keeps the company of the others: BatchNorm in a head cannot measure one row. Counted are
    the rows that it takes in: of this rank, or of all.
    """
    left = {}
    for name, p in pairs.items():
        keep = p.weight != 0
        left[name] = replace(p, i=p.i[keep], j=p.j[keep], weight=p.weight[keep])
    for side, index, through in (("prediction", "i", heads), ("target", "j", target_heads)):
        sharing: dict[tuple[int, str | None], list[str]] = {}
        for name, p in left.items():
            sharing.setdefault((id(getattr(p, side).rows), through[name]), []).append(name)
        indices = [[getattr(left[name], index) for name in names] for names in sharing.values()]
        distinct = [torch.cat(of_names).unique(return_inverse=True) for of_names in indices]
        counts = torch.tensor([len(used) for used, _ in distinct])
        if batch_norm_scope == "all" and distinct:
            counts = distributed.total(counts.to(distinct[0][0].device))
        for names, of_names, (used, found), n in zip(sharing.values(), indices, distinct, counts.tolist(), strict=True):
            rows: Rows = getattr(left[names[0]], side)
            if len(used) < len(rows) and n != 1:
                some = rows.at(used)
                for name, place in zip(names, found.split([len(x) for x in of_names]), strict=True):
                    left[name] = replace(left[name], **{side: some, index: place})
    return left


def of_this_batch(pairs: Mapping[str, Pairs], step: Step) -> set[str]:
    """The terms whose targets are the teacher's own rows of this step, and not found in a memory."""
    own = {id(rows.rows) for rows in _rows_of(step)}
    return {name for name, p in pairs.items() if id(p.target.rows) in own}


def own_targets(
    targets: Mapping[tuple[int, str | None], Tensor],
    pairs: Mapping[str, Pairs],
    heads: Mapping[str, str],
    own: Collection[str],
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each head, raw teacher logits and whether a pair asks for them: of this batch's own rows, else of all."""
    found = {}
    for head in dict.fromkeys(heads.values()):
        names = [name for name in heads if heads[name] == head]
        asked: dict[int, Tensor] = {}
        for p in [pairs[name] for name in names if name in own] or [pairs[name] for name in names]:
            rows = id(p.target.rows)
            asked[rows] = asked.get(rows, p.weight.new_zeros(len(p.target))).index_add(0, p.j, p.weight)
        logits = [targets[rows, head] for rows in asked]
        weight = torch.cat(list(asked.values()))
        found[head] = (logits[0] if len(logits) == 1 else torch.cat(logits), weight.ne(0).to(weight.dtype))
    return found


def project(
    network: Network, asked: Sequence[tuple[Tensor, str | None, str | None]]
) -> dict[tuple[int, str | None], Tensor]:
    """What a head makes of rows, by (id of the rows, its output): each output sees all its rows of the step together.

    Together, because BatchNorm in a head would otherwise measure a few matched rows by statistics of their own. Asked
    for are (rows, output wanted, output that they come from already); where none is wanted, rows stay as they are.
    """
    made: dict[tuple[int, str | None], Tensor] = {
        (id(rows), output): rows for rows, output, reached in asked if output == reached
    }
    wanted = [(rows, output) for rows, output, reached in asked if output is not None and output != reached]
    for output in dict.fromkeys(output for _, output in wanted):
        distinct = list({id(rows): rows for rows, name in wanted if name == output}.values())
        logits = network.project(distinct[0] if len(distinct) == 1 else torch.cat(distinct), output)
        for rows, part in zip(distinct, logits.split([len(rows) for rows in distinct]), strict=True):
            made[id(rows), output] = part
    return made


def _rows_of(step: Step) -> Iterator[Rows]:
    """The teacher's own rows of a step."""
    yield step.teacher.image
    if "patch" in vars(step.teacher):  # made on first use; asking would copy every token
        yield step.teacher.patch
    if step.regions is not None:
        yield step.regions.teacher
