"""Losses against slow loops over their pairs."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import DINOLoss, IBOTPatchLoss

from sslkit.losses import Distillation, distillation
from sslkit.schedules import Linear, Time
from sslkit.types import Pairs, Rows
from tests.pairings import across_views, loss_and_gradient, randn, random_pairs


def pairs_of(i, j, weight):
    index = torch.tensor(i, dtype=torch.long), torch.tensor(j, dtype=torch.long)
    rows = Rows.of(torch.zeros(max([*i, *j, 0]) + 1, 0))
    return Pairs(rows, rows, *index, torch.tensor(weight, dtype=torch.float64))


def softmax(scores, temperature):
    largest = max(scores)
    e = [math.exp((s - largest) / temperature) for s in scores]
    return [x / sum(e) for x in e]


def cross_entropy(target, prediction, teacher_temperature, student_temperature):
    q, p = softmax(target, teacher_temperature), softmax(prediction, student_temperature)
    return -sum(a * math.log(b) for a, b in zip(q, p, strict=True))


CASES = [
    ([0, 1, 2], [0, 1, 2], [1 / 3] * 3),
    ([0, 0, 0, 1], [2, 1, 0, 2], [0.5, 0.25, 0.2, 0.05]),
    ([3, 3], [1, 1], [2.0, 0.0]),
    ([], [], []),
]


@pytest.mark.parametrize("i, j, weight", CASES)
@pytest.mark.parametrize("n_prototypes", [2, 7])
@pytest.mark.parametrize("teacher_temperature, student_temperature", [(0.04, 0.1), (0.07, 0.2), (1.0, 1.0)])
def test_distillation_is_the_weighted_sum_of_cross_entropies(
    i, j, weight, n_prototypes, teacher_temperature, student_temperature
):
    draw = torch.Generator().manual_seed(n_prototypes)
    prediction, target = (torch.randn(n, n_prototypes, generator=draw, dtype=torch.float64) for n in (4, 3))
    loss = Distillation(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    expected = sum(
        w * cross_entropy(target[t].tolist(), prediction[p].tolist(), teacher_temperature, student_temperature)
        for p, t, w in zip(i, j, weight, strict=True)
    )
    found = loss.double()(prediction, target, pairs_of(i, j, weight))
    assert found.item() == pytest.approx(expected, rel=1e-6)  # temperatures are kept in float32


def test_a_student_that_equals_a_uniform_teacher_pays_the_entropy():
    loss = Distillation()(torch.zeros(4, 16), torch.zeros(4, 16), Pairs.diagonal(4))
    assert loss.item() == pytest.approx(math.log(16), rel=1e-6)


def test_adding_a_constant_to_a_row_changes_nothing():
    draw = torch.Generator().manual_seed(0)
    p, t = torch.randn(4, 6, generator=draw), torch.randn(4, 6, generator=draw)
    pairs, loss = Pairs.diagonal(4), Distillation()
    shift = torch.randn(4, 1, generator=draw)
    torch.testing.assert_close(loss(p + shift, t - shift, pairs), loss(p, t, pairs), rtol=1e-5, atol=1e-6)


def test_the_gradient_is_the_difference_of_the_two_distributions():
    draw = torch.Generator().manual_seed(0)
    p, t = (torch.randn(3, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    p.requires_grad_()
    Distillation(student_temperature=0.5, teacher_temperature=0.25).double()(p, t, Pairs.diagonal(3)).backward()
    expected = (torch.softmax(p.detach() / 0.5, -1) - torch.softmax(t / 0.25, -1)) / 0.5 / 3
    torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=1e-9)


def test_the_gradient_agrees_with_finite_differences():
    draw = torch.Generator().manual_seed(0)
    p, t = (torch.randn(3, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    pairs = pairs_of([0, 2, 2], [1, 0, 2], [0.5, 0.2, 0.3])
    loss = Distillation(student_temperature=1.0, teacher_temperature=1.0).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, t, pairs), p.requires_grad_())


@pytest.mark.parametrize("at_once", [1, 7, 14, 50])
def test_some_pairs_at_a_time_come_to_the_same_loss_and_gradient(at_once, monkeypatch):
    pairs = random_pairs(23, 6, 5)
    p, t = randn(6, 7), randn(5, 7, seed=1)
    whole = loss_and_gradient(Distillation(), p, t, pairs)
    monkeypatch.setattr(distillation, "AT_ONCE", at_once)
    torch.testing.assert_close(loss_and_gradient(Distillation(), p, t, pairs), whole, rtol=1e-12, atol=1e-14)


def test_what_is_held_for_the_gradient_does_not_grow_with_the_pairs():
    held = {}
    for n in (10, 1000):
        saved, pairs = [], random_pairs(n, 6, 5)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()), lambda x: x):
            Distillation()(randn(6, 7).requires_grad_(), randn(5, 7, seed=1), pairs)
        held[n] = sum(saved)
    assert held[1000] == held[10] == 6 * 7 + 5 * 7 + 1  # predictions, distributions of targets, a temperature


def test_half_precision_scores_are_summed_in_float32():
    draw = torch.Generator().manual_seed(0)
    p, t = (torch.randn(4, 100, generator=draw).half() for _ in range(2))
    loss = Distillation()(p, t, Pairs.diagonal(4))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, Distillation()(p.float(), t.float(), Pairs.diagonal(4)))


def test_under_mixed_precision_the_loss_is_that_in_float32():
    draw = torch.Generator().manual_seed(0)
    p, t = (torch.randn(4, 100, generator=draw) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = Distillation()(p, t, Pairs.diagonal(4))
    assert torch.equal(mixed, Distillation()(p, t, Pairs.diagonal(4)))


def test_very_large_scores_stay_finite():
    p = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = Distillation()(p, -p.detach(), Pairs.diagonal(1))
    loss.backward()
    assert loss.isfinite()
    assert p.grad.isfinite().all()


def test_scheduled_temperatures_hold_from_their_time_on():
    draw = torch.Generator().manual_seed(0)
    p, t = (torch.randn(3, 5, generator=draw) for _ in range(2))
    loss = Distillation(teacher_temperature=Linear(0.04, 0.08, epochs=3, stepwise=True))
    for epoch, temperature in enumerate((0.04, 0.06, 0.08, 0.08)):
        loss.set_time(Time(step=2 * epoch + 1, n_steps=8, steps_per_epoch=2))
        expected = Distillation(teacher_temperature=temperature)(p, t, Pairs.diagonal(3))
        torch.testing.assert_close(loss(p, t, Pairs.diagonal(3)), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("b, c", [(1, 2), (4, 7), (16, 100)])
@pytest.mark.parametrize("n_global, n_local", [(2, 0), (2, 6), (3, 1)])
@pytest.mark.parametrize("teacher_temperature, student_temperature", [(0.04, 0.1), (0.07, 0.2)])
def test_over_all_crops_and_centred_logits_it_is_the_loss_of_dino(
    b, c, n_global, n_local, teacher_temperature, student_temperature
):
    student, teacher, centre = randn(n_global + n_local, b, c), randn(n_global, b, c, seed=1), randn(c, seed=2)
    oracle = DINOLoss(c, teacher_temp=teacher_temperature, student_temp=student_temperature).double()

    def theirs(x):
        oracle.center.copy_(centre)  # it moves in every call
        return oracle(list(teacher), list(x))

    expected, slope = loss_and_gradient(theirs, student)
    loss = Distillation(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    centred = (teacher - centre).flatten(0, 1)
    found, gradient = loss_and_gradient(loss, student.flatten(0, 1), centred, across_views(b, n_global, n_local))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # temperatures and weights are in float32
    torch.testing.assert_close(gradient, slope.flatten(0, 1), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("b, side, c", [(1, 2, 3), (4, 5, 7), (6, 7, 50)])
@pytest.mark.parametrize("seed", range(2))
def test_over_masked_patches_that_share_the_weight_of_their_image_it_is_the_loss_of_ibot(b, side, c, seed):
    mask = torch.rand(b, side, side, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[0] = False  # an image without a masked patch still counts as an image
    mask[-1, 0, 0] = True
    n = int(mask.sum())
    student, teacher, centre = randn(n, c, seed=seed), randn(n, c, seed=seed + 1), randn(c, seed=2)
    oracle = IBOTPatchLoss(c).double()

    def theirs(x):
        oracle.center.center.copy_(centre)  # it moves in every call
        return oracle(teacher, x, mask)

    expected, slope = loss_and_gradient(theirs, student)
    image = mask.nonzero()[:, 0]
    weight = 1.0 / image.bincount(minlength=b)[image] / b
    pairs = Pairs.diagonal(n, weight=weight.tolist())
    found, gradient = loss_and_gradient(Distillation(), student, teacher - centre, pairs)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-8)
