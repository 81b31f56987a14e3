"""BatchNorm over all ranks where there is one of them, its gradient, and what `synchronise` leaves as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from sslkit.backbones.untrained import with_statistics
from sslkit.batch_norm import Moments, SynchronisedBatchNorm, normalised, synchronise
from tests.pairings import randn

LAYERS = {
    "rows": (lambda **kw: nn.BatchNorm1d(4, **kw), (6, 4)),
    "sequences": (lambda **kw: nn.BatchNorm1d(4, **kw), (3, 4, 5)),
    "maps": (lambda **kw: nn.BatchNorm2d(4, **kw), (3, 4, 5, 2)),
    "timm's": (lambda **kw: BatchNormAct2d(4, drop_layer=nn.Identity, **kw), (3, 4, 5, 2)),
}
KINDS = [{}, dict(affine=False), dict(momentum=None), dict(momentum=0.3), dict(track_running_stats=False)]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_alone_a_synchronised_layer_is_the_plain_one_to_the_last_bit(layer, kind):
    make, shape = LAYERS[layer]
    plain = make(**kind).double()
    ours = copy.deepcopy(plain)
    synchronise(ours)
    for mode in (True, True, False):
        made = []
        for norm in (plain.train(mode), ours.train(mode)):
            norm.zero_grad()
            x = randn(*shape).requires_grad_()
            y = norm(x)
            (y**3).sum().backward()
            made.append([y, x.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
        assert all(torch.equal(here, there) for here, there in zip(*made, strict=True))


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_the_gradient_knows_that_the_moments_are_made_of_the_rows(shape, affine):
    x = randn(*shape).requires_grad_()
    weight, bias = (randn(3, seed=seed).requires_grad_() if affine else None for seed in (1, 2))

    def norm(x, weight, bias):
        return normalised(x, Moments.of(x), weight, bias, 1e-5)

    assert torch.autograd.gradcheck(norm, (x, weight, bias))
    plain = torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True)
    torch.testing.assert_close(norm(x, weight, bias), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [(8,), (3, 5), (0, 8), (1, 0, 7), (0, 0)])
def test_moments_of_parts_join_into_those_of_the_whole(sizes):
    x = randn(sum(sizes), 3)
    whole = Moments.joined([Moments.of(part) for part in x.split(sizes)])
    assert whole.count == len(x)
    if len(x):
        torch.testing.assert_close(whole.mean, x.mean(dim=0), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(whole.var, x.var(dim=0, correction=0), rtol=1e-13, atol=0)
    else:
        assert whole.mean.eq(0).all() and whole.var.eq(0).all()


def test_a_large_mean_costs_the_variance_no_digits():
    x = 1e3 + randn(1000, 3).float()  # a difference of means of squares would be wrong by percents
    parts = [Moments.of(part) for part in x.split(70)]
    torch.testing.assert_close(
        Moments.joined(parts).var, x.double().var(dim=0, correction=0).float(), rtol=1e-5, atol=0
    )


def test_rows_in_half_precision_are_measured_in_float32():
    x = randn(50, 3).bfloat16()
    moments = Moments.of(x)
    assert moments.mean.dtype == torch.float32
    torch.testing.assert_close(moments.mean, x.float().mean(dim=0), rtol=1e-6, atol=1e-7)


def network():
    shared = nn.BatchNorm1d(5)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.Flatten(), nn.Linear(16, 5), shared, nn.Linear(5, 5), shared
    )


def test_synchronising_changes_nothing_but_the_class():
    net = network()
    seen, names, tensors = [], list(net.state_dict()), [*net.parameters(), *net.buffers()]
    net[4].eval()
    net[4].register_forward_hook(lambda *_: seen.append("hooked"))
    before = list(net.modules())
    synchronise(net)
    synchronise(net)  # again changes nothing
    assert list(net.state_dict()) == names
    assert all(x is y for x, y in zip([*net.parameters(), *net.buffers()], tensors, strict=True))
    assert all(m is n for m, n in zip(net.modules(), before, strict=True))
    assert [type(net[i]).__name__ for i in (1, 4)] == ["SynchronisedBatchNormAct", "SynchronisedBatchNorm"]
    assert net[4] is net[6] and not net[4].training and net[1].training
    assert net(torch.randn(2, 3, 2, 2)).shape == (2, 5)
    assert seen == ["hooked"] * 2


def test_a_kind_of_batch_norm_that_is_not_known_is_refused_by_name():
    class Odd(nn.BatchNorm1d):
        pass

    with pytest.raises(ValueError, match=r"stem.1 is a Odd, .* batch_norm_scope='rank'"):
        synchronise(nn.ModuleDict({"stem": nn.Sequential(nn.Linear(3, 3), Odd(3))}))


def test_torchs_own_synchronised_layer_becomes_ours():
    net = nn.Sequential(nn.SyncBatchNorm(3))
    synchronise(net)
    assert type(net[0]) is SynchronisedBatchNorm


# statistics of layers that were not trained


def test_statistics_are_those_of_the_images_and_the_network_given_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    pixels = 3 + 2 * torch.randn(8, 3, 6, 6)
    settled = with_statistics(network, pixels)
    made = settled(pixels)
    torch.testing.assert_close(made.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert not settled[1].training


def test_a_network_without_batch_norm_comes_back_itself():
    network = nn.Linear(2, 2)
    assert with_statistics(network, torch.zeros(1, 3, 2, 2)) is network
