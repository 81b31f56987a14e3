"""Centerings against their formulas, and balancing against Sinkhorn-Knopp on the matrix of probabilities."""

from __future__ import annotations

import copy

import pytest
import torch

from sslkit.centerings import Balance, Mean, Off
from sslkit.schedules import Linear, Time

# rows, prototypes
SIZES = [(6, 3), (40, 8), (5, 12)]


def logits_of(n, c, seed=0):
    draw = torch.Generator().manual_seed(seed)
    popularity = 0.2 * torch.randn(c, generator=draw, dtype=torch.float64)
    return 0.1 * torch.randn(n, c, generator=draw, dtype=torch.float64) + popularity


def sinkhorn_knopp(probabilities, n_rounds):
    """The loop of SwAV and DINOv2: equal prototypes, then equal rows; rows of the answer sum to 1."""
    n, c = probabilities.shape
    q = probabilities.clone() / probabilities.sum()
    for _ in range(n_rounds):
        for prototype in range(c):
            q[:, prototype] /= q[:, prototype].sum() * c
        for row in range(n):
            q[row] /= q[row].sum() * n
    return q * n


def balanced(logits, weight, temperature, **settings):
    offset = Balance(temperature=temperature, **settings).double()(logits, weight)
    return torch.softmax((logits - offset) / torch.tensor(temperature).double(), dim=-1)  # kept as float32


@pytest.mark.parametrize("n, c", SIZES)
@pytest.mark.parametrize("n_rounds", [1, 3, 10])
@pytest.mark.parametrize("temperature", [0.04, 0.07, 1.0])
def test_balance_is_sinkhorn_knopp_on_the_matrix_of_probabilities(n, c, n_rounds, temperature):
    logits = logits_of(n, c)
    found = balanced(logits, torch.ones(n).double(), temperature, n_rounds=n_rounds)
    expected = sinkhorn_knopp(torch.softmax(logits / torch.tensor(temperature).double(), dim=-1), n_rounds)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n, c", SIZES)
def test_after_many_rounds_it_does_not_matter_whether_the_rows_were_normalised_first(n, c):
    logits = logits_of(n, c)
    expected = sinkhorn_knopp(torch.exp(logits / 0.1), 300)
    found = balanced(logits, torch.ones(n).double(), 0.1, n_rounds=300)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n, c", SIZES)
def test_balanced_prototypes_are_equally_popular(n, c):
    found = balanced(logits_of(n, c), torch.ones(n).double(), 0.1, n_rounds=300)
    torch.testing.assert_close(found.mean(dim=0), torch.full((c,), 1 / c).double(), rtol=1e-6, atol=0)


def test_rows_of_weight_zero_do_not_count():
    logits = logits_of(8, 4)
    weight = torch.tensor([1.0, 1, 0, 1, 0, 1, 1, 0]).double()
    kept = weight.bool()
    for centering in (Balance().double(), Mean().double()):
        if isinstance(centering, Mean):
            centering.build(4)
            centering.double()
            other = copy.deepcopy(centering)
            centering.move(logits, weight)
            other.move(logits[kept], weight[kept])
            torch.testing.assert_close(centering.centre, other.centre)
        torch.testing.assert_close(centering(logits, weight), centering(logits[kept], weight[kept]))


def test_a_row_of_weight_two_counts_as_two_rows():
    logits = logits_of(5, 4)
    weight = torch.tensor([1.0, 2, 1, 1, 1]).double()
    twice = torch.cat([logits, logits[1:2]])
    torch.testing.assert_close(Balance().double()(logits, weight), Balance().double()(twice, torch.ones(6).double()))


def test_balance_does_not_mind_a_constant_added_to_a_row():
    logits, weight = logits_of(6, 4), torch.ones(6).double()
    shifted = logits + torch.randn(6, 1, dtype=torch.float64)
    torch.testing.assert_close(Balance().double()(shifted, weight), Balance().double()(logits, weight))


def test_balance_takes_off_nothing_where_prototypes_are_equally_popular_already():
    logits = torch.eye(4).double().repeat(2, 1)
    offset = Balance(temperature=0.5, n_rounds=50).double()(logits, torch.ones(8).double())
    torch.testing.assert_close(offset, torch.zeros(4).double(), rtol=0, atol=1e-12)


def test_extreme_scores_balance_to_finite_offsets():
    logits = torch.tensor([[1000.0, 0, 0], [1000, 0, 0], [999, 0, -1000]])
    assert Balance()(logits, torch.ones(3)).isfinite().all()


def test_no_rows_balance_to_finite_offsets():
    assert Balance()(torch.zeros(0, 3), torch.zeros(0)).isfinite().all()


def test_balance_follows_a_scheduled_temperature():
    logits, weight = logits_of(6, 4).float(), torch.ones(6)
    scheduled = Balance(temperature=Linear(0.04, 0.08, epochs=2, stepwise=True))
    scheduled.set_time(Time(step=1, n_steps=4))
    torch.testing.assert_close(scheduled(logits, weight), Balance(temperature=0.08)(logits, weight))


def test_the_mean_centre_is_a_running_mean_of_weighted_means():
    draw = torch.Generator().manual_seed(0)
    centering = Mean(momentum=0.75)
    centering.build(3)
    expected = [0.0, 0.0, 0.0]
    for n in (4, 1, 6):
        logits, weight = torch.randn(n, 3, generator=draw), torch.rand(n, generator=draw)
        torch.testing.assert_close(centering(logits, weight), torch.tensor(expected))
        centering.move(logits, weight)
        total = sum(weight.tolist())
        for c in range(3):
            mean = sum(w * x for w, x in zip(weight.tolist(), logits[:, c].tolist(), strict=True)) / total
            expected[c] = 0.75 * expected[c] + 0.25 * mean
    torch.testing.assert_close(centering.centre, torch.tensor(expected))


@pytest.mark.parametrize("n", [0, 3])
def test_a_step_without_weight_leaves_the_mean_where_it_was(n):
    centering = Mean()
    centering.build(2)
    centering.centre.fill_(1.5)
    centering.move(torch.randn(n, 2), torch.zeros(n))
    assert centering.centre.tolist() == [1.5, 1.5]


def test_half_precision_logits_move_the_mean_in_float32():
    logits, weight = torch.randn(1000, 4).half(), torch.ones(1000)
    moved = []
    for x in (logits, logits.float()):
        centering = Mean(momentum=0.0)
        centering.build(4)
        centering.move(x, weight)
        moved.append(centering.centre)
    assert torch.equal(*moved)


def test_off_takes_off_nothing():
    assert torch.equal(Off()(torch.randn(3, 5), torch.ones(3)), torch.zeros(5))


@pytest.mark.parametrize(
    "make, named",
    [(lambda: Mean(momentum=1.5), "momentum=1.5"), (lambda: Balance(n_rounds=0), "n_rounds=0")],
)
def test_a_centering_that_cannot_be_is_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()
