"""Time and memory of looking for the neighbours of a batch among the rows of all images, and of writing its own rows.

    python experiments/benchmarks/search.py [--growth]

The direct form compares the batch with the whole table in one product, takes the largest of each row, and writes. The
others are the indexes of `PerImage`: `Exact` in blocks, `Flat` and `IVF` through faiss. Rows lie around as many
directions as a data set has classes, in some dimensions more than in others; the batch shows images of the table a
little changed. Memory is what the process holds itself (RssAnon of Linux). The program ends with an error if the
similarities found by `Exact` or `Flat` differ from those of the direct form by more than 1e-5; of `IVF` it tells how
many of the direct form's neighbours it finds. Lists are made, and the copy that faiss searches, once an epoch.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial

import faiss
import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.memories import IVF, Exact, Flat, PerImage
from sslkit.memories.indexes import Index
from sslkit.types import Queries

AT_ONCE = 10_000  # rows drawn at a time


class Step:
    """A table with a row for each of `images`, and a batch that is looked for there and then written."""

    def __init__(self, *, images: int, batch: int, dim: int, k: int, classes: int, seed: int):
        self.images, self.dim, self.k, self.seed = images, dim, k, seed
        faiss.omp_set_num_threads(torch.get_num_threads())
        draw = torch.Generator().manual_seed(seed)
        self.classes = F.normalize(torch.randn(classes, dim, generator=draw), dim=1)
        self.spread = torch.randn(16, dim, generator=draw) * dim**-0.5  # the dimensions in which a class is wide
        self.who = torch.randperm(images, generator=draw)[:batch]
        self.rooms: list[measure.Room] = []
        self.change = 0.3 * dim**-0.5 * torch.randn(batch, dim, generator=draw)

    def run(self) -> None:
        with measure.Room() as room:
            self.step()
        self.rooms.append(room)

    def step(self) -> None:
        raise NotImplementedError

    def found(self) -> tuple[Tensor, Tensor]:
        """Neighbours and similarities of the batch."""
        raise NotImplementedError

    def result(self) -> dict[str, np.ndarray]:
        index, similarity = self.found()
        room = self.rooms[0]
        facts = {"room": np.array([room.before, room.peak]), "prepared": np.array(self.prepared)}
        return {"index": index.numpy(), "similarity": similarity.numpy(), **facts}

    def drawn(self, first: int) -> Tensor:
        """Some rows of the table."""
        n = min(AT_ONCE, self.images - first)
        draw = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + first)
        which = torch.randint(len(self.classes), (n,), generator=draw)
        inside = 0.2 * torch.randn(n, len(self.spread), generator=draw) @ self.spread
        noise = 0.3 * self.dim**-0.5 * torch.randn(n, self.dim, generator=draw)
        return F.normalize(self.classes[which] + inside + noise, dim=1)

    def fill(self, rows: Tensor) -> None:
        """Put all rows into the table, and make the batch of some of them."""
        for first in range(0, self.images, AT_ONCE):
            part = self.drawn(first)
            rows[first : first + len(part)] = part
        self.queries = F.normalize(rows[self.who] + self.change, dim=1)


class Direct(Step):
    def __init__(self, **size: int):
        super().__init__(**size)
        self.prepared = [0.0, 0.0]
        self.rows = torch.empty(self.images, self.dim)
        self.fill(self.rows)

    @torch.no_grad()
    def step(self) -> None:
        self.similarity, self.index = (self.queries @ self.rows.T).topk(self.k, dim=1)
        self.rows[self.who] = self.queries

    def found(self) -> tuple[Tensor, Tensor]:
        return self.index, self.similarity


class Ours(Step):
    def __init__(self, index: Index, **size: int):
        super().__init__(**size)
        self.memory = PerImage(n_neighbours=self.k, n_images=self.images, dim=self.dim, index=index)
        state = self.memory.state_dict()
        self.fill(state["_rows"])
        state["_visited"].fill_(True)
        self.memory.load_state_dict(state)
        self.batch = replace(Queries.of(self.queries[None]), images=self.who)
        self.prepared = [seconds_of(partial(self.memory.finish, 0, needed=0))]
        self.prepared.append(seconds_of(partial(self.memory.search, self.queries[:1])))  # makes the copy of faiss

    def step(self) -> None:
        self.memory.push(self.batch)

    def found(self) -> tuple[Tensor, Tensor]:
        found = self.memory.neighbours(self.who)
        return found.index, found.similarity


def seconds_of(call: partial[object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(images: int, args: argparse.Namespace) -> str:
    size = {name: getattr(args, name) for name in ("batch", "dim", "classes", "seed")} | {"k": args.neighbours}
    indexes: dict[str, Index] = {"Exact": Exact(), "Flat": Flat()}
    for n_probe in args.probe:
        indexes[f"IVF, {n_probe} of {args.lists} lists"] = IVF(n_lists=args.lists, n_probe=n_probe)
    forms = {"direct": partial(Direct, images=images, **size)}
    forms |= {name: partial(Ours, index=index, images=images, **size) for name, index in indexes.items()}
    measured = measure.alternate(forms, args)
    direct = measured["direct"].result
    lines = []
    for name, m in measured.items():
        found, seconds = m.result, min(m.seconds)
        apart = np.abs(found["similarity"] - direct["similarity"]).max()
        if apart > 1e-5 and not name.startswith("IVF"):
            raise SystemExit(f"the forms disagree: similarities of {name} differ by up to {apart:.2g}")
        recall = (found["index"][:, :, None] == direct["index"][:, None]).any(axis=2).mean()
        times = min(measured["direct"].seconds) / seconds
        (held, more), (lists, copy) = found["room"], found["prepared"]
        numbers = f"{seconds:.3g} | {times:.3g} | {recall:.4f} | {held:,.0f} | {more:,.0f} | {lists:.2g} | {copy:.2g}"
        lines.append(f"| {images:,} images | {name} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--probe", type=int, nargs="+", default=[4, 16, 64], help="lists that IVF searches")
    args = parser.parse_args()
    sizes = [args.images // share for share in ((4, 2) if args.growth else ())]
    print(
        f"Search and push: {args.batch} of the images, one row each of width {args.dim}, {args.neighbours} neighbours."
    )
    print(f"{measure.facts(args)}.")
    tables = [compare(images, args) for images in [*sizes, args.images]]
    print("Exact and Flat find what the direct form finds.\n")
    print("| size | form | fastest s | times faster | recall | MB held | MB more in a step | s for lists | s to copy |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|", *tables, sep="\n")


if __name__ == "__main__":
    main()
