"""Choices among candidates, as partners of whole images are drawn: closed forms, slow loops, invariants."""

from __future__ import annotations

import math

import pytest
import torch

import sslkit.components  # noqa: F401  fills the registry
from sslkit.contracts.inputs import drawing
from sslkit.matchers import Adaptive, Chooser, Mutual, Nearest, Threshold, Uniform
from sslkit.registry import components

GRID = 4096
EVERY = {"Threshold": dict(least=0.3)}
CHOOSERS = [cls(**EVERY.get(n, {})) for n, cls in components("matchers").items() if issubclass(cls, Chooser)]
NAMED = dict(ids=lambda x: type(x).__name__)


def table(n=40, k=6, *, seed=0, dim=3):
    """The k most similar images of each, itself among them, but not of every third; some rows have fewer."""
    rows = torch.nn.functional.normalize(torch.randn(n, dim, generator=drawing(seed)), dim=1)
    similarity = rows @ (rows + 0.4 * torch.randn(n, dim, generator=drawing(seed + 1))).mT
    similarity.diagonal()[::3] = -torch.inf
    score, index = similarity.topk(k, dim=1)
    index[1::7, 2:], score[1::7, 2:] = -1, -torch.inf
    index[score == -torch.inf] = -1
    return index, score


def chances(n, seed=2):
    return torch.rand(n, generator=drawing(seed))


def shares(chooser, index, score, own):
    """How often each number comes out for one row of candidates, over evenly spaced chances."""
    rows = [torch.tensor([x]).expand(GRID, -1) for x in (index, score)]
    chance = (torch.arange(GRID) + 0.5) / GRID
    chosen = chooser.choose(*rows, torch.full((GRID,), own), chance)
    return {int(j): float((chosen == j).float().mean()) for j in chosen.unique()}


def softmax(scores, temperature):
    mass = [math.exp((s - max(scores)) / temperature) for s in scores]
    return [m / sum(mass) for m in mass]


def assert_shares(found, expected):
    assert set(found) <= set(expected)
    for j, p in expected.items():
        assert abs(found.get(j, 0) - p) <= 1 / GRID, (j, found, expected)


# adaptive


def test_an_image_that_leads_by_a_thousandth_keeps_to_itself_three_times_of_four():
    found = shares(Adaptive(), [8, 3], [0.95, 0.949], own=8)
    assert_shares(found, {8: 1 / (1 + math.exp(-1)), 3: math.exp(-1) / (1 + math.exp(-1))})
    assert round(found[8], 3) == 0.731
    assert round(found[3], 3) == 0.269


def test_an_image_that_does_not_lead_never_leaves():
    assert shares(Adaptive(), [3, 8], [0.949, 0.90], own=8) == {8: 1}
    assert shares(Adaptive(), [3, 4], [0.949, 0.90], own=8) == {8: 1}  # it is not even a candidate


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_an_adaptive_choice_has_the_probabilities_of_the_closed_form(temperature, seed):
    index, score = table(n=12, seed=seed)
    leading = 0
    for own in range(len(index)):
        held = [(j, s) for j, s in zip(index[own].tolist(), score[own].tolist(), strict=True) if j >= 0]
        names, scores = zip(*held, strict=True)
        leads = own in names and scores[names.index(own)] == max(scores)
        expected = dict(zip(names, softmax(scores, temperature), strict=True)) if leads else {own: 1.0}
        assert_shares(
            shares(Adaptive(temperature=temperature), index[own].tolist(), score[own].tolist(), own), expected
        )
        leading += leads
    assert 0 < leading < len(index)


def test_a_neighbour_that_was_near_in_half_of_the_epochs_is_never_drawn():
    assert shares(Adaptive(), [8, 3], [0.95, 0.95 / 2], own=8) == {8: 1}


def test_towards_temperature_zero_every_image_keeps_to_itself():
    index, score = table()
    own, last = torch.arange(len(index)), torch.full((len(index),), 1 - 2.0**-24)
    assert torch.equal(Adaptive(temperature=1e-30).choose(index, score, own, last), own)


def test_towards_infinite_temperature_an_image_that_leads_draws_from_all_its_candidates_alike():
    found = shares(Adaptive(temperature=1e9), [8, 3, 5, 6, -1], [0.9, 0.1, -0.3, -0.9, -math.inf], own=8)
    assert_shares(found, dict.fromkeys([8, 3, 5, 6], 0.25))


@pytest.mark.parametrize("order", [[8, 3, 5], [3, 8, 5]])
def test_an_image_that_ties_with_another_leads_and_both_are_drawn_alike(order):
    assert_shares(shares(Adaptive(), order, [0.9, 0.9, 0.1], own=8), {8: 0.5, 3: 0.5, 5: 0})


def test_only_differences_of_scores_count():
    index, score = table()
    score = (score * 64).round() / 64  # so that nothing is lost by adding
    own, chance = torch.arange(len(index)), chances(len(index))
    expected = Adaptive(temperature=1.0).choose(index, score, own, chance)
    assert torch.equal(Adaptive(temperature=1.0).choose(index, score + 0.25, own, chance), expected)
    assert (expected != own).any()


# the others


@pytest.mark.parametrize("n_candidates", [1, 2, 3, 9])
def test_a_uniform_choice_is_any_of_the_best_others_alike(n_candidates):
    found = shares(Uniform(n_candidates=n_candidates), [3, 8, 5, 6, -1], [0.9, 0.8, 0.7, 0.6, -math.inf], own=8)
    kept = [3, 5, 6][:n_candidates]
    assert_shares(found, dict.fromkeys(kept, 1 / len(kept)))


def best_other(index, score, own):
    held = [(s, j) for j, s in zip(index.tolist(), score.tolist(), strict=True) if j not in (-1, own)]
    return max(held, default=(-math.inf, own))


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_partner_is_the_best_candidate_but_the_image_itself(seed):
    index, score = table(seed=seed)
    chosen = Nearest().choose(index, score, torch.arange(len(index)), chances(len(index)))
    assert chosen.tolist() == [best_other(*row, own)[1] for own, row in enumerate(zip(index, score, strict=True))]
    assert (chosen != torch.arange(len(index))).all()


@pytest.mark.parametrize("least", [-1.0, 0.5, 0.9])
def test_a_threshold_keeps_images_to_themselves_whose_best_other_candidate_scores_below_it(least):
    index, score = table()
    chosen = Threshold(least=least).choose(index, score, torch.arange(len(index)), chances(len(index)))
    for own in range(len(index)):
        reached, j = best_other(index[own], score[own], own)
        assert chosen[own] == (j if reached >= least else own)


def test_a_threshold_that_is_just_reached_is_enough():
    assert shares(Threshold(least=0.5), [8, 3], [0.9, 0.5], own=8) == {3: 1}


@pytest.mark.parametrize("seed", range(3))
def test_mutual_partners_are_each_the_best_candidate_of_the_other(seed):
    index, score = table(seed=seed)
    own = torch.arange(len(index))
    chosen = Mutual().choose(index, score, own, chances(len(index)))
    best = [best_other(*row, i)[1] for i, row in enumerate(zip(index, score, strict=True))]
    assert chosen.tolist() == [j if best[j] == i else i for i, j in enumerate(best)]
    assert torch.equal(chosen[chosen], own)
    assert 0 < (chosen != own).sum() < len(index)


def test_a_mutual_choice_is_refused_without_the_candidates_of_all_images():
    index, score = table()
    with pytest.raises(ValueError, match="own is not 0, 1, 2"):
        Mutual().choose(index[5:], score[5:], torch.arange(5, len(index)), chances(len(index) - 5))


@pytest.mark.parametrize("least", [-1.1, 1.1])
def test_a_threshold_is_a_cosine(least):
    with pytest.raises(ValueError, match=f"least={least}, but it must be from -1 to 1"):
        Threshold(least=least)


# all of them


@pytest.mark.parametrize("chooser", CHOOSERS, **NAMED)
def test_a_choice_is_a_candidate_or_the_image_itself(chooser):
    index, score = table()
    own = torch.arange(len(index))
    for chance in (torch.zeros(len(index)), chances(len(index)), torch.full((len(index),), 1 - 2.0**-24)):
        chosen = chooser.choose(index, score, own, chance)
        assert chosen.dtype == index.dtype
        assert ((index == chosen[:, None]).any(dim=1) | (chosen == own)).all()
        assert (chosen >= 0).all()


@pytest.mark.parametrize("chooser", CHOOSERS, **NAMED)
def test_an_image_without_other_candidates_keeps_to_itself(chooser):
    own = torch.arange(4)
    for first in (own, torch.full((4,), -1)):
        index = torch.stack([first, torch.full((4,), -1)], dim=1)
        score = torch.where(index >= 0, 0.9, -torch.inf)
        assert torch.equal(chooser.choose(index, score, own, chances(4)), own)


@pytest.mark.parametrize("chooser", CHOOSERS, **NAMED)
def test_the_chance_alone_decides_and_the_table_is_left_as_it_is(chooser):
    index, score = table()
    before, own, chance = (index.clone(), score.clone()), torch.arange(len(index)), chances(len(index))
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(chooser.choose(index, score, own, chance))
    assert torch.equal(*made)
    assert torch.equal(index, before[0])
    assert torch.equal(score, before[1])


@pytest.mark.parametrize("chooser", [c for c in CHOOSERS if not isinstance(c, Mutual)], **NAMED)
def test_an_image_chooses_the_same_in_any_company(chooser):
    index, score = table()
    own, chance = torch.arange(len(index)), chances(len(index))
    whole = chooser.choose(index, score, own, chance)
    for part in (slice(5, 17), torch.randperm(len(index), generator=drawing(3))):
        assert torch.equal(chooser.choose(index[part], score[part], own[part], chance[part]), whole[part])
