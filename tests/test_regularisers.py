"""What losses on predictions alone come to, against slow loops and other libraries."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import KoLeoLoss, MSNLoss, VICRegLoss

from sslkit.losses import Covariance, Distillation, KoLeo, MeanEntropy, Variance
from sslkit.types import Pairs, Rows
from tests.pairings import across_views, loss_and_gradient, randn, random_pairs

CASES = [(1, 1, 1, 2), (12, 6, 8, 5), (60, 20, 8, 3), (30, 40, 8, 1)]
ALL = [Covariance, KoLeo, MeanEntropy, Variance]


def used_rows(pairs):
    """Rows that count by view, and what their pairs weigh together."""
    mass = {}
    for a, w in zip(pairs.i.tolist(), pairs.weight.tolist(), strict=True):
        if w:
            mass[a] = mass.get(a, 0) + w
    views = {}
    for a in mass:
        views.setdefault(int(pairs.prediction.view[a]), []).append(a)
    return list(views.values()), mass


def slow_mean_entropy(prediction, pairs, temperature):
    _, mass = used_rows(pairs)
    if not mass:
        return 0 * prediction.sum()
    mean = sum(w * (prediction[a] / temperature).softmax(dim=0) for a, w in mass.items()) / sum(mass.values())
    return math.log(prediction.shape[1]) + (mean * mean.log()).sum()


def slow_koleo(prediction, pairs):
    distances = []
    for rows in used_rows(pairs)[0]:
        for a in rows:
            x = prediction[a] / prediction[a].norm()
            others = [(x - prediction[b] / prediction[b].norm()).norm() for b in rows if b != a]
            distances += [min(others)] if others else []
    return -sum(d.log() for d in distances) / len(distances) if distances else 0 * prediction.sum()


def per_view(prediction, pairs, of_view):
    found = [of_view(prediction[rows]) for rows in used_rows(pairs)[0] if len(rows) > 1]
    return sum(found) / len(found) if found else 0 * prediction.sum()


def slow_variance(prediction, pairs, least=1.0):
    def of_view(x):
        return sum(F.relu(least - (column.var() + 1e-4).sqrt()) for column in x.T) / x.shape[1]

    return per_view(prediction, pairs, of_view)


def slow_covariance(prediction, pairs):
    def of_view(x):
        total, n, k = 0 * x.sum(), *x.shape
        for c in range(k):
            for d in range(k):
                if c != d:
                    total = total + (((x[:, c] - x[:, c].mean()) * (x[:, d] - x[:, d].mean())).sum() / (n - 1)) ** 2
        return total / k

    return per_view(prediction, pairs, of_view)


@pytest.mark.parametrize("n, p, t, c", CASES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "loss, slow",
    [
        (MeanEntropy(temperature=0.5), lambda x, pairs: slow_mean_entropy(x, pairs, 0.5)),
        (KoLeo(), slow_koleo),
        (Variance(), slow_variance),
        (Variance(least=0.25), lambda x, pairs: slow_variance(x, pairs, 0.25)),
        (Covariance(), slow_covariance),
    ],
    ids=["entropy", "koleo", "variance", "low variance", "covariance"],
)
def test_it_is_the_loop_over_the_rows_that_pairs_use(n, p, t, c, seed, loss, slow):
    if isinstance(loss, KoLeo) and c == 1:
        c = 2  # normalised rows of one score coincide
    pairs = random_pairs(n, p, t, seed=seed, n_views=3)
    prediction = randn(p, c, seed=seed)
    found, gradient = loss_and_gradient(lambda x: loss(x, randn(t, c), pairs), prediction)
    expected, slope = loss_and_gradient(lambda x: slow(x, pairs), prediction)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)  # KoLeo adds 1e-8 to distances
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("loss", ALL)
def test_targets_are_not_looked_at(loss):
    pairs = random_pairs(12, 6, 8)
    assert torch.equal(loss()(randn(6, 5), randn(8, 5), pairs), loss()(randn(6, 5), randn(8, 3, seed=1), pairs))


@pytest.mark.parametrize("loss", ALL)
def test_multiplying_all_weights_changes_nothing(loss):
    pairs = random_pairs(12, 6, 8)
    more = replace(pairs, weight=4 * pairs.weight)
    assert torch.equal(loss()(randn(6, 5), randn(8, 5), pairs), loss()(randn(6, 5), randn(8, 5), more))


@pytest.mark.parametrize("loss", ALL)
def test_a_view_of_a_single_row_is_no_reason_for_numbers_that_are_not_finite(loss):
    rows = replace(Rows.of(torch.zeros(3, 0)), view=torch.tensor([0, 1, 2]))
    pairs = replace(Pairs.diagonal(3), prediction=rows)
    value, gradient = loss_and_gradient(loss(), randn(3, 4), randn(3, 4), pairs)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if loss is not MeanEntropy:
        assert value == 0


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("rows", [torch.zeros(4, 3), torch.ones(4, 3), 1e4 * torch.eye(3)[torch.tensor([0, 0, 1, 1])]])
def test_rows_that_coincide_or_are_far_away_have_finite_gradients(loss, rows):
    value, gradient = loss_and_gradient(loss(), rows, rows, Pairs.diagonal(4))
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", ALL)
def test_under_mixed_precision_it_is_that_in_float32(loss):
    p = randn(6, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss()(p, p, Pairs.diagonal(6))
    assert torch.equal(mixed, loss()(p, p, Pairs.diagonal(6)))
    assert loss()(p.half(), p.half(), Pairs.diagonal(6)).dtype == torch.float32


@pytest.mark.parametrize("loss", ALL)
def test_the_gradient_agrees_with_finite_differences(loss):
    pairs = random_pairs(20, 8, 8)
    assert torch.autograd.gradcheck(lambda x: loss()(x, x.detach(), pairs), randn(8, 4).requires_grad_())


# mean entropy


@pytest.mark.parametrize("b, n_views, d, k", [(2, 1, 3, 4), (8, 2, 6, 5), (5, 11, 16, 30)])
@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_with_distillation_on_prototype_logits_it_is_the_loss_of_msn(b, n_views, d, k, weight):
    anchors, targets, prototypes = randn(n_views * b, d), randn(b, d, seed=1), F.normalize(randn(k, d, seed=2), dim=-1)
    oracle = MSNLoss(temperature=0.1, sinkhorn_iterations=0, regularization_weight=weight)
    expected, slope = loss_and_gradient(
        lambda x: oracle(x, targets, prototypes, target_sharpen_temperature=0.25), anchors
    )
    i = torch.arange(n_views * b)
    pairs = Pairs(Rows.of(anchors), Rows.of(targets), i, i % b, torch.full(i.shape, 1 / len(i)).double())
    cross_entropy = Distillation(student_temperature=0.1, teacher_temperature=0.1 * 0.25)
    regulariser = MeanEntropy(temperature=0.1)
    logits = F.normalize(targets, dim=-1) @ prototypes.T

    def ours(x):
        student = F.normalize(x, dim=-1) @ prototypes.T
        return cross_entropy(student, logits, pairs) + weight * regulariser(student, logits, pairs)

    found, gradient = loss_and_gradient(ours, anchors)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # temperatures are in float32
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-8)


def test_mean_entropy_is_least_where_rows_share_prototypes_out_and_log_k_where_they_agree():
    same = torch.zeros(4, dtype=torch.long)
    for rows, expected in ((torch.arange(4), 0.0), (same, math.log(4)), (torch.tensor([0, 0, 1, 1]), math.log(2))):
        prediction = 100 * torch.eye(4)[rows]
        assert MeanEntropy()(prediction, prediction, Pairs.diagonal(4)).item() == pytest.approx(expected, abs=1e-6)


def test_mean_entropy_weighs_rows_as_their_pairs_weigh():
    prediction = 100 * torch.eye(2)
    loss = MeanEntropy()(prediction, prediction, Pairs.diagonal(2, weight=[3.0, 1.0]))
    assert loss.item() == pytest.approx(math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25), rel=1e-6)


# distances


@pytest.mark.parametrize("b, c", [(2, 3), (8, 4), (64, 128)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_koleo_over_one_view_is_that_of_another_library(b, c, dtype, tolerance):
    x = randn(b, c).to(dtype)
    expected, slope = loss_and_gradient(KoLeoLoss(), x)
    found, gradient = loss_and_gradient(KoLeo(), x, x, Pairs.diagonal(b))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, slope, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("b, c", [(2, 3), (8, 4), (64, 128)])
def test_koleo_over_two_views_is_their_mean(b, c):
    views = randn(2, b, c)
    expected = (KoLeoLoss()(views[0]) + KoLeoLoss()(views[1])) / 2
    x = views.flatten(0, 1)
    torch.testing.assert_close(KoLeo()(x, x, across_views(b)), expected, rtol=1e-12, atol=1e-12)


def test_koleo_pushes_a_row_away_from_its_nearest_neighbour():
    rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
    _, gradient = loss_and_gradient(KoLeo(), rows, rows, Pairs.diagonal(3))
    moved = F.normalize(rows - 0.01 * gradient, dim=-1)
    rows = F.normalize(rows, dim=-1)
    assert (moved[0] - moved[1]).norm() > (rows[0] - rows[1]).norm()


# variance and covariance


@pytest.mark.parametrize("b, c", [(2, 3), (8, 4), (16, 50), (100, 7)])
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (10.0, 3.0, 5.0)])
def test_with_the_squared_distance_they_are_the_loss_of_vicreg(b, c, weights):
    invariance, variance, covariance = weights
    oracle = VICRegLoss(lambda_param=invariance, mu_param=variance, nu_param=covariance)
    x, pairs = 0.7 * randn(2 * b, c), across_views(b)
    expected, slope = loss_and_gradient(lambda x: oracle(*x.chunk(2)), x)

    def ours(x):
        regularisers = variance * Variance()(x, x, pairs) + 2 * covariance * Covariance()(x, x, pairs)
        return invariance * F.mse_loss(*x.chunk(2)) + regularisers

    found, gradient = loss_and_gradient(ours, x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-12)


def test_rows_that_differ_enough_have_no_lack_of_variance():
    prediction, pairs = torch.tensor([[2.0, -2.0], [-2.0, 2.0]]), Pairs.diagonal(2)
    assert Variance()(prediction, prediction, pairs) == 0
    assert Variance(least=10.0)(prediction, prediction, pairs).item() == pytest.approx(10 - 8**0.5, rel=1e-5)


def test_scores_that_vary_alone_have_no_covariance():
    prediction = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert Covariance()(prediction, prediction, Pairs.diagonal(4)).item() == pytest.approx(0, abs=1e-6)
