"""Every registered matcher and aligner on two ranks against one that has all images; each setting of those that ask."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

import sslkit.components  # noqa: F401  fills the registry
from sslkit import distributed
from sslkit.contracts.inputs import DIM, blank, drawing, meaning, push_of, step_of, taken
from sslkit.memories import Queue
from sslkit.registry import components
from sslkit.types import Queries
from tests.ranks import on_ranks
from tests.test_contracts import TINY

pytestmark = pytest.mark.slow
WORLD = 2
COUNTS = [2, 0, 3, 1, 3, 2]  # queries of each image
SHARES = {"even": 3, "uneven": 5, "nobody here": 0, "nobody there": 6}  # images of the first rank
EVERY = {(role, name): cls for role in ("matchers", "aligners") for name, cls in components(role).items()}
SCOPED = [key for key, cls in EVERY.items() if "scope" in inspect.signature(cls).parameters]


def made(role, name, **options):
    return EVERY[role, name](**{**TINY.get(name, {}), **options})


def memory_of():
    memory = Queue(8, n_per_image=3, dim=DIM)
    for i, counts in enumerate(([3, 0, 2], [1, 3], [2, 2])):
        memory.push(push_of(counts, draw=drawing(i), first_image=10 * i))
    return memory.double()


MEMORY = memory_of()  # by each process before it joins the others, whose pushes it would gather


def queries_of(first, n):
    """Those of some images in a row, of all that there are."""
    queries = push_of(COUNTS, draw=drawing(4))
    weight = torch.tensor([1.0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1])
    mine = (queries.item >= first) & (queries.item < first + n)
    return Queries(
        rows=queries.rows[:, mine].double(),
        item=queries.item[mine] - first,
        images=queries.images[first : first + n],
        place=queries.place[:, mine],
        weight=weight[mine],
        chance=queries.chance[:, mine],
    )


def share_of(n, first):
    """Where this rank's images begin, and how many they are, if the first rank has `first` of `n`."""
    if distributed.world_size() == 1:
        return 0, n
    return (0, first) if distributed.rank() == 0 else (first, n - first)


def matched(name, shares, **options):
    matches = made("matchers", name, **options)(queries_of(*share_of(len(COUNTS), SHARES[shares])), MEMORY)
    return matches.index, matches.weight, matches.ids


def batch():
    """A step of four images: those of the second half have fewer regions and matches, and one hides nothing."""
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0]]).bool()
    accepted = torch.ones(2, 16)
    accepted[:, 10:] = 0
    step = step_of(b=4, valid=valid, accepted=accepted)
    images = replace(step.matches["images"], weight=torch.tensor([[1.0, 1, 0, 0.5], [1, 1, 1, 0]]))
    views = [replace(view, mask=view.mask & (torch.arange(4) != 3)[:, None]) for view in step.batch.views]
    return replace(step, batch=replace(step.batch, views=tuple(views)), matches={**step.matches, "images": images})


def paired(name, **options):
    first, n = share_of(4, 2)
    return meaning(made("aligners", name, **options)(taken(batch(), first + torch.arange(n))))


def run(role, name, **options):
    if role == "aligners":
        return paired(name, **options)
    return {shares: matched(name, shares, **options) for shares in SHARES}


def work():
    found = {key: run(*key) for key in EVERY}
    found |= {(*key, "rank"): run(*key, scope="rank") for key in SCOPED}
    if distributed.rank() == 0:  # nobody else is asked
        for name in components("matchers"):
            found[name, "meta"] = made("matchers", name).company(blank(queries_of(0, 6))).rows.shape
            found[name, "eval"] = made("matchers", name).eval()(queries_of(0, 3), MEMORY).weight
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), WORLD)


def assert_same_matches(ranks, key, shares, whole):
    for part, expected in enumerate(whole):
        assert torch.equal(torch.cat([rank[key][shares][part] for rank in ranks], dim=1), expected)


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("name", components("matchers"))
def test_queries_find_on_two_ranks_what_they_find_on_one(ranks, name, shares):
    assert_same_matches(ranks, ("matchers", name), shares, matched(name, shares))


@pytest.mark.parametrize("name", components("aligners"))
def test_pairs_on_two_ranks_weigh_on_average_what_they_weigh_on_one(ranks, name):
    mean = {}
    for rank in ranks:
        mean |= {pair: weight / WORLD for pair, weight in rank["aligners", name].items()}
    assert mean == pytest.approx(paired(name))


def test_what_has_a_scope_is_found_in_both_roles():
    assert {role for role, _ in SCOPED} == {"matchers", "aligners"}
    assert all(made(*key).scope == "all" for key in SCOPED)


@pytest.mark.parametrize("name", [name for role, name in SCOPED if role == "matchers"])
def test_within_ranks_other_matches_are_trusted(ranks, name):
    for rank, own in zip(ranks, ((0, 3), (3, 3)), strict=True):
        expected = made("matchers", name)(queries_of(*own), MEMORY).weight
        assert torch.equal(rank["matchers", name, "rank"]["even"][1], expected)
    together = torch.cat([rank["matchers", name, "rank"]["even"][1] for rank in ranks], dim=1)
    assert (together >= matched(name, "even")[1]).all()  # nobody else's query can be nearer
    assert not torch.equal(together, matched(name, "even")[1])


@pytest.mark.parametrize("name", [name for role, name in SCOPED if role == "aligners"])
def test_within_ranks_pairs_weigh_otherwise(ranks, name):
    for rank, half in zip(ranks, torch.arange(4).split(2), strict=True):
        assert rank["aligners", name, "rank"] == pytest.approx(meaning(made("aligners", name)(taken(batch(), half))))
    mean = {pair: w / WORLD for rank in ranks for pair, w in rank["aligners", name, "rank"].items()}
    assert mean != pytest.approx(paired(name))


@pytest.mark.parametrize("name", components("matchers"))
def test_one_rank_rehearses_and_looks_without_the_others(ranks, name):
    assert ranks[0][name, "meta"] == (2, sum(COUNTS), DIM)
    assert torch.equal(ranks[0][name, "eval"], made("matchers", name)(queries_of(0, 3), MEMORY).weight)
