"""The cosine loss against its formula and against that of another library."""

from __future__ import annotations

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity

from sslkit.losses import Cosine
from sslkit.types import Pairs
from tests.pairings import loss_and_gradient, randn, random_pairs


@pytest.mark.parametrize("n, p, t, c", [(1, 1, 1, 2), (9, 4, 3, 5), (5, 20, 8, 3)])
def test_it_is_the_squared_distance_of_normalised_rows(n, p, t, c):
    pairs, prediction, target = random_pairs(n, p, t), randn(p, c), randn(t, c, seed=1)
    expected = sum(
        w * (prediction[i] / prediction[i].norm() - target[j] / target[j].norm()).square().sum()
        for i, j, w in zip(pairs.i, pairs.j, pairs.weight, strict=True)
    )
    torch.testing.assert_close(Cosine()(prediction, target, pairs), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n, c", [(1, 2), (4, 3), (32, 64)])
def test_it_is_twice_the_negative_cosine_similarity_plus_two(n, c):
    prediction, target = randn(n, c), 5 * randn(n, c, seed=1)
    negative, expected = loss_and_gradient(NegativeCosineSimilarity(), prediction, target)
    found, gradient = loss_and_gradient(Cosine(), prediction, target, Pairs.diagonal(n, weight=[1 / n] * n))
    torch.testing.assert_close(found, 2 + 2 * negative, rtol=1e-6, atol=1e-6)  # the weights are in float32
    torch.testing.assert_close(gradient, 2 * expected, rtol=1e-6, atol=1e-9)


def test_opposite_rows_cost_four_and_length_does_not_matter():
    rows = randn(3, 4)
    assert Cosine()(rows, -7 * rows, Pairs.diagonal(3)).item() == pytest.approx(4)
    assert Cosine()(rows, 7 * rows, Pairs.diagonal(3)).item() == pytest.approx(0, abs=1e-9)


def test_a_row_of_zeros_has_a_finite_gradient():
    _, gradient = loss_and_gradient(Cosine(), torch.zeros(2, 4), torch.ones(2, 4), Pairs.diagonal(2))
    assert gradient.isfinite().all()


def test_rows_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="prediction has 4 scores a row, but target has 3"):
        Cosine()(torch.zeros(2, 4), torch.zeros(2, 3), Pairs.diagonal(2))
