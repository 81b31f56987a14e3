"""Keyed random numbers: what they depend on, what they do not, and how they are spread."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit import draws
from sslkit.types import Key

MASK = 2**64 - 1


def splitmix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def in_whole_numbers(seed, epoch, index, n, use):
    """The definition, in unsigned integers of Python."""
    gamma, state = 0x9E3779B97F4A7C15, index & MASK
    for part in (seed, epoch, zlib.crc32(use.encode())):
        state = splitmix((state * gamma + part) & MASK)
    return [(splitmix((state + i * gamma) & MASK) >> 40) / 2**24 for i in range(1, n + 1)]


@given(st.integers(0, 2**62), st.integers(0, 10**6), st.integers(0, 2**40), st.text(max_size=8))
def test_draws_are_splitmix_of_their_key(seed, epoch, index, use):
    drawn = draws.uniform(seed, epoch, torch.tensor([index]), 4, use)
    assert drawn[0].tolist() == in_whole_numbers(seed, epoch, index, 4, use)


def test_an_image_draws_the_same_in_any_company_and_order():
    index = torch.tensor([5, 0, 123456, 7])
    together = draws.uniform(1, 2, index, 6, "x")
    for i, image in enumerate(index.tolist()):
        assert torch.equal(draws.uniform(1, 2, torch.tensor([image]), 6, "x")[0], together[i])
    assert torch.equal(draws.uniform(1, 2, index.flip(0), 6, "x"), together.flip(0))


def test_fewer_draws_are_the_first_of_more():
    index = torch.arange(3)
    assert torch.equal(draws.uniform(0, 0, index, 9, "x")[:, :4], draws.uniform(0, 0, index, 4, "x"))


def test_every_part_of_the_key_changes_the_draw():
    keys = itertools.product(range(4), range(4), range(4), ["clusters", "partners"])
    drawn = {tuple(draws.uniform(s, e, torch.tensor([i]), 2, use)[0].tolist()) for s, e, i, use in keys}
    assert len(drawn) == 4 * 4 * 4 * 2


def test_draws_do_not_touch_the_generator_of_torch():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draws.distinct(0, 0, torch.arange(5), 10, 3, "x")
    assert torch.equal(torch.rand(3), expected)


def test_uniform_draws_fill_the_interval_evenly_and_do_not_go_together():
    drawn = draws.uniform(0, 0, torch.arange(4000), 5, "x").double()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, bins=20, min=0, max=1)
    chi_squared = ((counts - 1000) ** 2 / 1000).sum().item()
    assert chi_squared < 44  # of 19 degrees of freedom: one in a thousand is above 43.8
    together = torch.corrcoef(drawn.T) - torch.eye(5).double()
    assert together.abs().max() < 4 / 4000**0.5
    neighbours = torch.corrcoef(torch.stack([drawn[:-1, 0], drawn[1:, 0]]))[0, 1]
    assert neighbours.abs() < 4 / 4000**0.5


@pytest.mark.parametrize("n, k", [(1, 1), (5, 2), (7, 7), (392, 32)])
def test_distinct_draws_are_distinct_and_below_n(n, k):
    drawn = draws.distinct(3, 1, torch.arange(50), n, k, "clusters")
    assert drawn.shape == (50, k)
    assert drawn.min() >= 0
    assert drawn.max() < n
    assert all(len(set(row)) == k for row in drawn.tolist())


def test_every_set_of_distinct_draws_is_equally_likely():
    drawn = draws.distinct(0, 0, torch.arange(10_000), 5, 2, "x").sort(dim=1).values
    counts = torch.bincount(drawn[:, 0] * 5 + drawn[:, 1])
    counts = counts[counts > 0].double()
    assert len(counts) == 10
    assert ((counts - 1000) ** 2 / 1000).sum() < 28  # of 9 degrees of freedom: one in a thousand is above 27.9


def test_a_host_generator_repeats_itself_and_differs_by_every_part_of_its_key():
    def first(*, seed=0, epoch=0, index=0, view=0, use="crop"):
        return draws.generator(Key(seed, epoch, index), view, use).random()

    changes = [{}, dict(seed=1), dict(epoch=1), dict(index=1), dict(view=1), dict(use="flip")]
    drawn = [first(**change) for change in changes]
    assert len(set(drawn)) == len(changes)
    assert drawn == [first(**change) for change in changes]


def test_step_seeds_are_whole_numbers_that_torch_takes_and_differ_by_step_and_rank():
    seeds = {draws.step_seed(s, step, rank) for s in range(3) for step in range(20) for rank in range(4)}
    assert len(seeds) == 3 * 20 * 4
    for seed in seeds:
        assert 0 <= seed < 2**63
        torch.Generator().manual_seed(seed)
    assert draws.step_seed(1, 2, 3) == int(np.random.SeedSequence([1, 2, 3]).generate_state(1, np.uint64)[0] >> 1)


def test_draws_work_without_values():
    assert draws.distinct(0, 0, torch.zeros(2, dtype=torch.long, device="meta"), 9, 4, "x").shape == (2, 4)
