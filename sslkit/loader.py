"""Data set to batches, in an order that depends on the seed and the step alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sslkit import distributed
from sslkit.augmenters import Augmenter
from sslkit.errors import ConfigError
from sslkit.types import Batch, Key, Sample, View


class Images(Protocol):
    """A map-style data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


def order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits `n` images."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


class Sampler:
    """The images of each batch from batch `first` on: (epoch, index) pairs of this rank.

    A global batch is a run of the epoch's order and every rank takes its own stretch of it, so W ranks see together
    what one rank with the W-fold batch sees. The rest of an epoch that does not fill a step is dropped.

    Args:
        batch_size: images per rank and batch.
        accumulate: batches per optimiser step; an epoch is a whole number of steps.
    """

    def __init__(self, n: int, batch_size: int, *, seed: int, first: int, n_batches: int, accumulate: int = 1):
        self.n, self.batch_size, self.seed, self.first, self.n_batches = n, batch_size, seed, first, n_batches
        self.rank, self.world = distributed.rank(), distributed.world_size()
        self.per_epoch = accumulate * steps_per_epoch(n, batch_size * self.world * accumulate)

    def __len__(self) -> int:
        return self.n_batches - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, visits = -1, torch.empty(0)
        for i in range(self.first, self.n_batches):
            if i // self.per_epoch != epoch:
                epoch = i // self.per_epoch
                visits = order(self.n, self.seed, epoch)
            start = ((i % self.per_epoch) * self.world + self.rank) * self.batch_size
            yield [(epoch, index) for index in visits[start : start + self.batch_size].tolist()]


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
    """Augmented views by (epoch, index), a whole batch at a time."""

    def __init__(self, data: Images, augmenter: Augmenter, seed: int, n_global: int):
        self.data, self.augmenter, self.seed, self.n_global = data, augmenter, seed, n_global

    def __getitems__(self, places: list[tuple[int, int]]) -> Batch:
        items = [self.augmenter([self.data[i].image], Key(self.seed, epoch, i)) for epoch, i in places]
        return Batch(
            views=tuple(View.stack(views) for views in zip(*items, strict=True)),
            n_global=self.n_global,
            index=torch.tensor([i for _, i in places]),
            epoch=places[0][0],
            seed=self.seed,
        )


def batches(
    data: Images, augmenter: Augmenter, sampler: Sampler, *, n_global: int, n_workers: int, pin: bool
) -> Iterator[Batch]:
    """The sampler's batches, made by `n_workers` processes (0: by this one)."""
    loader = DataLoader(
        Views(data, augmenter, sampler.seed, n_global),
        batch_sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=n_workers,
        pin_memory=pin,
    )
    return iter(loader)


def _as_it_is(batch: object) -> object:
    return batch


def usual_workers() -> int:
    """One loader process for each processor that this rank may use but one, 8 at most."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, processors() // here - 1))


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
