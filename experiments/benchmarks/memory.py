"""Time and memory of finding regions in a bank of earlier images, both ways with the cycle test, and of adding them.

    python experiments/benchmarks/memory.py [--growth]

The direct form keeps the bank packed, newest image first: it normalises both planes whole, writes the similarity of
every query to every row, and shifts the whole bank to add the new rows in front. The bare products are the similarities
alone, in blocks, without normalising or taking a maximum: no exact search of a plain matrix does less. All forms see
the same bank and queries. The program ends with an error if rows found, acceptances or the bank afterwards differ
between the direct form and sslkit's.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from functools import partial

import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.matchers import Cycle
from sslkit.memories import Queue
from sslkit.types import Matches, Queries

AT_ONCE = 25  # images drawn, and pushed, at a time


class Step:
    """A full bank of `images`, and a batch whose regions are looked for there, in both planes, and then join it."""

    def __init__(self, *, images: int, batch: int, per_image: int, dim: int, block: int, seed: int):
        if batch > images:
            raise ValueError(f"batch={batch}, but the bank holds only {images} images")
        self.images, self.per_image, self.dim, self.block, self.seed = images, per_image, dim, block, seed
        draw = torch.Generator().manual_seed(seed)
        counts = torch.randint(per_image * 9 // 16, per_image + 1, (batch,), generator=draw).tolist()  # 25 of 32
        models = torch.randint(images, (batch,), generator=draw).tolist()
        rows = torch.cat([self.of_image(i)[:, :n] for i, n in zip(models, counts, strict=True)], dim=1)
        rows += 0.2 * torch.randn(rows.shape, generator=draw)
        rows[1, ::3] = rows[1, ::3].roll(1, dims=0)  # views that show different things, which the cycle rejects
        self.queries = Queries.of(rows, counts)

    def of_image(self, image: int) -> Tensor:
        """The rows that the bank holds of one image."""
        place = image % AT_ONCE * self.per_image
        return self.drawn(image - image % AT_ONCE)[:, place : place + self.per_image]

    def drawn(self, first: int) -> Tensor:
        """The rows of `AT_ONCE` images; the planes of a row are alike, as two views of a region are."""
        n = min(AT_ONCE, self.images - first) * self.per_image
        draw = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + first)
        rows = torch.randn(2, n, self.dim, generator=draw)
        rows[1] += rows[0]
        return rows

    def chunks(self) -> Iterator[Tensor]:
        """What the bank holds, in the order of its pushes; the first image of a push counts as its newest."""
        return (self.drawn(first) for first in range(0, self.images, AT_ONCE))

    def packed(self) -> Tensor:
        """The bank as one tensor, newest image first."""
        bank = torch.empty(2, self.images * self.per_image, self.dim)
        end = bank.shape[1]
        for rows in self.chunks():
            bank[:, end - rows.shape[1] : end] = rows
            end -= rows.shape[1]
        return bank


class Direct(Step):
    def __init__(self, **size: int):
        super().__init__(**size)
        self.bank = self.packed()
        self.counts = torch.full((self.images,), self.per_image)

    @torch.no_grad()
    def run(self) -> None:
        rows, live = self.queries.rows, int(self.counts.sum())
        bank = F.normalize(self.bank[:, :live], dim=-1)
        queries = F.normalize(rows, dim=-1)
        found, kept = [], []
        for here, there in ((0, 1), (1, 0)):
            index = (queries[here] @ bank[here].T).argmax(dim=1)
            back = (bank[there, index] @ queries[there].T).argmax(dim=1)
            found.append(index)
            kept.append(back == torch.arange(len(back)))
        self.rows_found = torch.stack([self.bank[plane, index] for plane, index in enumerate(found)])
        self.kept = torch.stack(kept)
        del bank
        n_images, n = len(self.queries.images), rows.shape[1]
        self.counts = torch.cat([torch.bincount(self.queries.item, minlength=n_images), self.counts])[: self.images]
        self.bank = torch.cat([rows, self.bank[:, : self.bank.shape[1] - n]], dim=1)

    def result(self) -> dict[str, np.ndarray]:
        live = self.bank[:, : int(self.counts.sum())]
        return summary(self.rows_found, self.kept, live.split(4096, dim=1))


class Ours(Step):
    matches: Matches

    def __init__(self, **size: int):
        super().__init__(**size)
        self.queue = Queue(self.images, n_per_image=self.per_image, dim=self.dim)
        for rows in self.chunks():
            self.queue.push(Queries.of(rows, [self.per_image] * (rows.shape[1] // self.per_image)))

    def run(self) -> None:
        self.matches = Cycle()(self.queries, self.queue)
        self.queue.push(self.queries)

    def result(self) -> dict[str, np.ndarray]:
        live = self.queue.slots().split(4096)
        bank = (torch.stack([self.queue.rows(slots, plane=plane) for plane in (0, 1)]) for slots in live)
        return summary(self.matches.rows, self.matches.weight, bank)


class Bare(Step):
    def __init__(self, **size: int):
        super().__init__(**size)
        self.bank = self.packed()

    @torch.no_grad()
    def run(self) -> None:
        for queries, plane in zip(self.queries.rows, self.bank, strict=True):
            for rows in plane.split(self.block):
                queries @ rows.T

    def result(self) -> dict[str, np.ndarray]:
        return {}


def summary(rows: Tensor, accepted: Tensor, bank: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """What both forms must agree on: the bank, newest image first, as a digest of every so many rows."""
    digests = [hashlib.blake2b(part.numpy().tobytes(), digest_size=16).digest() for part in bank]
    return {
        "rows found": rows.flatten(0, 1).numpy(),
        "acceptances": accepted.bool().flatten().numpy(),
        "parts of the bank": np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16),
    }


def compare(images: int, args: argparse.Namespace) -> str:
    size = {name: getattr(args, name) for name in ("batch", "per_image", "dim", "block", "seed")}
    forms = {"direct": Direct, "sslkit": Ours, "bare products": Bare}
    measured = measure.alternate({name: partial(form, images=images, **size) for name, form in forms.items()}, args)
    direct, ours = measured["direct"].result, measured["sslkit"].result
    if wrong := measure.differences(direct, ours):
        raise SystemExit("the forms disagree: " + "; ".join(wrong))
    accepted = ours["acceptances"]
    print(f"{images} images: {accepted.sum()} of {len(accepted)} matches accepted.")
    return measure.rows(f"{images:,} images", measured)


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--images", type=int, default=25_000, help="images that the bank holds")
    parser.add_argument("--per-image", type=int, default=32, help="rows of each; an image of the batch has some fewer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--block", type=int, default=4096, help="rows at a time in the bare products")
    args = parser.parse_args()
    sizes = [args.images // share for share in ((4, 2) if args.growth else ())]
    print(f"Search in both directions, cycle test and push: {args.batch} images, two planes, width {args.dim}.")
    print(f"{measure.facts(args)}.")
    tables = [compare(images, args) for images in [*sizes, args.images]]
    print("Same rows found, same acceptances, same bank.\n")
    print(measure.HEADER, *tables, sep="\n")


if __name__ == "__main__":
    main()
