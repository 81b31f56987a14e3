"""Time and memory of comparing every position of an image: of its head, and of the loss between scores.

    python experiments/benchmarks/positions.py

Rows are all positions of two views of every image of a batch. The head is BYOL's projector and predictor, forward and
backward: all rows at once, all at once and computed again for the gradient (torch.utils.checkpoint), and some rows at a
time. The loss is self-distillation of every position against the other view's row: in the direct form, which writes a
distribution for each pair, and sslkit's. All forms see the same rows and weights. Memory is what the process holds
itself (RssAnon of Linux, with an allocator that gives every tensor back), and what is kept between the two directions.

The program ends with an error if output, gradients or running statistics differ from the first form's by more than
0.3 % of their norm, but for running statistics under checkpointing, which moves them twice. Rounding alone makes
gradients differ by a tenth of a per cent, as it puts one unit in a million on the other side of ReLU; the tests compare
in float64, to twelve digits.
"""

from __future__ import annotations

import os
import statistics
from functools import partial

import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sslkit.heads import Projector
from sslkit.losses import Distillation
from sslkit.types import Pairs, Rows

CLOSE = 3e-3
VIEWS = 2


class Head:
    """A head and rows that pass it, with the slope of what comes out."""

    def __init__(self, rows_at_a_time: int | None, *, n: int, dim: int, hidden: int, out: int, seed: int):
        torch.manual_seed(seed)
        self.head = Projector(
            {"patch": out}, dim=dim, hidden=hidden, predictor_hidden=hidden, rows_at_a_time=rows_at_a_time
        )
        self.rows = torch.randn(n, dim).requires_grad_()
        self.slope = torch.randn(n, out)

    def out(self) -> Tensor:
        return self.head(self.rows, "patch")

    def run(self) -> None:
        self.head.zero_grad()
        self.rows.grad = None
        with measure.Room() as room:
            with Held((self.rows, *self.head.parameters())) as held:
                out = self.out()
            out.backward(self.slope)
        self.memory, self.seen = np.array([room.peak, held.mb]), out.detach()

    def result(self) -> dict[str, np.ndarray]:
        running = [x for name, x in self.head.named_buffers() if "running" in name]
        return {
            "output": self.seen.numpy(),
            "gradient of the rows": self.rows.grad.numpy(),
            "gradient of the weights": torch.cat([p.grad.flatten() for p in self.head.parameters()]).numpy(),
            "running statistics": torch.cat(running).numpy(),
            "memory": self.memory,
        }


class Checkpointed(Head):
    def out(self) -> Tensor:
        return checkpoint(self.head, self.rows, "patch", use_reentrant=False)


class Loss:
    """Scores of every position and of the images, each position against its image in the other view."""

    def __init__(self, *, images: int, positions: int, prototypes: int, seed: int):
        draw = torch.Generator().manual_seed(seed)
        n = VIEWS * images * positions
        self.student = torch.randn(n, prototypes, generator=draw).mul_(0.1).requires_grad_()
        self.teacher = torch.randn(VIEWS * images, prototypes, generator=draw).mul_(0.1)
        i = torch.arange(n)
        j = (i // positions + images) % (VIEWS * images)
        self.pairs = Pairs(Rows.of(torch.zeros(n, 0)), Rows.of(torch.zeros(len(j), 0)), i, j, torch.full((n,), 1 / n))

    def loss(self) -> Tensor:
        return Distillation()(self.student, self.teacher, self.pairs)

    def run(self) -> None:
        self.student.grad = None
        with measure.Room() as room:
            with Held((self.student,)) as held:
                loss = self.loss()
            loss.backward()
        self.memory, self.seen = np.array([room.peak, held.mb]), loss.detach()

    def result(self) -> dict[str, np.ndarray]:
        gradient = self.student.grad.numpy()
        return {"output": self.seen.numpy(), "gradient of the scores": gradient, "memory": self.memory}


class Direct(Loss):
    def loss(self) -> Tensor:
        q = F.softmax(self.teacher[self.pairs.j] / 0.04, dim=-1)
        log_p = F.log_softmax(self.student[self.pairs.i] / 0.1, dim=-1)
        return -(self.pairs.weight * (q * log_p).sum(dim=-1)).sum()


class Held:
    """MB that a block keeps for the gradient, without tensors that are there anyway."""

    def __init__(self, there: tuple[Tensor, ...]):
        self.kept: dict[int, int] = {}
        self.there = {x.untyped_storage().data_ptr() for x in there}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)

    def _pack(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in self.there:
            self.kept[storage.data_ptr()] = storage.nbytes()
        return x

    def __enter__(self) -> Held:
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    @property
    def mb(self) -> float:
        return sum(self.kept.values()) / 1e6


def table(what: str, measured: dict[str, measure.Measured]) -> list[str]:
    """A line for each form, ratios against the first; it ends the program if a form comes to something else."""
    lines, first = [], next(iter(measured.values()))
    for name, m in measured.items():
        for key, value in m.result.items():
            expected, is_moved_twice = first.result[key], key == "running statistics" and name == "checkpoint"
            apart = np.linalg.norm(value - expected) / np.linalg.norm(expected)
            if key != "memory" and not is_moved_twice and apart > CLOSE:
                raise SystemExit(f"the forms disagree: {key} of {name}, by {apart:.2g}")
        seconds = statistics.median(m.seconds)
        time = f"{seconds:.3g} | {seconds / statistics.median(first.seconds):.2f}"
        beyond, held = m.result["memory"]
        memory = f"{beyond:,.0f} | {beyond / max(first.result['memory'][0], 1.0):.2f} | {held:,.0f}"
        lines.append(f"| {what}, {name} | {time} | {memory} |")
    return lines


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--positions", type=int, default=49, help="of each view")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--out", type=int, default=256)
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[256, 1024], help="rows that pass together")
    parser.add_argument("--prototypes", type=int, default=4096)
    args = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # of the processes that measure
    n = VIEWS * args.images * args.positions
    size = dict(n=n, dim=args.dim, hidden=args.hidden, out=args.out, seed=args.seed)
    heads = {"all at once": partial(Head, None, **size), "checkpoint": partial(Checkpointed, None, **size)}
    heads |= {f"{k} rows at a time": partial(Head, k, **size) for k in args.at_a_time}
    scores = dict(images=args.images, positions=args.positions, prototypes=args.prototypes, seed=args.seed)
    losses = {"direct": partial(Direct, **scores), "sslkit": partial(Loss, **scores)}
    print(f"{n:,} rows through {args.dim} -> {args.hidden} -> {args.out} -> {args.hidden} -> {args.out}.")
    print(f"{measure.facts(args)}.")
    lines = table("head", measure.alternate(heads, args)) + table("loss", measure.alternate(losses, args))
    print("The same outputs and gradients.\n")
    print("| form | s, forward and backward | times as long | MB beyond the inputs | times as much | MB held between |")
    print("|---|--:|--:|--:|--:|--:|", *lines, sep="\n")


if __name__ == "__main__":
    main()
