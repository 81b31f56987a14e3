"""The neighbours that every image had in the last epochs, in memory or in one file for each epoch."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit import files
from sslkit.errors import CheckpointError

PAIR = np.dtype([("similarity", "<f4"), ("index", "<i4")])  # as one number of 64 bits: in the order of the index
CHUNK = 512  # images pooled at a time: what is made of their neighbours stays in the cache
LAST = np.iinfo(np.int64).max  # sorts behind everything
LOW = 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class Candidates:
    """The images that were nearest to each image over a window of epochs, best first; equal ones by their number.

    `score` is the mean similarity over the window; an epoch counts as 0 for images that were not among its neighbours.
    An image that met fewer has index -1 and score -inf behind them.
    """

    index: Int[Tensor, "n k"]
    score: Float[Tensor, "n k"]


class History:
    """The nearest neighbours of every image at the end of each of the last `window` epochs, from epoch `first` on.

    Kept in memory or, after `keep_in`, in files `epoch_N.npy` that all processes of a machine map: an epoch that is
    finished never changes, so a checkpoint need not hold it.
    """

    def __init__(self, window: int, *, first: int = 0):
        self.window, self.first = window, first
        self.folder: Path | None = None
        self.held: dict[int, np.ndarray] = {}  # by epoch, (n, k) pairs
        self.sums: dict[int, int] = {}  # of the files that this run wrote, by epoch; a checkpoint has them
        self.mapped: dict[int, np.ndarray] = {}  # files that were found to be whole

    def keep_in(self, folder: Path) -> None:
        """Use files of that folder, which need not exist yet."""
        self.folder = folder

    def add(
        self, epoch: int, index: Int[Tensor, "n k"], similarity: Float[Tensor, "n k"], *, writes: bool = True
    ) -> None:
        """Keep a finished epoch; its file appears under its name only once it is whole and on the disk.

        Of several processes with the same folder one writes; the others know what it wrote.
        """
        pairs = np.empty(tuple(index.shape), dtype=PAIR)
        pairs["index"], pairs["similarity"] = index.cpu().numpy(), similarity.cpu().numpy()
        if self.folder is None:
            self.held[epoch] = pairs
            return
        self.sums[epoch] = zlib.crc32(pairs.tobytes())
        self.mapped.pop(epoch, None)
        if not writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.whole(self.path(epoch)) as file:
            np.save(file, pairs)
        for torn in self.folder.glob("epoch_*.partial*"):  # left by a process that was killed
            torn.unlink(missing_ok=True)

    def forget(self, before: int, *, writes: bool = True) -> None:
        """Drop the epochs before that one."""
        for kept in (self.held, self.sums, self.mapped):
            for epoch in [epoch for epoch in kept if epoch < before]:
                del kept[epoch]
        for epoch in self.epochs_on_disk() if writes else ():
            if epoch < before:
                self.path(epoch).unlink(missing_ok=True)

    def before(self, epoch: int, *, shape: tuple[int, int]) -> list[np.ndarray]:
        """The epochs of the window that ends with the one before `epoch`, oldest first, each of that shape (n, k).

        Raises:
            CheckpointError: one of them is missing or is not what it should be.
        """
        return [self._epoch(each, shape) for each in range(max(self.first, epoch - self.window), epoch)]

    def epochs_on_disk(self) -> list[int]:
        """Those that have a file, oldest first."""
        there = [] if self.folder is None or not self.folder.is_dir() else self.folder.iterdir()
        names = [re.fullmatch(r"epoch_(\d+)\.npy", p.name) for p in there]
        return sorted(int(name[1]) for name in names if name)

    def path(self, epoch: int) -> Path:
        """The file of an epoch, whether it exists or not."""
        assert self.folder is not None
        return self.folder / f"epoch_{epoch:06}.npy"

    def _epoch(self, epoch: int, shape: tuple[int, int]) -> np.ndarray:
        if epoch in self.held:
            return self.held[epoch]
        if self.folder is None:
            raise CheckpointError(f"the history has no epoch {epoch}, only {sorted(self.held) or 'none'}")
        if epoch not in self.mapped:
            self.mapped[epoch] = self._whole(epoch, shape)
        return self.mapped[epoch]

    def _whole(self, epoch: int, shape: tuple[int, int]) -> np.ndarray:
        """The file of an epoch, mapped, after it was read once."""
        path = self.path(epoch)
        mend = (
            f"put back a copy of it, or move away the checkpoints made after epoch {epoch}, so that the run goes on "
            f"from one before and makes it anew"
        )
        try:
            pairs: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        except FileNotFoundError as error:
            raise CheckpointError(f"the neighbours of epoch {epoch} are gone: there is no {path}; {mend}") from error
        except Exception as error:  # numpy reads the header as Python, and so raises whatever Python does
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path} cannot be read ({reason}); {mend}") from error
        if pairs.dtype != PAIR or pairs.shape != shape:
            wanted, found = (f"{x.shape} of {x.dtype}" for x in (np.empty(shape, PAIR), pairs))
            raise CheckpointError(f"{path} is of another run: it holds {found}, where {wanted} is needed; {mend}")
        if epoch in self.sums and zlib.crc32(pairs.tobytes()) != self.sums[epoch]:
            raise CheckpointError(f"{path} is not what this run wrote there; {mend}")
        return pairs

    def state(self) -> dict[str, Any]:
        """What is kept in memory, each pair as one number, and the check sums of what is in files."""
        held = {epoch: torch.from_numpy(pairs.view("<i8").astype(np.int64)) for epoch, pairs in self.held.items()}
        return {"held": held, "sums": dict(self.sums)}

    def load(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.held = {epoch: keys.cpu().numpy().astype("<i8").view(PAIR) for epoch, keys in state["held"].items()}
        self.sums, self.mapped = dict(state["sums"]), {}


def pool(epochs: Sequence[np.ndarray], n: int, k: int) -> Candidates:
    """The `k` best candidates of `n` images: similarities summed over the epochs and divided by their number.

    A few images are taken at a time, by as many threads as torch has, so the room is that of the answer.
    """
    index, score = np.full((n, k), -1), np.full((n, k), -np.inf, dtype=np.float32)

    def fill(start: int) -> None:
        some = slice(start, start + CHUNK)
        keys = np.concatenate([epoch[some].view("<i8") for epoch in epochs], axis=1, dtype=np.int64)
        index[some], score[some] = _pooled(keys, k, len(epochs))

    if epochs:
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for _ in threads.map(fill, range(0, n, CHUNK)):
                pass
    return Candidates(torch.from_numpy(index), torch.from_numpy(score))


def _pooled(
    keys: Int[np.ndarray, "m w"], k: int, n_epochs: int
) -> tuple[Int[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    """The same of images whose pairs stand in rows.

    Equal images stand together once the keys are sorted. A sum and its image then share a number of 64 bits as well,
    the larger sum before the smaller, so that the best are found by sorting these.
    """
    keys.sort(axis=1)
    image = keys >> 32
    starts = np.ones(keys.shape, dtype=bool)
    np.not_equal(image[:, 1:], image[:, :-1], out=starts[:, 1:])
    at = np.flatnonzero(starts)
    similarity = (keys & LOW).astype(np.uint32).view(np.float32)
    sums = np.add.reduceat(similarity.ravel(), at, dtype=np.float64) / n_epochs
    named, order = image.ravel()[at], _rising(0 - sums.astype(np.float32))  # 0 - 0 has no sign
    best = np.full(keys.shape, LAST)
    best.ravel()[at] = np.where(named >= 0, order.astype(np.int64) << 32 | named, LAST)
    best.partition(k - 1, axis=1)
    best = np.sort(best[:, :k], axis=1)
    nobody = best == LAST
    score = 0 - _rising_back((best >> 32).astype(np.int32))
    return np.where(nobody, -1, best & LOW), np.where(nobody, np.float32(-np.inf), score)


def _rising(x: Float[np.ndarray, "*m"]) -> Int[np.ndarray, "*m"]:
    """Whole numbers in the order of floats: those of negative floats fall with their bits."""
    bits = x.view(np.int32)
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _rising_back(order: Int[np.ndarray, "*m"]) -> Float[np.ndarray, "*m"]:
    """The floats again."""
    return np.where(order < 0, order ^ 0x7FFFFFFF, order).astype(np.int32).view(np.float32)
