"""The shared tensor functions against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit import ops


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masses(*size, seed=1):
    m = torch.rand(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return m / m.sum(dim=-1, keepdim=True)


def plan_and_potential(*given, **named):
    """The transport plan and the logarithm of its column factors."""
    kernel, row, column = ops.scalings(*given, **named)
    return kernel * row[..., None] * column[..., None, :], column.log()


def rescaled(scores, row_mass, column_mass, n_rounds):
    """The plan of one matrix, scaled as a whole in every round."""
    plan = torch.exp(scores)
    for _ in range(n_rounds):
        for i in range(plan.shape[0]):
            plan[i] *= row_mass[i] / plan[i].sum()
        for k in range(plan.shape[1]):
            plan[:, k] *= column_mass[k] / plan[:, k].sum()
    return plan


@pytest.mark.parametrize("n, k", [(1, 1), (4, 3), (3, 7), (20, 5)])
@pytest.mark.parametrize("n_rounds", [1, 2, 5])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_sinkhorn_is_the_loop_that_rescales_the_whole_plan(n, k, n_rounds, batch):
    scores, rows, columns = 3 * randn(*batch, n, k), masses(*batch, n), masses(*batch, k, seed=2)
    plan, v = plan_and_potential(scores, rows, columns, n_rounds)
    together = zip(
        scores.view(-1, n, k), rows.view(-1, n), columns.view(-1, k), plan.view(-1, n, k), v.view(-1, k), strict=True
    )
    for s, r, c, found, factor in together:
        expected = rescaled(s, r, c, n_rounds)
        torch.testing.assert_close(ops.sinkhorn(s, r, c, n_rounds), expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
        log_row = expected.log() - s - factor  # what is left is a number per row
        torch.testing.assert_close(log_row, log_row[:, :1].expand(-1, k), rtol=0, atol=1e-10)


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.1, 10), st.integers(0, 100))
def test_columns_of_a_plan_are_exact_and_rows_become_so(n, k, sharpness, seed):
    rows, columns = masses(n, seed=seed), masses(k, seed=seed + 1)
    plan = ops.sinkhorn(sharpness * randn(n, k, seed=seed), rows, columns, 5)
    torch.testing.assert_close(plan.sum(dim=0), columns, rtol=1e-10, atol=0)
    settled = ops.sinkhorn(randn(n, k, seed=seed), rows, columns, 1000)
    torch.testing.assert_close(settled.sum(dim=1), rows, rtol=1e-6, atol=0)


def test_a_number_added_to_a_row_of_scores_does_not_matter():
    scores, rows, columns = randn(6, 4), masses(6), masses(4)
    shifted = scores + 100 * randn(6, 1, seed=3)
    found, expected = ops.sinkhorn(shifted, rows, columns, 3), ops.sinkhorn(scores, rows, columns, 3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_huge_scores_and_empty_masses_stay_finite_in_float32():
    scores = torch.tensor([[1e4, 0.0, -1e4], [1e4, 1e4, -1e4]])
    plan, v = plan_and_potential(scores, torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5, 0.0]), 5)
    assert plan.isfinite().all()
    assert v.isfinite().all()
    assert (plan[1] == 0).all()


def test_rows_spread_over_ranks_give_the_plan_of_all_of_them():
    scores, rows, columns = randn(6, 3), masses(6), masses(3)
    whole = ops.sinkhorn(scores, rows, columns, 4)
    sums = []  # of the columns, round by round, as the second half adds them
    plan = torch.exp(scores - scores.amax(dim=1, keepdim=True))
    column = torch.ones(3, dtype=torch.float64)
    for _ in range(4):
        row = rows / (plan @ column)
        sums.append((plan[3:].T @ row[3:])[:, None])
        column = columns / (plan.T @ row)
    said = iter(sums)
    half, _ = plan_and_potential(scores[:3], rows[:3], columns, 4, total=lambda x: x + next(said))
    torch.testing.assert_close(half, whole[:3], rtol=1e-10, atol=0)


def test_pool_sums_the_tokens_of_each_cluster():
    tokens, assignment = randn(2, 5, 3), randn(2, 5, 4, seed=1)
    for b in range(2):
        for k in range(4):
            expected = sum(assignment[b, n, k] * tokens[b, n] for n in range(5))
            torch.testing.assert_close(ops.pool(tokens, assignment)[b, k], expected)


def test_non_empty_columns_sum_to_one_and_empty_ones_stay_zero():
    assignment = ops.one_hot(torch.tensor([[0, 2, 2, 2], [1, 1, 1, 1]]), 3)
    scaled = ops.per_column(assignment)
    assert torch.equal(scaled.sum(dim=1), torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    torch.testing.assert_close(scaled[0, :, 2], torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]))


def test_one_hot_is_torchs_in_floating_point():
    labels = torch.randint(7, (3, 4, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(ops.one_hot(labels, 7), torch.nn.functional.one_hot(labels, 7).float())


@given(st.integers(1, 10), st.integers(1, 10), st.integers(0, 100))
def test_nearest_is_the_row_of_largest_cosine(q, m, seed):
    queries, bank = randn(q, 4, seed=seed), 10 * randn(m, 4, seed=seed + 1)
    for row, found in zip(queries, ops.nearest(queries, bank).tolist(), strict=True):
        cosines = [float(row @ b / row.norm() / b.norm()) for b in bank]
        assert cosines[found] >= max(cosines) - 1e-6


def test_nearest_passes_over_rows_that_are_not_allowed():
    queries, bank = randn(20, 4), randn(8, 4, seed=1)
    among = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0]).bool()
    kept = among.nonzero()[:, 0]
    assert torch.equal(ops.nearest(queries, bank, among), kept[ops.nearest(queries, bank[kept])])


def test_nearest_of_some_queries_at_a_time_are_those_of_all_together(monkeypatch):
    queries, bank = randn(20, 4), randn(8, 4, seed=1)
    whole = ops.nearest(queries, bank)
    monkeypatch.setattr(ops, "AT_ONCE", 3 * len(bank))
    assert torch.equal(ops.nearest(queries, bank), whole)


def test_nearest_of_no_queries_is_nothing():
    assert ops.nearest(torch.zeros(0, 3), torch.randn(2, 3)).shape == (0,)


def test_nearest_takes_half_precision_and_compares_in_float32():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.001]]).half()
    assert ops.nearest(torch.tensor([[1.0, 0.001]]).half(), bank).tolist() == [1]


def test_nearest_tells_apart_in_float64_what_float32_does_not():
    bank = torch.tensor([[1.0, 0.0], [1.0, 1e-6]], dtype=torch.float64)
    assert ops.nearest(bank[1:], bank).tolist() == [1]
    assert ops.nearest(bank[1:].float(), bank.float()).tolist() == [0]


@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
def test_places_are_drawn_as_often_as_their_softmax_says(temperature):
    n, scores = 4096, torch.tensor([0.3, -torch.inf, 0.9, 0.1, -torch.inf])
    place = ops.draw(scores.expand(n, -1), temperature, (torch.arange(n) + 0.5) / n)
    share = torch.bincount(place, minlength=5) / n
    torch.testing.assert_close(share, (scores / temperature).softmax(dim=0), rtol=0, atol=1 / n)
    assert (place.diff() >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_range_draw_the_first_and_the_last_place_that_can_be_drawn(dtype):
    scores = torch.tensor([[-torch.inf, 0.2, 0.1, -torch.inf]], dtype=dtype)
    last = torch.nextafter(torch.tensor([1.0]), torch.zeros(1))
    assert ops.draw(scores, 1.0, torch.zeros(1)).tolist() == [1]
    assert ops.draw(scores, 1.0, last).tolist() == [2]


def test_where_nothing_can_be_drawn_the_first_place_comes_out():
    assert ops.draw(torch.full((2, 3), -torch.inf), 0.1, torch.tensor([0.0, 0.9])).tolist() == [0, 0]


def test_a_temperature_near_zero_draws_the_largest_score():
    scores = randn(50, 6)
    assert torch.equal(ops.draw(scores, 1e-30, torch.rand(50)), scores.argmax(dim=1))


@pytest.mark.parametrize("n, d", [(1, 4), (7, 4), (4, 7), (30, 5)])
def test_the_effective_rank_is_that_of_the_singular_values(n, d):
    rows = randn(2, n, d)
    found = ops.effective_rank(ops.gram(rows))
    for part, rank in zip(rows, found, strict=True):
        share = torch.linalg.svdvals(part)
        share = (share / share.sum()).tolist()
        assert rank.item() == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-9)


def test_directions_of_equal_strength_count_one_each_and_rounding_counts_none():
    assert ops.effective_rank(ops.gram(3 * torch.eye(9)[:5])).item() == pytest.approx(5, rel=1e-12)
    one = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)) @ torch.ones(1, 64)  # float32
    assert ops.effective_rank(ops.gram(one)).item() == pytest.approx(1, abs=1e-4)
    assert ops.effective_rank(ops.gram(torch.zeros(3, 9, 4))).tolist() == [0, 0, 0]
