"""What checkpoints of a run with a large memory cost its training: written behind it, before it goes on, or not at all.

    python experiments/benchmarks/saving.py [--growth]

A small CrIBo trains on embedded scenes while a queue of `--gib` stands beside it, full, pushed to in every step and in
every checkpoint; it is not searched, which would make steps longer and what a save costs smaller. Blocks of `--every`
steps are taken in turn in one process: without a save, again without one (what differs between the two is noise), with
a save by `sslkit.saving.Saver` at the start, and with one by `sslkit.checkpoint.save`. The block ends when the file is
on the disk, so all that a save takes is in its time. Beside seconds of the clock stand those of processors: where all
of these are busy they are what a save takes from the training, and other processes do not change them. `--growth` adds
saves without training at a sixteenth and a quarter of the size. The program ends with an error if what is saved is not
the state of the time of the save.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import measure
import torch

from sslkit import checkpoint, config, draws
from sslkit.loader import Views
from sslkit.memories import Queue
from sslkit.plan import plan
from sslkit.resume import Resumable
from sslkit.saving import Saver
from sslkit.train import gradients
from sslkit.types import Queries

PER_IMAGE, DIM, N_PLANES, AT_ONCE = 32, 384, 2, 256  # rows of an image, as a ViT-S with 32 clusters has; images a push


def full_queue(n_bytes: float) -> Queue:
    """A queue of that size that holds random rows everywhere."""
    n_images = round(n_bytes / (N_PLANES * PER_IMAGE * DIM * 4))
    at_once = min(AT_ONCE, n_images)
    queue = Queue(n_images, n_planes=N_PLANES, n_per_image=PER_IMAGE, dim=DIM)
    rows = torch.randn(N_PLANES, at_once * PER_IMAGE, DIM, generator=torch.Generator().manual_seed(0))
    while len(queue) < queue.capacity:
        queue.push(Queries.of(rows, [PER_IMAGE] * at_once))
        rows = rows.roll(1, dims=1)
    return queue


class Run:
    """A training whose every step changes the queue, too."""

    def __init__(self, queue: Queue, *, batch: int, seed: int):
        settings = config.load(["gin/cribo.gin"], [f"train.batch_size = {batch}", "train.n_steps = 1000000"])
        torch.manual_seed(seed)
        part = {name: settings.part("train", name) for name in ("method", "optimizer", "data", "augmenter")}
        method, optimizer, data, augmenter = part.values()
        method.bank = queue
        method.train()
        optimizer.build(method)
        self.length = plan(
            method, len(data), batch_size=batch, accumulate=1, n_epochs=None, n_steps=1_000_000, n_ranks=1
        )
        self.batch = Views(data, augmenter, seed, augmenter.n_global).first(batch)
        self.scaler, self.method, self.optimizer = torch.amp.GradScaler(enabled=False), method, optimizer
        self.pushed = Queries.of(torch.randn(N_PLANES, batch * PER_IMAGE, DIM), [PER_IMAGE] * batch)
        self.done = 0

    def take(self, n_steps: int) -> None:
        for _ in range(n_steps):
            now = self.length.at(self.done)
            draws.start_generators(0, self.done, 0)
            self.method.set_time(now)
            self.optimizer.set_time(now)
            cast = contextlib.nullcontext()
            outcomes, _ = gradients(self.method, self.optimizer, [self.batch], 1, cast, self.scaler)
            self.optimizer.inner.step()
            self.method.update(outcomes)
            self.method.bank.push(self.pushed)
            self.done += 1

    def state(self) -> dict[str, object]:
        return Resumable(self.method, self.optimizer, self.scaler, {}).state()


@dataclass
class Saves:
    """Seconds of each save: what the loop waits, by the clock and of its processor, and what the writing takes."""

    waits: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


class Watched(Saver):
    """The saver as it is, with a look at the clock; one file is kept."""

    def __init__(self, run_dir: Path):
        super().__init__(run_dir, self._note)
        self.saves = Saves()

    def save(self, step: int, state: dict[str, object]) -> None:  # type: ignore[override]
        self.began, busy = time.monotonic(), time.thread_time()
        super().save(step, state)
        self.saves.waits.append(time.monotonic() - self.began)
        self.saves.copies.append(time.thread_time() - busy)

    def _note(self, step: int) -> None:
        checkpoint.prune(self.run_dir, step, keep=1)
        self.saves.writes.append(time.monotonic() - self.began)
        self.saves.processor.append(time.thread_time())  # the thread is new for each file


@dataclass(frozen=True)
class Compared:
    """Seconds of the clock and of processors of each block; MB that the process holds with the copies and without."""

    blocks: dict[str, list[tuple[float, float]]]
    behind: Saves
    gib: float
    mb: tuple[float, float]


def compare(args: argparse.Namespace, folder: Path) -> Compared:
    run = Run(full_queue(args.gib * 2**30), batch=args.batch, seed=args.seed)
    run.take(3)
    held = measure.anonymous_mb()

    def at_once() -> None:
        checkpoint.save(folder, run.done, run.state())
        checkpoint.prune(folder, run.done, keep=1)

    with Watched(folder) as saver:
        forms: dict[str, Callable[[], None]] = {
            "none": lambda: None,
            "none, again": lambda: None,
            "behind the training": lambda: saver.save(run.done, run.state()),
            "before it goes on": at_once,
        }
        blocks: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        for turn in range(args.rounds):
            names = list(forms)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                marked = run.done, run.method.bank.n_pushes
                began, busy = time.monotonic(), time.process_time()
                forms[name]()
                run.take(args.every)
                saver.wait()
                blocks[name].append((time.monotonic() - began, time.process_time() - busy))
                print(f"round {turn + 1}, {name}: {blocks[name][-1]} s", flush=True)
                if not name.startswith("none"):
                    _refuse_another_state(folder, *marked)
        (path,) = checkpoint.paths(folder).values()
        return Compared(blocks, saver.saves, path.stat().st_size / 2**30, (held, measure.anonymous_mb()))


def _refuse_another_state(folder: Path, step: int, n_pushes: int) -> None:
    saved = torch.load(checkpoint.paths(folder)[step], mmap=True, weights_only=True)["method"]
    pushes, newest = saved["bank._extra_state"]["n_pushes"], int(saved["bank._born"].max()) + 1
    if not pushes == newest == n_pushes:
        raise SystemExit(f"the file of step {step} has {pushes} pushes and rows of {newest}, but {n_pushes} were made")


def saves_alone(gib: float, folder: Path, n: int = 3) -> tuple[float, Saves, float]:
    """The size of a state that is a full queue, its saves without training between them, and MB that they need."""
    state = {"bank": full_queue(gib * 2**30).state_dict()}
    with measure.Room() as room, Watched(folder) as saver:
        for step in range(n):
            saver.save(step, state)
            saver.wait()
    return gib, saver.saves, room.peak


@contextlib.contextmanager
def apart(where: Path) -> Iterator[tuple[ProcessPoolExecutor, Path]]:
    """A process and a folder that are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="saving_", dir=where))
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            yield process, folder
    finally:
        shutil.rmtree(folder)


def _saves_alone(threads: int, gib: float, folder: Path) -> tuple[float, Saves, float]:
    torch.set_num_threads(threads)
    return saves_alone(gib, folder)


def _compare(args: argparse.Namespace, folder: Path) -> Compared:
    torch.set_num_threads(args.threads)
    return compare(args, folder)


def costs(found: Compared, every: int) -> str:
    """Two lines for each form, of the clock and of processors; a cost is the difference to the block without a save."""
    lines = [
        f"The file has {found.gib:.2f} GiB; held are {found.mb[0]:,.0f} MB, with the copies {found.mb[1]:,.0f}.\n",
        "| saved | seconds of | a step | a block | a save costs (in each round) | % at 1000 steps | steps for 2 % |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for which, kind in enumerate(("the clock", "processors")):
        base = [block[which] for block in found.blocks["none"]]
        step = statistics.median(base) / every
        for name, blocks in found.blocks.items():
            taken = [block[which] for block in blocks]
            extra = [one - other for one, other in zip(taken, base, strict=True)]
            cost, each = statistics.median(extra), ", ".join(f"{x:.1f}" for x in extra)
            shares = f"{100 * cost / (1000 * step):.2f} | {max(0.0, cost / (0.02 * step)):.0f}"
            block = statistics.median(taken)
            lines.append(f"| {name} | {kind} | {step:.3f} | {block:.1f} | {cost:.1f} ({each}) | {shares} |")
    return "\n".join(lines)


def saves_row(name: str, saves: Saves, room: float | None) -> str:
    columns = []
    for taken in (saves.waits, saves.copies):
        first, *later = taken
        columns += [f"{first:.2f}", f"{statistics.median(later or [first]):.2f}"]
    columns += [f"{statistics.median(saves.writes):.1f}", f"{statistics.median(saves.processor):.1f}"]
    return f"| {name} | {' | '.join(columns)} | {'' if room is None else f'{room:,.0f}'} |"


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="of the queue's rows")
    parser.add_argument("--batch", type=int, default=8, help="images of a step")
    parser.add_argument("--every", type=int, default=100, help="steps of a block, of which each has one save")
    parser.add_argument("--where", type=Path, default=Path(tempfile.gettempdir()), help="the disk to write to")
    args = parser.parse_args()
    print(f"{measure.facts(args)}.\n")
    with apart(args.where) as (process, folder):
        found = process.submit(_compare, args, folder).result()
    sizes = [args.gib / 16, args.gib / 4] if args.growth else []
    rows = [saves_row(f"{args.gib:g}, while it trains", found.behind, None)]
    for gib in sizes:
        with apart(args.where) as (process, folder):
            size, saves, room = process.submit(_saves_alone, args.threads, gib, folder).result()
        rows.append(saves_row(f"{size:g}", saves, room))
    print(f"\n{costs(found, args.every)}\n")
    columns = (
        "the loop waits, s: first",
        "later",
        "of its processor: first",
        "later",
        "until written",
        "of the thread's",
    )
    print("| GiB |", " | ".join(columns), "| MB beyond the state |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|", *rows, sep="\n")


if __name__ == "__main__":
    main()
