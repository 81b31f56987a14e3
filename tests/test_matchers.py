"""Matchers against slow loops, and the invariants of cycle-consistent matching."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sslkit.contracts.inputs import push_of
from sslkit.matchers import Cycle, Nearest
from sslkit.memories import Queue
from sslkit.types import Queries

DIM = 4


def filled(*pushes, n_images=6, n_planes=2):
    draw = torch.Generator().manual_seed(1)
    queue = Queue(n_images, n_per_image=3, n_planes=n_planes, dim=DIM)
    for i, counts in enumerate(pushes):
        queue.push(push_of(counts, draw=draw, first_image=10 * i, n_planes=n_planes, dim=DIM))
    return queue


def similar(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def closest(row, others):
    return max(range(len(others)), key=lambda o: similar(row, others[o]))


MEMORIES = [filled([2, 1]), filled([3, 0, 2], [1, 1, 3]), filled([3, 3], [1, 2, 0], [3, 2, 1])]
MEMORIES += [filled([3, 3, 2], [2, 3], [0, 3, 3], [1, 1], n_images=4)]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(4))
def test_nearest_is_the_most_similar_entry_of_the_same_plane(memory, seed):
    queries = push_of([2, 1, 3], draw=torch.Generator().manual_seed(seed), dim=DIM)
    matches = Nearest()(queries, memory)
    slots = memory.slots()
    for plane in (0, 1):
        held, places = memory.rows(slots, plane=plane), memory.place(slots, plane=plane)
        for q, row in enumerate(queries.rows[plane]):
            best = closest(row, held)
            assert matches.index[plane, q] == slots[best]
            assert torch.equal(matches.rows[plane, q], held[best])
            assert torch.equal(matches.place[plane, q], places[best])
            assert matches.ids[plane, q] == memory.ids(slots)[best]
            assert matches.weight[plane, q] == 1


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(4))
def test_cycle_goes_to_the_memory_across_its_planes_and_back(memory, seed):
    queries = push_of([2, 1, 3, 3], draw=torch.Generator().manual_seed(seed), dim=DIM)
    matches = Cycle()(queries, memory)
    slots = memory.slots()
    for here, there in ((0, 1), (1, 0)):
        mine, across = memory.rows(slots, plane=here), memory.rows(slots, plane=there)
        for q, row in enumerate(queries.rows[here]):
            entry = closest(row, mine)
            back = closest(across[entry], queries.rows[there])
            assert matches.index[here, q] == slots[entry]
            assert torch.equal(matches.rows[here, q], mine[entry])  # the row of the query's own plane
            assert matches.weight[here, q] == float(back == q)


def test_the_slow_cycles_above_accept_some_matches_and_refuse_others():
    for memory in MEMORIES:
        draws = [torch.Generator().manual_seed(seed) for seed in range(4)]
        weight = [Cycle()(push_of([2, 1, 3, 3], draw=draw, dim=DIM), memory).weight for draw in draws]
        assert torch.stack(weight).unique().tolist() == [0, 1]


def test_cycle_keeps_only_queries_that_come_back():
    eye = torch.eye(3)
    memory = Queue(3, n_per_image=1, dim=3)
    memory.push(Queries.of(torch.stack([eye, eye[[0, 0, 2]]])))
    matches = Cycle()(Queries.of(torch.stack([eye, eye])), memory)
    assert matches.weight[0].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("counts", [[3, 3], [1, 0, 2, 3], [3, 3, 3, 3, 3]])
def test_presented_again_right_after_a_push_every_object_finds_itself_and_every_cycle_is_accepted(counts):
    memory = filled([3, 1, 2], [2, 2, 2])
    queries = push_of(counts, draw=torch.Generator().manual_seed(5), first_image=50, dim=DIM)
    memory.push(queries)
    matches = Cycle()(queries, memory)
    newest = memory.slots()[: sum(counts)]
    for plane in (0, 1):
        assert torch.equal(matches.index[plane], newest)
        assert torch.equal(matches.ids[plane], queries.images[queries.item])
        assert (matches.weight[plane] == 1).all()
        assert torch.equal(matches.rows[plane], queries.rows[plane])


def test_after_a_push_the_first_entries_are_the_pushed_objects_in_both_planes():
    memory = filled([3, 1, 2], [2, 2, 2])
    before = memory.rows(memory.slots(), plane=0)
    queries = push_of([2, 0, 3], draw=torch.Generator().manual_seed(5), dim=DIM)
    memory.push(queries)
    slots = memory.slots()
    for plane in (0, 1):
        assert torch.equal(memory.rows(slots[:5], plane=plane), queries.rows[plane])
        assert torch.equal(memory.place(slots[:5], plane=plane), queries.place[plane])
    assert torch.equal(memory.rows(slots[5:], plane=0), before[: len(memory) - 5])


@pytest.mark.parametrize("matcher", [Nearest(), Cycle()])
def test_swapping_the_planes_of_queries_and_memory_swaps_the_matches(matcher):
    draw = torch.Generator().manual_seed(2)
    held, queries = push_of([3, 2, 3], draw=draw, dim=DIM), push_of([2, 2], draw=draw, dim=DIM)
    memory, mirrored = (Queue(4, n_per_image=3, dim=DIM) for _ in range(2))
    memory.push(held)
    mirrored.push(replace(held, rows=held.rows.flip(0), place=held.place.flip(0)))
    there = matcher(replace(queries, rows=queries.rows.flip(0)), mirrored)
    here = matcher(queries, memory)
    assert torch.equal(there.index.flip(0), here.index)
    assert torch.equal(there.weight.flip(0), here.weight)
    assert torch.equal(there.rows.flip(0), here.rows)


def test_queries_of_weight_zero_match_with_weight_zero():
    queries = push_of([2, 2], draw=torch.Generator().manual_seed(3), dim=DIM)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0])
    matches = Nearest()(replace(queries, weight=weight), filled([2, 1]))
    assert torch.equal(matches.weight, weight.expand(2, -1))


def test_queries_of_weight_zero_catch_no_cycle_of_others():
    queries = push_of([2, 2, 2], draw=torch.Generator().manual_seed(3), dim=DIM)
    weight = torch.tensor([1.0, 0, 1, 0, 1, 1])
    kept = weight.bool()
    seen = set()
    for seed in range(10):
        memory = Queue(6, n_per_image=3, dim=DIM)
        memory.push(push_of([2, 1, 3, 2], draw=torch.Generator().manual_seed(seed), dim=DIM))
        among_idle = Cycle()(replace(queries, weight=weight), memory)
        alone = Cycle()(replace(queries, weight=weight).dropping_idle(), memory)
        assert torch.equal(among_idle.weight[:, kept], alone.weight)
        seen |= set(alone.weight.flatten().tolist())
    assert seen == {0.0, 1.0}


def test_a_cycle_is_refused_over_three_planes():
    queries = push_of([2], draw=torch.Generator(), n_planes=3, dim=DIM)
    with pytest.raises(ValueError, match="queries have 3"):
        Cycle()(queries, filled([2], n_planes=3))


def test_nearest_searches_as_many_planes_as_there_are():
    queries = push_of([2], draw=torch.Generator(), n_planes=3, dim=DIM)
    memory = filled([3, 3], n_planes=3)
    matches = Nearest()(queries, memory)
    assert matches.index.shape == (3, 2)
    for plane in range(3):
        assert torch.equal(matches.rows[plane], memory.rows(matches.index[plane], plane=plane))
