"""Losses that look at other ranks: two ranks against one that has all rows, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sslkit import distributed
from sslkit.losses import Covariance, InfoNCE, KoLeo, MeanEntropy, SwappedAssignment, Variance
from sslkit.types import Pairs
from tests.pairings import across_views, randn
from tests.ranks import on_ranks

pytestmark = pytest.mark.slow
WORLD, B, C, D = 2, 6, 5, 4
EXACT = dict(rtol=1e-11, atol=1e-13)
SHARES = {"even": (3, 3), "uneven": (4, 2), "nobody here": (6, 0), "nobody there": (0, 6)}
LOSSES = {
    "view": InfoNCE(temperature=0.25),
    "views": InfoNCE(temperature=0.25, negatives="views"),
    "predictions": InfoNCE(temperature=0.25, negatives="predictions"),
    "codes": SwappedAssignment(temperature=0.25, balance_temperature=0.5),
    "entropy": MeanEntropy(temperature=0.25),
    "distances": KoLeo(),
    "variance": Variance(least=3.0),
    "covariance": Covariance(),
}
ALONE = {
    "view": InfoNCE(temperature=0.25, scope="rank"),
    "views": InfoNCE(temperature=0.25, negatives="views", scope="rank"),
    "predictions": InfoNCE(temperature=0.25, negatives="predictions", scope="rank"),
    "codes": SwappedAssignment(temperature=0.25, balance_temperature=0.5, scope="rank"),
    "distances": KoLeo(scope="rank"),
    "variance": Variance(least=3.0, scope="rank"),
    "covariance": Covariance(scope="rank"),
}
MEANS = ("distances", "variance", "covariance")  # over rows, whatever their pairs weigh


def all_pairs():
    """Pairs of all images: some weigh nothing, and images on both ranks have one neighbour."""
    pairs = across_views(B, n_global=2, n_local=1)
    ids = torch.tensor([3, 1, 4, 3, 5, 1]).repeat(2)
    weight = pairs.weight.double() * torch.rand(len(pairs.i), generator=torch.Generator().manual_seed(0)).double()
    weight[::5] = 0
    return replace(pairs, target=replace(pairs.target, ids=ids), weight=weight)


def share_of(pairs, first, n):
    """The rows of some items, and the pairs between them, with weights whose mean over ranks is that of all pairs."""
    here, there = ((x.item >= first) & (x.item < first + n) for x in (pairs.prediction, pairs.target))
    rows_p, rows_t = here.nonzero()[:, 0], there.nonzero()[:, 0]
    mine = here[pairs.i]
    assert torch.equal(mine, there[pairs.j])
    share = Pairs(
        prediction=pairs.prediction.at(rows_p),
        target=pairs.target.at(rows_t),
        i=(here.cumsum(0) - 1)[pairs.i[mine]],
        j=(there.cumsum(0) - 1)[pairs.j[mine]],
        weight=distributed.world_size() * pairs.weight[mine],
    )
    return share, rows_p, rows_t


def run(loss, counts):
    """The loss of this rank's images, and the gradients of the layers that make its rows, averaged over ranks."""
    first = sum(counts[: distributed.rank()])
    share, rows_p, rows_t = share_of(all_pairs(), first, counts[distributed.rank()])
    student, teacher = (torch.nn.Parameter(randn(D, C, seed=seed)) for seed in (2, 3))
    prediction, target = randn(3 * B, D)[rows_p] @ student, randn(2 * B, D, seed=1)[rows_t] @ teacher
    value = loss(prediction, target, share)
    value.backward()
    distributed.average_gradients([student, teacher])
    return dict(loss=value.detach(), student=student.grad, teacher=teacher.grad)


def gathered(counts):
    """Rows of all ranks, and the gradient of this rank's when rank r weighs row k by (r + 1) * k."""
    n = counts[distributed.rank()]
    x = (10.0 * distributed.rank() + torch.arange(n)).view(n, 1).expand(n, 2).clone().requires_grad_()
    everything = distributed.gather_with_gradient(x)
    (everything * (torch.arange(len(everything)) * (distributed.rank() + 1)).view(-1, 1)).sum().backward()
    return everything.detach(), x.grad


def work():
    made = {
        shares: dict(
            together={name: run(loss, counts) for name, loss in LOSSES.items()},
            alone={name: run(loss, counts) for name, loss in ALONE.items()},
            gathered=gathered(counts),
        )
        for shares, counts in SHARES.items()
    }
    if distributed.rank() == 0:
        made["meta"] = distributed.gather_with_gradient(torch.zeros(3, 2, device="meta")).shape
    return made


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), WORLD)


def mean_loss(ranks, shares, kind, name):
    return sum(rank[shares][kind][name]["loss"] for rank in ranks) / WORLD


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_have_the_mean_loss_and_the_averaged_gradients_of_one_rank_with_all_rows(ranks, shares, name):
    whole = run(LOSSES[name], (B,))
    assert whole["loss"] != 0
    torch.testing.assert_close(mean_loss(ranks, shares, "together", name), whole["loss"], **EXACT)
    for rank in ranks:
        found = rank[shares]["together"][name]
        torch.testing.assert_close(found["student"], whole["student"], **EXACT)
        torch.testing.assert_close(found["teacher"], whole["teacher"], **EXACT)


@pytest.mark.parametrize("name", ALONE)
def test_within_ranks_other_ranks_do_not_count(ranks, name):
    found, whole = mean_loss(ranks, "even", "alone", name), run(LOSSES[name], (B,))["loss"]
    assert not torch.allclose(found, whole, rtol=1e-3)
    for half, rank in enumerate(ranks):
        share, rows_p, rows_t = share_of(all_pairs(), half * B // 2, B // 2)
        layers = (randn(D, C, seed=2), randn(D, C, seed=3))
        rows = randn(3 * B, D)[rows_p] @ layers[0], randn(2 * B, D, seed=1)[rows_t] @ layers[1]
        expected = LOSSES[name](*rows, share) * (1 if name in MEANS else WORLD)
        torch.testing.assert_close(rank["even"]["alone"][name]["loss"], expected, **EXACT)


@pytest.mark.parametrize("shares", SHARES)
def test_gathered_rows_stand_in_rank_order_and_their_gradients_are_summed_over_ranks(ranks, shares):
    counts = SHARES[shares]
    expected = torch.cat([10.0 * r + torch.arange(n) for r, n in enumerate(counts)])[:, None].expand(-1, 2)
    for r, rank in enumerate(ranks):
        rows, gradient = rank[shares]["gathered"]
        assert torch.equal(rows, expected)
        place = sum(counts[:r]) + torch.arange(counts[r])
        assert torch.equal(gradient, (3.0 * place)[:, None].expand(-1, 2))


def test_one_rank_rehearses_a_gathering_without_the_others(ranks):
    assert ranks[0]["meta"] == (3, 2)


def test_alone_gathering_is_the_identity():
    x = torch.randn(3, 2)
    assert distributed.gather_with_gradient(x) is x
