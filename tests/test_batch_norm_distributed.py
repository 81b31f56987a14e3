"""BatchNorm on several ranks against torch's on one that has all rows, in float64."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from sslkit import distributed
from sslkit.batch_norm import SynchronisedBatchNorm, synchronise
from tests.pairings import randn
from tests.ranks import on_ranks

pytestmark = pytest.mark.slow
EXACT = dict(rtol=1e-12, atol=1e-12)
WORLD = 3
SPLITS = [(3, 3, 2), (5, 3, 0), (0, 8, 0), (1, 1, 6)]  # of eight rows
LAYERS = {
    "rows": (lambda **kw: nn.BatchNorm1d(4, **kw), ()),
    "sequences": (lambda **kw: nn.BatchNorm1d(4, **kw), (3,)),
    "maps": (lambda **kw: nn.BatchNorm2d(4, **kw), (3, 2)),
    "timm's": (lambda **kw: BatchNormAct2d(4, drop_layer=nn.Identity, **kw), (3, 2)),
}
KINDS = [{}, dict(affine=False), dict(momentum=None), dict(momentum=0.3), dict(track_running_stats=False)]
CASES = [(layer, 0) for layer in LAYERS] + [("rows", kind) for kind in range(1, len(KINDS))]


def norm_of(layer, kind):
    make, _ = LAYERS[layer]
    norm = make(**KINDS[kind]).double()
    for seed, p in enumerate(norm.parameters()):
        p.data = 1 + 0.5 * randn(4, seed=10 + seed)
    return norm


def run(norm, layer, mine):
    """Two steps and an evaluation on some of eight rows: what comes out, gradients and running statistics."""
    seen = []
    for step in range(2):
        norm.zero_grad()
        x = (100 * step + randn(8, 4, *LAYERS[layer][1], seed=step))[mine].requires_grad_()
        y = norm(x)
        weight = randn(8, 4, *LAYERS[layer][1], seed=20 + step)[mine]
        (weight * y**3).sum().backward()
        distributed.average_gradients(list(norm.parameters()))
        seen.append([y.detach(), x.grad, [p.grad.clone() for p in norm.parameters()]])
    if norm.track_running_stats:  # else it is by what comes in, of this rank alone
        seen.append([norm.eval()(x).detach()])
    return dict(seen=seen, buffers=dict(norm.named_buffers()))


def own_of(split):
    first = sum(split[: distributed.rank()])
    return slice(first, first + split[distributed.rank()])


def refusal(call):
    try:
        call()
    except ValueError as error:
        return str(error)


def special():
    """What happens at the edges, by name."""
    rank, made = distributed.rank(), {}
    norm = SynchronisedBatchNorm(3)
    made["lone row"] = refusal(lambda: norm(torch.zeros(int(rank == 0), 3)))
    norm = SynchronisedBatchNorm(3)
    made["no row"] = norm(torch.zeros(0, 3)).shape, dict(norm.named_buffers())
    if rank == 0:  # nobody waits for the others
        made["meta"] = SynchronisedBatchNorm(3, device="meta")(torch.zeros(4, 3, device="meta")).shape
        made["eval"] = SynchronisedBatchNorm(3).eval()(torch.ones(1, 3))
    made["while the others wait"] = distributed.on_main(lambda: SynchronisedBatchNorm(3)(torch.eye(4, 3)))
    frozen = SynchronisedBatchNorm(3).double()
    frozen(randn(4, 3, seed=rank)).square().sum().backward()
    made["rows without gradient"] = frozen.weight.grad
    x = randn(60, 3, seed=1).bfloat16()[20 * rank : 20 * rank + 20].requires_grad_()
    norm = SynchronisedBatchNorm(3, momentum=1.0)
    y = norm(x)
    y.float().square().sum().backward()
    made["bfloat16"] = y.dtype, x.grad.dtype, norm.running_mean
    return made


def work():
    made = {}
    for split in SPLITS:
        for layer, kind in CASES:
            norm = norm_of(layer, kind)
            synchronise(norm)
            made[split, layer, kind] = run(norm, layer, own_of(split))
    return made | {"special": special()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), WORLD)


@pytest.mark.parametrize("layer, kind", CASES)
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_ranks_normalise_as_one_process_with_all_rows(ranks, split, layer, kind):
    found = [rank[split, layer, kind] for rank in ranks]
    whole = run(norm_of(layer, kind), layer, slice(None))
    for step, (y, *gradients) in enumerate(whole["seen"]):
        torch.testing.assert_close(torch.cat([rank["seen"][step][0] for rank in found]), y, **EXACT)
        if gradients:
            torch.testing.assert_close(torch.cat([rank["seen"][step][1] for rank in found]), gradients[0], **EXACT)
            for rank in found:  # the mean over ranks of the losses is their sum divided by their number
                for here, there in zip(rank["seen"][step][2], gradients[1], strict=True):
                    torch.testing.assert_close(here, there / WORLD, **EXACT)
    for rank in found:
        assert rank["buffers"].keys() == whole["buffers"].keys()
        for name, x in whole["buffers"].items():
            torch.testing.assert_close(rank["buffers"][name], x, **EXACT)
            assert torch.equal(rank["buffers"][name], found[0]["buffers"][name])


def test_a_lone_row_over_all_ranks_is_refused_on_each(ranks):
    for rank in ranks:
        assert rank["special"]["lone row"].startswith("BatchNorm of 3 channels measures 1 row in training, but")


def test_what_rank_0_does_alone_takes_in_its_own_rows(ranks):
    own, *others = (rank["special"]["while the others wait"] for rank in ranks)
    torch.testing.assert_close(own, torch.nn.BatchNorm1d(3)(torch.eye(4, 3)))
    assert others == [None] * (WORLD - 1)


def test_no_row_on_any_rank_leaves_the_running_statistics_as_torch_does(ranks):
    plain = nn.BatchNorm1d(3)
    plain(torch.zeros(0, 3))
    for rank in ranks:
        shape, buffers = rank["special"]["no row"]
        assert shape == (0, 3)
        assert all(torch.equal(x, buffers[name]) for name, x in plain.named_buffers())


def test_a_rehearsal_and_an_evaluation_wait_for_nobody(ranks):
    assert ranks[0]["special"]["meta"] == (4, 3)
    assert ranks[0]["special"]["eval"].shape == (1, 3)


def test_rows_that_need_no_gradient_are_normalised_all_the_same(ranks):
    x = torch.cat([randn(4, 3, seed=rank) for rank in range(WORLD)])
    unit = (x - x.mean(dim=0)) / (x.var(dim=0, correction=0) + 1e-5).sqrt()
    for at, rank in enumerate(ranks):
        expected = 2 * unit[4 * at : 4 * at + 4].square().sum(dim=0)  # not averaged yet
        torch.testing.assert_close(rank["special"]["rows without gradient"], expected, **EXACT)


def test_half_precision_stays_and_is_measured_in_float32(ranks):
    x = randn(60, 3, seed=1).bfloat16().float()
    for rank in ranks:
        out, slope, mean = rank["special"]["bfloat16"]
        assert (out, slope) == (torch.bfloat16, torch.bfloat16)
        torch.testing.assert_close(mean, x.mean(dim=0), rtol=1e-6, atol=1e-7)
