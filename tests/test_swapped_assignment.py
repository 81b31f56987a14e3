"""Swapped assignments against a loop that rescales the whole matrix, and against another library."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from lightly.loss import SwaVLoss

from sslkit.losses import SwappedAssignment
from sslkit.types import Pairs
from tests.pairings import across_views, loss_and_gradient, randn, random_pairs


def balanced(scores, n_rounds):
    """Codes of one view: the prototypes to equal mass, then the rows, in turn."""
    plan = scores.exp()
    n, k = plan.shape
    for _ in range(n_rounds):
        for c in range(k):
            plan[:, c] /= plan[:, c].sum() * k
        for r in range(n):
            plan[r] /= plan[r].sum() * n
    return plan * n


def slow(prediction, target, pairs, temperature, balance_temperature, n_rounds):
    used = {b for b, w in zip(pairs.j.tolist(), pairs.weight.tolist(), strict=True) if w and pairs.target.weight[b]}
    codes = {}
    for view in range(int(pairs.target.view.max()) + 1):
        mine = [b for b in sorted(used) if pairs.target.view[b] == view]
        if mine:
            codes |= dict(zip(mine, balanced(target[mine] / balance_temperature, n_rounds), strict=True))
    total = prediction.new_zeros(())
    for a, b, w in zip(pairs.i.tolist(), pairs.j.tolist(), pairs.weight, strict=True):
        if w:
            total = total - w * (codes[b] * (prediction[a] / temperature).log_softmax(dim=0)).sum()
    return total


@pytest.mark.parametrize("n, p, t, c", [(1, 1, 1, 2), (12, 6, 8, 5), (60, 5, 20, 40)])
@pytest.mark.parametrize("n_rounds", [1, 2, 3, 10])
@pytest.mark.parametrize("n_views", [1, 3])
def test_it_is_the_cross_entropy_of_codes_that_are_rescaled_as_a_whole(n, p, t, c, n_rounds, n_views):
    pairs = random_pairs(n, p, t, seed=c, n_views=n_views)
    prediction, target = randn(p, c), randn(t, c, seed=1)
    loss = SwappedAssignment(temperature=0.25, balance_temperature=0.5, n_rounds=n_rounds)
    expected = slow(prediction, target, pairs, 0.25, 0.5, n_rounds)
    torch.testing.assert_close(loss(prediction, target, pairs), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("b, c", [(1, 3), (4, 8), (16, 30), (50, 7)])
@pytest.mark.parametrize("n_global, n_local", [(2, 0), (2, 4), (3, 1)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_it_is_swavs_loss_over_all_crops(b, c, n_global, n_local, dtype, tolerance):
    """A float64 run differs by its temperatures only, which are in float32."""
    scores = torch.nn.functional.normalize(randn(n_global + n_local, b, c), dim=-1).to(dtype)
    oracle, loss = SwaVLoss(), SwappedAssignment()
    pairs = across_views(b, n_global, n_local)

    def both_networks(x):
        return loss(x, x[: n_global * b], pairs)

    expected, gradient = loss_and_gradient(lambda x: oracle(list(x[:n_global]), list(x[n_global:]))[0], scores)
    found, slope = loss_and_gradient(both_networks, scores.flatten(0, 1))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(slope, gradient.flatten(0, 1), rtol=10 * tolerance, atol=tolerance / b / n_global)


def codes_of(loss, target, pairs=None):
    """What the loss would have predictions say, read off its gradient for uniform predictions."""
    pairs = pairs or Pairs.diagonal(len(target), weight=[1.0] * len(target))
    _, gradient = loss_and_gradient(loss, torch.zeros_like(target), target, pairs)
    return 1 / target.shape[1] - loss.temperature * gradient


def test_codes_sum_to_one_and_many_rounds_make_prototypes_equally_popular():
    codes = codes_of(SwappedAssignment(n_rounds=200, balance_temperature=0.5), randn(12, 4))
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(12).double(), rtol=1e-7, atol=0)
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 3.0).double(), rtol=1e-4, atol=0)


def test_a_prototype_that_every_row_prefers_is_shared_out():
    target = torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.6, 0.1]])
    assert codes_of(SwappedAssignment(n_rounds=10), target).argmax(dim=1).tolist() == [0, 0, 1, 1]


def test_views_are_balanced_on_their_own():
    loss, pairs = SwappedAssignment(), across_views(6)
    target = randn(12, 4)
    moved = torch.cat([target[:6], target[6:] + torch.tensor([3.0, 0, 0, 0]).double()])  # balancing undoes it
    torch.testing.assert_close(loss(target, moved, pairs), loss(target, target, pairs), rtol=1e-6, atol=0)
    together = replace(pairs, target=replace(pairs.target, view=torch.zeros_like(pairs.target.view)))
    assert not torch.allclose(loss(target, moved, together), loss(target, target, together), rtol=1e-2)


def test_targets_have_no_gradient():
    target = randn(4, 3).requires_grad_()
    SwappedAssignment()(randn(4, 3, seed=1).requires_grad_(), target, Pairs.diagonal(4)).backward()
    assert target.grad is None


def test_a_uniform_prediction_pays_the_log_of_the_number_of_prototypes():
    loss = SwappedAssignment()(torch.zeros(4, 16), torch.randn(4, 16), Pairs.diagonal(4))
    assert loss.item() == pytest.approx(math.log(16), rel=1e-6)


def test_scores_far_apart_stay_finite_in_float32():
    target = 1e4 * torch.eye(5)[torch.tensor([0, 0, 0, 1])]
    value, gradient = loss_and_gradient(SwappedAssignment(), target, target, Pairs.diagonal(4))
    assert value.isfinite()
    assert gradient.isfinite().all()
