"""Data set to batches, in an order that depends on the seed and the step alone."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Int
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sslkit import distributed, interruption, rendezvous
from sslkit.augmenters import Augmenter
from sslkit.errors import ConfigError, WorkerLost
from sslkit.types import Batch, Key, Sample, View


class Images(Protocol):
    """A map-style data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


def order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits `n` images."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


@dataclass(frozen=True)
class Place:
    """One item of a batch: an image in an epoch, and the image that views of source 1 show."""

    epoch: int
    index: int
    partner: int


class Sampler:
    """The items of each batch from batch `first` on, of this rank. An image is its own partner unless a table says so.

    A global batch is a run of the epoch's order and every rank takes its own stretch of it, so W ranks see together
    what one rank with the W-fold batch sees. The rest of an epoch that does not fill a step is dropped.

    Args:
        batch_size: images per rank and batch.
        accumulate: batches per optimiser step; an epoch is a whole number of steps.
        partners: the partner of every image.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        first: int,
        n_batches: int,
        accumulate: int = 1,
        partners: Int[Tensor, " n"] | None = None,
    ):
        self.n, self.batch_size, self.seed, self.first, self.n_batches = n, batch_size, seed, first, n_batches
        self.partners = torch.arange(n) if partners is None else partners
        self.rank, self.world = distributed.rank(), distributed.world_size()
        self.per_epoch = accumulate * steps_per_epoch(n, batch_size * self.world * accumulate)

    def __len__(self) -> int:
        return self.n_batches - self.first

    def epochs(self) -> Iterator[int]:
        """The epochs that have a batch."""
        return iter(range(self.first // self.per_epoch, -(-self.n_batches // self.per_epoch)))

    def within(self, epoch: int, partners: Int[Tensor, " n"]) -> Sampler:
        """The batches of one epoch, with partners of its own."""
        part = copy.copy(self)
        part.first = max(self.first, epoch * self.per_epoch)
        part.n_batches = min(self.n_batches, (epoch + 1) * self.per_epoch)
        part.partners = partners
        return part

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, visits = -1, torch.empty(0)
        for i in range(self.first, self.n_batches):
            if i // self.per_epoch != epoch:
                epoch = i // self.per_epoch
                visits = order(self.n, self.seed, epoch)
            start = ((i % self.per_epoch) * self.world + self.rank) * self.batch_size
            images = visits[start : start + self.batch_size]
            pairs = zip(images.tolist(), self.partners[images].tolist(), strict=True)
            yield [Place(epoch, index, partner) for index, partner in pairs]


def steps_per_epoch(n: int, step_size: int) -> int:
    """Optimiser steps in one pass over `n` images.

    Raises:
        ConfigError: the data set does not fill one step.
    """
    if n < step_size:
        raise ConfigError(
            f"the data set has {n} images, but one step takes {step_size} (batch_size x ranks x accumulate)"
        )
    return n // step_size


class Views(Dataset[Batch]):
    """Augmented views of items, a whole batch at a time."""

    def __init__(self, data: Images, augmenter: Augmenter, seed: int, n_global: int):
        self.data, self.augmenter, self.seed, self.n_global = data, augmenter, seed, n_global

    def __getitems__(self, places: list[Place]) -> Batch:
        samples = [self.data[place.index] for place in places]
        views = [
            self.augmenter(self._sources(sample, place), Key(self.seed, place.epoch, place.index))
            for sample, place in zip(samples, places, strict=True)
        ]
        return Batch(
            views=tuple(View.stack(kind) for kind in zip(*views, strict=True)),
            n_global=self.n_global,
            index=torch.tensor([place.index for place in places]),
            epoch=places[0].epoch,
            seed=self.seed,
            partner=torch.tensor([place.partner for place in places]),
            label=torch.tensor([-1 if sample.label is None else sample.label for sample in samples]),
        )

    def _sources(self, sample: Sample, place: Place) -> list[Image]:
        """The pictures of an item; a partner is read only if a view shows it."""
        n = self.augmenter.n_sources
        if n == 1 or place.partner == place.index:
            return [sample.image] * n
        return [sample.image, self.data[place.partner].image]

    def first(self, n: int) -> Batch:
        """Views of the first `n` images."""
        return self.of(range(min(n, len(self.data))))

    def of(self, images: Iterable[int]) -> Batch:
        """Views of some images, each its own partner, as epoch 0 sees them."""
        return self.__getitems__([Place(0, i, i) for i in images])


def batches(
    data: Images,
    augmenter: Augmenter,
    sampler: Sampler,
    *,
    n_workers: int,
    pin: bool,
    partners: Callable[[int], Int[Tensor, " n"]] | None = None,
) -> Generator[Batch]:
    """The sampler's batches, made by `n_workers` processes (0: by this one).

    Args:
        partners: of all images in an epoch, asked for when its first batch is; workers then live for one epoch.
    """
    views = Views(data, augmenter, sampler.seed, augmenter.n_global)
    # a generator of its own: a loader draws a number when it starts, which is in the middle of a run where one goes on
    own = torch.Generator().manual_seed(sampler.seed)
    load = partial(
        DataLoader,
        views,
        collate_fn=_as_it_is,
        num_workers=n_workers,
        pin_memory=pin,
        generator=own,
        worker_init_fn=_as_a_worker,
    )
    if partners is None:
        yield from load(batch_sampler=sampler)
        return
    for epoch in sampler.epochs():
        yield from load(batch_sampler=sampler.within(epoch, partners(epoch)))


@contextmanager
def deaths_named() -> Iterator[None]:
    """Say it when a process that loads data has died; torch raises that wherever this process happens to be.

    Raises:
        WorkerLost: instead of what torch says.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerLost(
            f"rank {distributed.rank()} has lost a process that loads its data (out of memory?): "
            f"{str(error).splitlines()[0]}; the same command goes on from the newest checkpoint"
        ) from error


def _as_it_is(batch: object) -> object:
    return batch


def _as_a_worker(number: int) -> None:
    interruption.left_to_the_run()


def usual_workers() -> int:
    """One loader process for each processor that this rank may use but one, 8 at most."""
    given = os.environ.get("SLURM_CPUS_PER_TASK") if "SLURM_STEP_ID" in os.environ else None
    own = min(int(given), rendezvous.processors()) if given else rendezvous.processors() // rendezvous.here().local_size
    return max(1, min(8, own - 1))
