"""Random numbers that depend on their key alone, so workers, ranks, order and restarts draw the same.

A draw is keyed by (seed, epoch, image index, view) and by what it is used for.
"""

from __future__ import annotations

import random
import zlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.types import Key

# splitmix64 (Steele, Lea, Flood 2014), its unsigned constants written as the signed integers torch has
_GAMMA = -7046029254386353131
_MIX_A, _MIX_B = -4658895280553007687, -7723592293110705685


def generator(key: Key, view: int, use: str) -> np.random.Generator:
    """A numpy generator for one view of one image, for work on the host."""
    return np.random.default_rng([key.seed, key.epoch, key.index, view, zlib.crc32(use.encode())])


def _mix(x: Int[Tensor, ...]) -> Int[Tensor, ...]:
    """The finaliser of splitmix64: every input bit changes every output bit with probability one half."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_A
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_B
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniform(seed: int, epoch: int, index: Int[Tensor, " b"], n: int, use: str) -> Float[Tensor, "b n"]:
    """`n` numbers in [0, 1) for each image, on the device of `index`."""
    state = index.long()
    for part in (seed, epoch, zlib.crc32(use.encode())):
        state = _mix(state * _GAMMA + part)
    counter = torch.arange(1, n + 1, device=index.device) * _GAMMA
    bits = _mix(state[:, None] + counter)
    return ((bits >> 40) & 0xFFFFFF).float() / 2**24


def distinct(seed: int, epoch: int, index: Int[Tensor, " b"], n: int, k: int, use: str) -> Int[Tensor, "b k"]:
    """`k` different whole numbers below `n` for each image, every set equally likely."""
    return uniform(seed, epoch, index, n, use).topk(k, dim=1).indices


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for the generators of a process, of which every step and rank has its own."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def start_generators(seed: int, step: int, rank: int) -> None:
    """Start the generators of torch, numpy and Python anew, as at every step (drop path, dropout, parts of a user).

    So their states are functions of the step: a resumed run agrees, and no checkpoint has to hold them.
    """
    number = step_seed(seed, step, rank)
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)
