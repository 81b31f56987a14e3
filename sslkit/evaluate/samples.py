"""Data sets that protocols read, and draws of some of their samples."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from sslkit import draws
from sslkit.types import Sample


@runtime_checkable
class Samples(Protocol):
    """A map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Subset:
    """Some of a data set, in its order."""

    def __init__(self, name: str, samples: Samples, indices: list[int]):
        self.name, self.samples, self.indices = name, samples, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Sample:
        return self.samples[self.indices[i]]

    def place(self, i: int) -> str:
        """Where item `i` stands in the data set, such as `val[17]`."""
        return f"{self.name}[{self.indices[i]}]"


def drawn(name: str, samples: Samples, n: int | None, *, seed: int, use: str) -> Subset:
    """`n` samples drawn by `seed` for one use (all if None); a smaller draw is part of a larger one.

    Raises:
        ValueError: there are none, or fewer than `n`.
    """
    size = len(samples)
    if size == 0:
        raise ValueError(f"{name} has 0 images")
    if n is not None and n > size:
        raise ValueError(f"n_{name}={n}, but {name} has {size} images")
    order = draws.uniform(seed, 0, torch.tensor([0]), size, f"{use} {name}")[0].argsort(stable=True)
    return Subset(name, samples, sorted(order[:n].tolist()))
