"""Rows through a head some at a time against all of them together, in float64."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import nn

from sslkit import distributed
from sslkit.batch_norm import synchronise
from sslkit.heads import Projector, Prototypes
from sslkit.heads.chunks import through
from tests.pairings import randn
from tests.ranks import on_ranks

EXACT = dict(rtol=1e-12, atol=1e-12)
N, DIM, HIDDEN = 13, 4, 6


def layers_of(n_norms, *, affine=True, activation=nn.ReLU, **options):
    """Linear layers, each but the last with BatchNorm and an activation behind it."""
    torch.manual_seed(n_norms)
    layers = [nn.Linear(DIM, HIDDEN)]
    for _ in range(n_norms):
        layers += [nn.Sequential(nn.BatchNorm1d(HIDDEN, affine=affine, **options), activation())]
        layers += [nn.Linear(HIDDEN, HIDDEN)]
    net = nn.Sequential(*layers).double()
    for p in net.parameters():
        p.data = p.data + 0.1 * torch.randn_like(p)
    return net


def run(net, rows_at_a_time, mine=slice(None), n_steps=2):
    """What comes out in some steps, the gradients of rows and parameters, and the running statistics at the end."""
    made = []
    for step in range(n_steps):
        net.zero_grad()
        x, slope = ((10 * step + randn(N, d, seed=step + d))[mine] for d in (DIM, HIDDEN))
        x.requires_grad_()
        y = through([net], x, rows_at_a_time)
        (y * slope).sum().backward()
        distributed.average_gradients(list(net.parameters()))
        made.append([y.detach(), x.grad, [p.grad.clone() for p in net.parameters()]])
    return dict(made=made, buffers=[x.clone() for x in net.buffers()])


GRID = list(product([0, 1, 2, 3], [1, 3, 4, 13, 50], [True, False], [nn.ReLU, nn.GELU]))


@pytest.mark.parametrize("n_norms, size, affine, activation", GRID)
def test_some_rows_at_a_time_give_the_numbers_of_all_together(n_norms, size, affine, activation):
    net = layers_of(n_norms, affine=affine, activation=activation)
    found, whole = run(copy.deepcopy(net), size), run(net, None)
    torch.testing.assert_close(found, whole, **EXACT)


@pytest.mark.parametrize("options", [dict(momentum=None), dict(track_running_stats=False)], ids=str)
@pytest.mark.parametrize("mode", [True, False])
def test_running_statistics_move_and_serve_as_they_do_all_together(options, mode):
    net = layers_of(2, **options).train(mode)
    if mode is False:
        for x in net.buffers():
            x.copy_(1 + x.new_tensor(range(x.numel())).view_as(x))
    torch.testing.assert_close(run(copy.deepcopy(net), 4), run(net, None), **EXACT)


@pytest.mark.parametrize("n_norms", [0, 1, 2])
def test_the_gradient_agrees_with_finite_differences(n_norms):
    net = layers_of(n_norms, activation=nn.GELU, track_running_stats=False)
    parameters = tuple(net.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: through([net], x, 2), (randn(5, DIM).requires_grad_(), *parameters))


@pytest.mark.parametrize("frozen", [0, 2, 4])
@pytest.mark.parametrize("of_rows", [True, False])
def test_what_is_not_trained_gets_no_gradient_and_changes_none(frozen, of_rows):
    found, whole = [], []
    for made, size in ((found, 4), (whole, None)):
        net = layers_of(2)
        for p in net[:frozen].parameters():
            p.requires_grad_(False)
        x = randn(N, DIM).requires_grad_(of_rows)
        through([net], x, size).pow(2).sum().backward()
        made += [x.grad, *(p.grad for p in net.parameters())]
    assert [g is None for g in found] == [g is None for g in whole]
    torch.testing.assert_close([g for g in found if g is not None], [g for g in whole if g is not None], **EXACT)


def test_without_gradient_a_teachers_statistics_move_once():
    net = layers_of(2)
    other, x = copy.deepcopy(net), randn(N, DIM)
    with torch.no_grad():
        y, z = through([net], x, 4), through([other], x, None)
    assert y.grad_fn is None
    torch.testing.assert_close([y, *net.buffers()], [z, *other.buffers()], **EXACT)


def test_the_same_numbers_come_to_the_last_bit_again():
    torch.testing.assert_close(run(layers_of(2), 4), run(layers_of(2), 4), rtol=0, atol=0)


def test_no_rows_and_a_lone_row_are_answered_as_all_together():
    for net, size in ((layers_of(1), 4), (layers_of(1), None)):
        x = torch.zeros(0, DIM, dtype=torch.float64, requires_grad=True)
        y = through([net], x, size)
        y.sum().backward()
        assert y.shape == (0, HIDDEN) and x.grad.shape == (0, DIM)
        assert all(p.grad.eq(0).all() for p in net.parameters())
        assert net[1][0].running_mean.eq(0).all() and net[1][0].num_batches_tracked == 1
        with pytest.raises(ValueError, match=r"1 row|more than 1 value"):
            through([net], randn(1, DIM), size)


def test_a_weight_that_changes_before_the_gradient_is_noticed():
    net = layers_of(1)
    y = through([net], randn(N, DIM), 4)
    with torch.no_grad():
        net[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_under_mixed_precision_everything_has_the_precision_that_it_has_all_together():
    net = layers_of(2).float()
    made = []
    for size in (4, None):
        other, x = copy.deepcopy(net), randn(N, DIM).float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = through([other], x, size)
        y.float().pow(2).sum().backward()
        made.append([y, x.grad, *(p.grad for p in other.parameters()), *other.buffers()])
    assert made[0][0].dtype == torch.bfloat16
    for here, there in zip(*made, strict=True):
        torch.testing.assert_close(here, there, rtol=0.05, atol=0.05 * max(1.0, there.abs().max().item()))
        assert here.dtype == there.dtype


def test_a_cast_that_was_made_for_a_part_is_not_taken_for_one_with_gradient():
    net, x = layers_of(1).float(), randn(N, DIM).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        through([net], x, 4)
        net(x).float().pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net[0].weight.grad.abs().sum() > 0


def held(head, n):
    """Numbers that are kept for the gradient, parameters apart: those are there anyway."""
    saved, own = [], {p.data_ptr() for p in head.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(0 if x.data_ptr() in own else x.numel()), lambda x: x
    ):
        head(torch.randn(n, DIM).requires_grad_(), "image")
    return sum(saved)


def projector(hidden=HIDDEN, rows_at_a_time=None):
    torch.manual_seed(0)
    return Projector(
        {"image": 3}, dim=DIM, hidden=hidden, end_norm="plain", predictor_hidden=hidden, rows_at_a_time=rows_at_a_time
    )


def test_what_is_held_for_the_gradient_does_not_grow_with_the_hidden_width():
    n = 40
    for hidden in (8, 64):
        assert held(projector(hidden, rows_at_a_time=7), n) == n * DIM + n * 3  # rows and embeddings
    assert held(projector(64), n) > 3 * n * 64


@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: Projector({"image": 3, "region": 2}, dim=DIM, hidden=6, predictor_hidden=5, **kw),
        lambda **kw: Projector({"image": 3}, dim=DIM, hidden=6, n_layers=3, end_norm="affine", **kw),
        lambda **kw: Prototypes({"image": 5}, dim=DIM, hidden=6, bottleneck=3, batch_norm=True, **kw),
        lambda **kw: Prototypes({"image": 5}, dim=DIM, hidden=6, bottleneck=3, **kw),
    ],
)
def test_a_head_has_the_same_state_and_numbers_whatever_passes_together(make):
    whole, parts = make(), make(rows_at_a_time=4)
    assert list(whole.state_dict()) == list(parts.state_dict())
    parts.load_state_dict(whole.state_dict())
    made = []
    for head in (whole.double(), parts.double()):
        x = randn(N, DIM).requires_grad_()
        y = head(x, "image")
        (y**3).sum().backward()
        made.append([y, x.grad, *(p.grad for p in head.parameters() if p.grad is not None), *head.buffers()])
    assert len(made[0]) == len(made[1])
    for here, there in zip(*made, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-10, atol=1e-12)


# several processes

WORLD = 3
SPLITS = [(5, 5, 3), (10, 3, 0), (0, 0, 13)]


def share(split):
    first = sum(split[: distributed.rank()])
    return slice(first, first + split[distributed.rank()])


def work():
    made = {}
    for split in SPLITS:
        net = layers_of(2)
        synchronise(net)
        made[split] = run(net, 4, share(split))
    return made | {"alone": run(layers_of(2), 4, slice(0, 6 + distributed.rank()))}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), WORLD)


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_ranks_with_uneven_rows_have_the_numbers_of_one_process_with_all(ranks, split):
    whole = run(layers_of(2), None)
    for step, (y, slopes, parameters) in enumerate(whole["made"]):
        made = [rank[split]["made"][step] for rank in ranks]
        torch.testing.assert_close(torch.cat([x[0] for x in made]), y, **EXACT)
        torch.testing.assert_close(torch.cat([x[1] for x in made]), slopes, **EXACT)
        for x in made:
            torch.testing.assert_close([WORLD * g for g in x[2]], parameters, **EXACT)
    for rank in ranks:
        torch.testing.assert_close(rank[split]["buffers"], whole["buffers"], **EXACT)


@pytest.mark.slow
def test_layers_that_are_not_synchronised_measure_the_rows_of_their_rank(ranks):
    for at, rank in enumerate(ranks):
        here, there = (found["made"][0][:2] for found in (rank["alone"], run(layers_of(2), None, slice(0, 6 + at))))
        torch.testing.assert_close(here, there, **EXACT)
