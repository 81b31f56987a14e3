"""InfoNCE against slow loops over candidates, published formulas and another library."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss

from sslkit.contracts import LossContract
from sslkit.losses import InfoNCE, info_nce
from sslkit.types import Pairs, Rows
from tests.pairings import across_views, loss_and_gradient, randn, random_pairs

NEGATIVES = ["view", "views", "predictions"]


class TestAllViews(LossContract):
    def make(self):
        return InfoNCE(negatives="views")


class TestPredictions(LossContract):
    def make(self):
        return InfoNCE(negatives="predictions", scope="rank")


def slow(prediction, target, pairs, temperature, negatives):
    """Pair by pair, candidate by candidate."""
    i, j, weight = pairs.i.tolist(), pairs.j.tolist(), pairs.weight.tolist()
    total = prediction.new_zeros(())
    for a, b, w in zip(i, j, weight, strict=True):
        if w == 0:
            continue
        if negatives == "predictions":
            anchor, rows, of, own, places = target[b], prediction, pairs.prediction, a, i
        else:
            anchor, rows, of, own, places = prediction[a], target, pairs.target, b, j
        others = {k for k, v in zip(places, weight, strict=True) if v != 0 and of.weight[k] != 0} - {own}
        others = [k for k in others if of.ids[k] != of.ids[own]]
        if negatives != "views":
            others = [k for k in others if of.view[k] == of.view[own]]
        scores = [F.cosine_similarity(anchor, rows[k], dim=0) / temperature for k in (own, *others)]
        total = total + w * (torch.stack(scores).logsumexp(dim=0) - scores[0])
    return total


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("n, p, t, c", [(1, 1, 1, 2), (12, 6, 8, 5), (4, 30, 20, 3), (60, 5, 7, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_loop_over_pairs_and_candidates(negatives, n, p, t, c, seed):
    pairs = random_pairs(n, p, t, seed=seed)
    prediction, target = randn(p, c, seed=seed), randn(t, c, seed=seed + 1)
    loss = InfoNCE(temperature=0.25, negatives=negatives)
    found, gradient = loss_and_gradient(loss, prediction, target, pairs)
    prediction.requires_grad_()
    expected = slow(prediction, target, pairs, 0.25, negatives)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-12)
    slope = torch.autograd.grad(expected, prediction)[0] if expected.requires_grad else torch.zeros_like(prediction)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("b, c", [(2, 3), (5, 8), (16, 32)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_all_views_as_candidates_are_nt_xent(b, c, temperature):
    first, second = randn(b, c), randn(b, c, seed=1)
    oracle = NTXentLoss(temperature=temperature, memory_bank_size=0)
    expected, gradient = loss_and_gradient(lambda x: oracle(*x.chunk(2)), torch.cat([first, second]))
    loss = InfoNCE(temperature=temperature, negatives="views")
    pairs = across_views(b)
    found, slope = loss_and_gradient(lambda x: loss(x, x, pairs), torch.cat([first, second]))  # both sides learn
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # temperature and weights are in float32
    torch.testing.assert_close(slope, gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("b, c", [(2, 3), (16, 32)])
def test_the_target_view_as_candidates_is_the_mean_of_both_directions_of_moco_v3(b, c):
    q, k = F.normalize(randn(2, b, c), dim=-1), F.normalize(randn(2, b, c, seed=1), dim=-1)
    expected = sum(F.cross_entropy(q[v] @ k[1 - v].T / 0.25, torch.arange(b)) for v in (0, 1)) / 2
    found = InfoNCE(temperature=0.25)(q.flatten(0, 1), k.flatten(0, 1), across_views(b))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("b, c", [(2, 3), (16, 32)])
def test_predictions_as_candidates_tell_a_neighbour_which_image_it_was_found_for(b, c):
    p, found_rows = F.normalize(randn(2, b, c), dim=-1), F.normalize(randn(2, b, c, seed=1), dim=-1)
    pairs = across_views(b)
    neighbours = replace(pairs.target, ids=torch.zeros_like(pairs.target.ids))  # one image is everybody's neighbour
    loss = InfoNCE(temperature=0.25, negatives="predictions")
    expected = sum(F.cross_entropy(found_rows[1 - v] @ p[v].T / 0.25, torch.arange(b)) for v in (0, 1)) / 2
    found = loss(p.flatten(0, 1), found_rows.flatten(0, 1), replace(pairs, target=neighbours))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_it_does_not_matter_whether_idle_rows_are_kept(negatives):
    pairs = random_pairs(20, 12, 15, seed=3)
    prediction, target = randn(12, 4), randn(15, 4, seed=1)
    loss = InfoNCE(negatives=negatives)
    keep = pairs.weight != 0
    used, j = pairs.j[keep].unique(return_inverse=True)
    less = Pairs(pairs.prediction, pairs.target.at(used), pairs.i[keep], j, pairs.weight[keep])
    assert len(used) < 15
    found, expected = loss(prediction, target[used], less), loss(prediction, target, pairs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_row_that_only_keeps_a_shape_static_is_no_negative_even_where_its_pair_weighs(negatives):
    p, t, loss = randn(3, 4), randn(3, 4, seed=1), InfoNCE(negatives=negatives)
    rows = replace(Rows.of(p), weight=torch.tensor([1.0, 1.0, 0.0]))

    def with_third(weight):
        pairs = Pairs.diagonal(3, weight=[0.5, 0.5, weight])
        return loss(p, t, replace(pairs, prediction=rows, target=rows))

    first_two = 2 * with_third(1.0) - with_third(2.0)
    torch.testing.assert_close(first_two, loss(p[:2], t[:2], Pairs.diagonal(2)), rtol=1e-12, atol=0)


def test_rows_of_one_image_are_no_negatives_of_each_other():
    place = torch.arange(4)
    rows = Rows(torch.zeros(4, 0), torch.zeros(4, dtype=torch.long), place, torch.tensor([7, 7, 7, 7]), torch.ones(4))
    pairs = Pairs(rows, rows, place, place, torch.full((4,), 0.25))
    for negatives in NEGATIVES:
        assert InfoNCE(negatives=negatives)(randn(4, 3), randn(4, 3, seed=1), pairs) == 0


def test_negatives_as_near_as_the_target_cost_the_log_of_the_number_of_candidates():
    for negatives in NEGATIVES:
        loss = InfoNCE(negatives=negatives)(torch.ones(8, 3), torch.ones(8, 3), Pairs.diagonal(8))
        assert loss.item() == pytest.approx(math.log(8), rel=1e-6)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("held", [1, 50, 200])
def test_looking_at_some_pairs_at_a_time_changes_nothing(negatives, held, monkeypatch):
    pairs, prediction, target = random_pairs(60, 12, 17), randn(12, 5), randn(17, 5, seed=1)
    expected = loss_and_gradient(InfoNCE(negatives=negatives), prediction, target, pairs)
    monkeypatch.setattr(info_nce, "AT_ONCE", held)
    for here, there in zip(
        loss_and_gradient(InfoNCE(negatives=negatives), prediction, target, pairs), expected, strict=True
    ):
        torch.testing.assert_close(here, there)


def test_the_gradient_agrees_with_finite_differences():
    pairs = random_pairs(10, 5, 6)
    for negatives in NEGATIVES:
        loss = InfoNCE(temperature=0.5, negatives=negatives)
        assert torch.autograd.gradcheck(
            lambda p, t, loss=loss: loss(p, t, pairs),
            (randn(5, 4).requires_grad_(), randn(6, 4, seed=1).requires_grad_()),
        )


def test_half_precision_rows_are_compared_in_float32():
    p, t = randn(6, 8).half(), randn(6, 8, seed=1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = InfoNCE()(p, t, Pairs.diagonal(6))
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, InfoNCE()(p.float(), t.float(), Pairs.diagonal(6)))


def test_a_row_of_zeros_and_a_low_temperature_stay_finite():
    value, gradient = loss_and_gradient(
        InfoNCE(temperature=1e-3), torch.zeros(3, 4), torch.eye(4)[:3], Pairs.diagonal(3)
    )
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_many_pairs_of_one_prediction_need_no_copies_of_rows():
    n, t, c = 400, 50, 2000  # 400 x 50 x 2000 numbers would be 160 MB
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (made if isinstance(made, (tuple, list)) else [made]) if torch.is_tensor(x))
            return made

    pairs = random_pairs(n, 4, t)
    prediction, target = torch.randn(4, c, requires_grad=True), torch.randn(t, c)
    with Watch():
        InfoNCE()(prediction, target, pairs).backward()
    assert max(sizes) <= max(n * t, t * c)
