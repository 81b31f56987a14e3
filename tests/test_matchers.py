"""Matchers against slow loops over the queries of a step, and the invariants of those that go back and forth."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sslkit.contracts.inputs import push_of
from sslkit.matchers import Adaptive, Cycle, Mutual, Nearest, SampledCycle, Threshold, Uniform
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


@pytest.mark.parametrize("matcher", [Cycle(), SampledCycle(n_candidates=1), Mutual()], ids=repr)
@pytest.mark.parametrize("counts", [[3, 3], [1, 0, 2, 3], [3, 3, 3, 3, 3]])
def test_presented_again_right_after_a_push_every_object_finds_itself_and_every_match_is_accepted(counts, matcher):
    memory = filled([3, 1, 2], [2, 2, 2])
    queries = push_of(counts, draw=torch.Generator().manual_seed(5), first_image=50, dim=DIM)
    memory.push(queries)
    matches = matcher(queries, memory)
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


EVERY = [Nearest(), Cycle(), Mutual(), Threshold(least=0.5), Uniform(), SampledCycle(), Adaptive(temperature=0.3)]


@pytest.mark.parametrize("matcher", EVERY, ids=repr)
def test_swapping_the_planes_of_queries_and_memory_swaps_the_matches(matcher):
    draw = torch.Generator().manual_seed(2)
    held, queries = push_of([3, 2, 3], draw=draw, dim=DIM), push_of([2, 2], draw=draw, dim=DIM)
    memory, mirrored = (Queue(4, n_per_image=3, dim=DIM) for _ in range(2))
    memory.push(held)
    mirrored.push(replace(held, rows=held.rows.flip(0), place=held.place.flip(0)))
    there = matcher(replace(queries, rows=queries.rows.flip(0), chance=queries.chance.flip(0)), mirrored)
    here = matcher(queries, memory)
    assert torch.equal(there.index.flip(0), here.index)
    assert torch.equal(there.weight.flip(0), here.weight)
    assert torch.equal(there.rows.flip(0), here.rows)


def test_queries_of_weight_zero_match_with_weight_zero():
    queries = push_of([2, 2], draw=torch.Generator().manual_seed(3), dim=DIM)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0])
    matches = Nearest()(replace(queries, weight=weight), filled([2, 1]))
    assert torch.equal(matches.weight, weight.expand(2, -1))


@pytest.mark.parametrize("matcher", [Cycle(), SampledCycle(), Mutual()], ids=repr)
def test_queries_of_weight_zero_catch_no_match_of_others(matcher):
    queries = push_of([2, 2, 2], draw=torch.Generator().manual_seed(3), dim=DIM)
    weight = torch.tensor([1.0, 0, 1, 0, 1, 1])
    kept = weight.bool()
    seen = set()
    for seed in range(10):
        memory = Queue(6, n_per_image=3, dim=DIM)
        memory.push(push_of([2, 1, 3, 2], draw=torch.Generator().manual_seed(seed), dim=DIM))
        among_idle = matcher(replace(queries, weight=weight), memory)
        alone = matcher(replace(queries, weight=weight).dropping_idle(), memory)
        assert torch.equal(among_idle.index[:, kept], alone.index)
        assert torch.equal(among_idle.weight[:, kept], alone.weight)
        seen |= set(alone.weight.flatten().tolist())
    assert seen == {0.0, 1.0}


@pytest.mark.parametrize("matcher", [Cycle(), SampledCycle(), Adaptive()], ids=repr)
def test_what_goes_between_two_planes_is_refused_over_three(matcher):
    queries = push_of([2], draw=torch.Generator(), n_planes=3, dim=DIM)
    with pytest.raises(ValueError, match=f"{type(matcher).__name__} goes between two planes, but the queries have 3"):
        matcher(queries, filled([2], n_planes=3))


@pytest.mark.parametrize("matcher", [Nearest(), Threshold(least=0.0), Uniform(), Mutual()], ids=repr)
@pytest.mark.parametrize("n_planes", [1, 3])
def test_the_others_search_as_many_planes_as_there_are(matcher, n_planes):
    queries = push_of([2], draw=torch.Generator(), n_planes=n_planes, dim=DIM)
    memory = filled([3, 3], n_planes=n_planes)
    matches = matcher(queries, memory)
    assert matches.index.shape == (n_planes, 2)
    for plane in range(n_planes):
        assert torch.equal(matches.rows[plane], memory.rows(matches.index[plane], plane=plane))


# slow loops over the queries


def asked(seed):
    return push_of([2, 1, 3, 3], draw=torch.Generator().manual_seed(seed), dim=DIM)


def ranked(row, held, slots):
    """Similarity and index of all entries, the most similar first."""
    return sorted(((similar(row, other), int(slot)) for other, slot in zip(held, slots, strict=True)), reverse=True)


def drawn(options, temperature, chance):
    """One of (similarity, name), where the sum of their softmax passes the chance."""
    mass = [math.exp((s - options[0][0]) / temperature) for s, _ in options]
    passed = [sum(mass[: i + 1]) / sum(mass) for i in range(len(mass))]
    assert min(abs(p - chance) for p in passed) > 1e-5  # or rounding would decide
    return next(name for p, (_, name) in zip(passed, options, strict=True) if p > chance)


def in_turn(memory, seed):
    """Each query with its plane, its entries from the most similar on, its number and the chance it has."""
    queries, slots = asked(seed), memory.slots()
    for plane in (0, 1):
        held = memory.rows(slots, plane=plane)
        for q, row in enumerate(queries.rows[plane]):
            yield plane, q, ranked(row, held, slots), float(queries.chance[plane, q]), queries


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature, k", [(0.05, 10), (0.5, 3), (0.5, 1)])
def test_adaptive_lets_a_query_draw_that_is_more_like_its_other_view_than_like_any_entry(memory, seed, temperature, k):
    matches = Adaptive(temperature=temperature, n_candidates=k)(asked(seed), memory)
    for plane, q, entries, chance, queries in in_turn(memory, seed):
        options = [(similar(queries.rows[plane, q], queries.rows[1 - plane, q]), None), *entries[:k]]
        name = drawn(options, temperature, chance) if options[0] == max(options, key=lambda o: o[0]) else None
        assert matches.weight[plane, q] == float(name is not None)
        assert matches.index[plane, q] == (entries[0][1] if name is None else name)


def test_the_slow_draws_above_let_queries_go_and_keep_to_themselves():
    weight = [Adaptive(temperature=0.5)(asked(seed), memory).weight for memory in MEMORIES for seed in range(4)]
    assert 0.1 < torch.stack(weight).mean() < 0.9


def test_towards_temperature_zero_no_query_is_matched_and_each_still_names_its_nearest_entry():
    for memory in MEMORIES:
        queries = replace(asked(0), chance=torch.full((2, 9), 1 - 2.0**-24))
        matches = Adaptive(temperature=1e-30)(queries, memory)
        assert (matches.weight == 0).all()
        assert torch.equal(matches.index, Nearest()(queries, memory).index)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("k", [1, 3, 50])
def test_uniform_takes_the_entry_at_its_share_of_the_way_down(memory, k):
    matches = Uniform(n_candidates=k)(asked(1), memory)
    for plane, q, entries, chance, _ in in_turn(memory, 1):
        assert matches.index[plane, q] == entries[int(chance * min(k, len(entries)))][1]
        assert matches.weight[plane, q] == 1


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("least", [-1.0, 0.6, 0.9, 1.0])
def test_threshold_trusts_the_nearest_entry_when_it_is_similar_enough(memory, least):
    matches = Threshold(least=least)(asked(2), memory)
    for plane, q, entries, _, _ in in_turn(memory, 2):
        assert matches.index[plane, q] == entries[0][1]
        assert matches.weight[plane, q] == float(entries[0][0] >= least)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(4))
def test_mutual_goes_to_the_memory_and_back_in_one_plane(memory, seed):
    matches = Mutual()(asked(seed), memory)
    for plane, q, entries, _, queries in in_turn(memory, seed):
        entry = memory.rows(torch.tensor(entries[0][1]), plane=plane)
        assert matches.index[plane, q] == entries[0][1]
        assert matches.weight[plane, q] == float(closest(entry, queries.rows[plane]) == q)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature, k", [(0.1, 5), (1e9, 3), (1e-9, 50)])
def test_a_sampled_cycle_draws_from_the_entries_that_lead_back(memory, seed, temperature, k):
    matches = SampledCycle(n_candidates=k, temperature=temperature)(asked(seed), memory)
    for plane, q, entries, chance, queries in in_turn(memory, seed):
        across = {e: memory.rows(torch.tensor(e), plane=1 - plane) for _, e in entries[:k]}
        back = [(s, e) for s, e in entries[:k] if closest(across[e], queries.rows[1 - plane]) == q]
        assert matches.weight[plane, q] == float(len(back) > 0)
        assert matches.index[plane, q] == (drawn(back, temperature, chance) if back else entries[0][1])


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(4))
def test_a_sampled_cycle_of_one_candidate_is_the_cycle(memory, seed):
    here, there = (matcher(asked(seed), memory) for matcher in (SampledCycle(n_candidates=1), Cycle()))
    assert torch.equal(here.index, there.index)
    assert torch.equal(here.weight, there.weight)


def test_more_candidates_accept_all_that_fewer_do():
    fewer, more = (
        torch.stack([SampledCycle(n_candidates=k)(asked(s), m).weight for m in MEMORIES for s in range(4)])
        for k in (1, 5)
    )
    assert (more >= fewer).all()
    assert more.sum() > fewer.sum()
