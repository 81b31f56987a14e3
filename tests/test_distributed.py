"""Two ranks with half a batch each against one rank with all of it, in float64."""

from __future__ import annotations

import pytest
import torch

from sslkit import distributed, projection, scopes
from sslkit.aligners import PatchToImage, PatchToMatch, PatchToRegion, RegionAcrossImages, RegionAcrossViews
from sslkit.backbones import Timm
from sslkit.centerings import Balance, Mean
from sslkit.clusterers import Grid
from sslkit.evaluate.base import evaluating
from sslkit.heads import Projector
from sslkit.losses import (
    Cosine,
    Covariance,
    Distillation,
    InfoNCE,
    KoLeo,
    MeanEntropy,
    SwappedAssignment,
    Variance,
)
from sslkit.matchers import Adaptive, Cycle, Mutual, Nearest, SampledCycle
from sslkit.memories import Queue
from sslkit.search import Search
from sslkit.term import Term
from sslkit.types import Pairs
from tests.ranks import on_ranks
from tests.test_method import assert_close, batch_of, method_of, taken, terms_of

pytestmark = pytest.mark.slow
WORLD, B, N_STEPS = 2, 6, 4
EXACT = dict(rtol=1e-9, atol=1e-12)


def scoped(scope, normalise="direction"):
    return dict(
        region=Term(aligner=RegionAcrossViews(scope=scope), loss=Distillation(), head="region"),
        across=Term(
            aligner=RegionAcrossImages("objects", scope=scope, normalise=normalise), loss=Distillation(), head="region"
        ),
    )


def with_batch_norm(**options):
    """A method with BatchNorm in backbone, projector and predictor."""
    torch.manual_seed(0)
    backbone = Timm("resnet18", options={"layers": (1, 1, 0, 0), "channels": (8, 10, 10, 10)})
    head = Projector({"image": 8, "region": 7}, hidden=9, end_norm="plain", predictor_hidden=6, **options)
    return dict(backbone=backbone, heads=[head], terms=terms_of(loss=Cosine))


def cases():
    """Methods whose W ranks should equal one, or should not."""

    def searches(matcher=None, dtype="float32", n_images=15):
        memory = Queue(n_images, dtype=dtype)
        return {"objects": Search(matcher=matcher or Nearest(), memory=memory)}

    return {
        "mean": dict(searches=searches()),
        "balance": dict(searches=searches(), centering=Balance()),
        "static": dict(searches=searches(), centering={"image": Balance(), "region": Mean()}, static_shapes=True),
        "pooled": dict(searches=searches(), terms=terms_of(("image",)) | scoped("all", "pooled")),
        "small queue": dict(searches=searches(n_images=4)),
        "rank": dict(searches=searches(), terms=terms_of(("image",)) | scoped("rank")),
        "cycle": dict(searches=searches(Cycle())),
        "cycle per rank": dict(searches=searches(Cycle(scope="rank"))),
        "sampled cycle": dict(searches=searches(SampledCycle(temperature=0.5))),
        "mutual": dict(searches=searches(Mutual())),
        "static cycle": dict(searches=searches(Cycle()), static_shapes=True),
        "drawn": dict(searches=searches(Adaptive(temperature=0.3))),
        "contrast": dict(searches=searches(), terms=terms_of(loss=InfoNCE)),
        "codes": dict(searches=searches(), terms=terms_of(loss=SwappedAssignment)),
        "entropy": dict(searches=searches(), terms=terms_of(loss=MeanEntropy)),
        "regularisers": dict(searches=searches(), terms=regularisers()),
        "batch norm": dict(searches=searches(), **with_batch_norm()),
        "batch norm in chunks": dict(searches=searches(), **with_batch_norm(rows_at_a_time=5)),
        "empty batch norm": dict(searches=searches(), clusterer=Grid(1, 2), **with_batch_norm(rows_at_a_time=5)),
        "batch norm per rank": dict(searches=searches(), batch_norm_scope="rank", **with_batch_norm()),
        "empty contrast": dict(
            searches=searches(), clusterer=Grid(1, 2), terms=terms_of(loss=lambda: InfoNCE(negatives="predictions"))
        ),
        "empty cycle": dict(searches=searches(Cycle()), clusterer=Grid(1, 2)),
        "empty mutual": dict(searches=searches(Mutual()), clusterer=Grid(1, 2)),
        "empty regularisers": dict(searches=searches(), clusterer=Grid(1, 2), terms=regularisers()),
        "empty": dict(searches=searches(), clusterer=Grid(1, 2), centering=Balance()),
        "empty patches": dict(searches=searches(), clusterer=Grid(1, 2), centering=Balance(), terms=terms_of_patches()),
    }


def regularisers():
    """Losses on predictions alone, of regions, which ranks may not have, beside those that compare them."""
    of_regions = {type(loss).__name__: loss for loss in (KoLeo(), Variance(), Covariance())}
    terms = {
        name: Term(aligner=RegionAcrossViews(), head="region", loss=loss, weight=0.1)
        for name, loss in of_regions.items()
    }
    return terms | terms_of(("image", "region", "across"))


def terms_of_patches():
    """Patches against regions and matches, which some ranks may not have, beside what all have."""
    of_regions = {"region": PatchToRegion(), "across": PatchToMatch("objects")}
    terms = {name: Term(aligner=aligner, head="region", loss=Distillation()) for name, aligner in of_regions.items()}
    return terms | {"image": Term(aligner=PatchToImage(n_positions=5), head="image", loss=Distillation())}


def batches_of(case):
    for at in range(N_STEPS):
        batch = batch_of(at, b=B, first_image=B * at)
        if case.startswith("empty"):  # the views of the second half do not overlap, so these images have no region
            for v, view in enumerate(batch.views):
                view.box[B // 2 :] = torch.tensor([100.0 * v, 0, 40, 40], dtype=torch.float64)
                view.box[: B // 2] = torch.tensor([5.0 * v, 0, 40, 40], dtype=torch.float64)
        yield batch


def run(case):
    """A few steps on this rank's share of each batch: what was seen, and the state at the end."""
    method, seen = method_of(**cases()[case]), []
    share = B // distributed.world_size()
    mine = torch.arange(share) + distributed.rank() * share
    for batch in batches_of(case):
        method.student.zero_grad()
        outcome = method(taken(batch, mine))
        outcome.total.backward()
        distributed.average_gradients([p for p in method.student.parameters() if p.requires_grad])
        gradients = {n: p.grad.clone() for n, p in method.student.named_parameters() if p.grad is not None}
        with torch.no_grad():
            for p in method.student.parameters():
                p -= 0.1 * p.grad if p.grad is not None else 0
        method.update([outcome])
        losses = {name: loss.detach() for name, loss in outcome.losses.items()}
        accepted = outcome.step.matches["objects"].weight
        seen.append(dict(losses=losses, gradients=gradients, n=len(outcome.step.regions), accepted=accepted))
    memory = method.searches["objects"].memory
    slots = memory.slots()
    held = dict(ids=memory.ids(slots), ages=memory.ages(slots), counts=list(memory.counts))
    held |= {f"rows {p}": memory.rows(slots, plane=p) for p in (0, 1)}
    held |= {f"place {p}": memory.place(slots, plane=p) for p in (0, 1)}
    return dict(seen=seen, state=method.state_dict(), held=held)


GATHERED = {"uneven": (3, 1), "first has none": (0, 2), "second has none": (2, 0), "nobody has any": (0, 0)}


IDLE = [(1, 2), (1, 0), (1, 1), (0, 0), (3, 2)]  # rows that a pair on each rank uses, of four


def left_of(n, scope):
    """How many of four rows pass a head if `n` of them are used."""
    pairs = Pairs.diagonal(4, weight=[1.0] * n + [0.0] * (4 - n))
    return len(
        projection.without_idle_rows({"image": pairs}, {"image": "image"}, {"image": "image"}, scope)[
            "image"
        ].prediction
    )


def numbered(rank, n, *shape, dtype=torch.float64):
    return (100 * rank + torch.arange(n)).view(n, *[1] * len(shape)).expand(n, *shape).to(dtype)


def collectives():
    """What each function of `distributed` answers."""
    rank = distributed.rank()
    made = {
        name: [
            distributed.gather(numbered(rank, sizes[rank], 4)),
            distributed.gather(numbered(rank, sizes[rank], 2, 3, dtype=torch.float16)),
            distributed.gather(numbered(rank, sizes[rank], dtype=torch.long)),
        ]
        for name, sizes in GATHERED.items()
    }
    x = torch.tensor([1.0, 10.0]) * (rank + 1)
    made["total"] = [distributed.total(x), x]
    torch.manual_seed(rank)
    layer = torch.nn.BatchNorm1d(3)
    torch.nn.init.normal_(layer.weight)
    layer.running_mean.normal_()
    distributed.agree(layer)
    made["agree"] = [*layer.parameters(), *layer.buffers()]
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), 2.0 + 4 * rank)
    parameters[1].grad = torch.ones(2) if rank == 0 else None
    distributed.average_gradients(parameters)
    made["gradients"] = [p.grad for p in parameters]
    made["who"] = [rank, distributed.world_size(), distributed.is_on()]
    return made


def looked_at():
    """What one rank finds alone in eval mode after a step of both, by each matcher that asks others in training."""
    made = {}
    for matcher in (Cycle(), SampledCycle(), Mutual()):
        method = method_of(searches={"objects": Search(matcher=matcher, memory=Queue(12))})
        method.update([method(taken(batch_of(), torch.arange(2) + 2 * distributed.rank()))])
        if distributed.rank() == 0:
            with evaluating(method):
                made[type(matcher).__name__] = method.look(batch_of(1, first_image=9)).matches["objects"]
    return made


def work():
    made = {case: run(case) for case in cases()} | {"collectives": collectives(), "looked at": looked_at()}
    idle = {(used, scope): left_of(used[distributed.rank()], scope) for used in IDLE for scope in ("rank", "all")}
    return made | {"idle": idle}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), WORLD)


@pytest.fixture(scope="module")
def alone():
    return {case: run(case) for case in cases()}


def mean_losses(ranks, case, at):
    each = [r[case]["seen"][at]["losses"] for r in ranks]
    return {name: sum(losses[name] for losses in each) / WORLD for name in each[0]}


SAME = [
    "mean",
    "balance",
    "static",
    "pooled",
    "small queue",
    "cycle",
    "sampled cycle",
    "mutual",
    "static cycle",
    "drawn",
    "contrast",
    "codes",
    "entropy",
    "regularisers",
    "batch norm",
    "batch norm in chunks",
    "empty batch norm",
    "empty contrast",
    "empty cycle",
    "empty mutual",
    "empty regularisers",
    "empty",
    "empty patches",
]


@pytest.mark.parametrize("case", SAME)
def test_two_ranks_have_the_mean_losses_of_one_rank_with_all_images(ranks, alone, case):
    for at in range(N_STEPS):
        assert_close(mean_losses(ranks, case, at), alone[case]["seen"][at]["losses"], **EXACT)


@pytest.mark.parametrize("case", SAME)
def test_two_ranks_have_the_averaged_gradients_of_one_rank_with_all_images(ranks, alone, case):
    for at in range(N_STEPS):
        for rank in ranks:
            here, there = (made[case]["seen"][at]["gradients"] for made in (rank, alone))
            largest = max(g.abs().max().item() for g in there.values())
            assert_close(here, there, rtol=EXACT["rtol"], atol=1e-11 * largest)


@pytest.mark.parametrize("case", SAME)
def test_two_ranks_end_with_the_networks_centres_and_queue_of_one_rank_with_all_images(ranks, alone, case):
    for rank in ranks:
        assert_close(rank[case]["held"], alone[case]["held"], **EXACT)
        here, there = ({n: x for n, x in made[case]["state"].items() if torch.is_tensor(x)} for made in (rank, alone))
        assert_close(here, there, **EXACT)


@pytest.mark.parametrize("case", [case for case in cases() if case != "batch norm per rank"])
def test_every_rank_ends_with_the_same_state(ranks, case):
    here, there = (rank[case]["state"] for rank in ranks)
    assert_close(here, there, rtol=0, atol=0)
    here, there = (rank[case]["held"] for rank in ranks)
    assert_close(here, there, rtol=0, atol=0)


def test_the_queue_holds_the_images_of_the_ranks_in_their_order(ranks):
    ids = ranks[0]["mean"]["held"]["ids"]
    newest = ids[ids >= B * (N_STEPS - 1)].unique_consecutive()
    assert torch.equal(newest, B * (N_STEPS - 1) + torch.arange(B))


def test_counted_per_rank_losses_differ_where_ranks_have_different_numbers_of_regions(ranks, alone):
    numbers = [[r["rank"]["seen"][at]["n"] for at in range(N_STEPS)] for r in ranks]
    uneven = [at for at, (here, there) in enumerate(zip(*numbers, strict=True)) if here != there]
    assert uneven
    first = uneven[0]
    assert_close(alone["rank"]["seen"][0]["losses"], alone["mean"]["seen"][0]["losses"], **EXACT)
    found = mean_losses(ranks, "rank", first)["region"]
    assert not torch.allclose(found, alone["rank"]["seen"][first]["losses"]["region"], rtol=1e-6)


def test_a_cycle_test_within_ranks_depends_on_how_many_queries_a_rank_has(ranks, alone):
    case = "cycle per rank"
    alike = [
        torch.allclose(mean_losses(ranks, case, at)["across"], alone[case]["seen"][at]["losses"]["across"])
        for at in range(N_STEPS)
    ]
    assert alike[0]  # the memory is empty
    assert not all(alike)
    for name in ("image", "region"):
        torch.testing.assert_close(mean_losses(ranks, case, 0)[name], alone[case]["seen"][0]["losses"][name], **EXACT)


def test_cases_that_should_agree_are_those_in_which_nothing_is_local_to_a_rank():
    local = {case: scopes.rank_local(method_of(**settings)) for case, settings in cases().items()}
    assert {case for case, names in local.items() if not names} == set(SAME)


def test_matches_are_accepted_and_refused_where_ranks_go_to_the_memory_and_back(alone):
    for case in ("cycle", "sampled cycle", "mutual"):
        accepted = torch.cat([step["accepted"].flatten() for step in alone[case]["seen"]])
        assert accepted.unique().tolist() == [0, 1]


def test_in_eval_mode_one_rank_finds_its_matches_alone(ranks):
    for matcher in (Cycle(scope="rank"), SampledCycle(scope="rank"), Mutual(scope="rank")):
        method = method_of(searches={"objects": Search(matcher=matcher, memory=Queue(12))})
        method.update([method(batch_of())])
        expected = method.look(batch_of(1, first_image=9)).matches["objects"]
        found = ranks[0]["looked at"][type(matcher).__name__]
        assert torch.equal(found.index, expected.index)
        assert torch.equal(found.weight, expected.weight)


@pytest.mark.parametrize("case", [case for case in cases() if case.startswith("empty")])
def test_a_rank_without_a_single_region_takes_part(ranks, case):
    assert [r[case]["seen"][0]["n"] for r in ranks][1] == 0
    assert ranks[0][case]["seen"][0]["n"] > 0
    assert all(x.isfinite() for r in ranks for s in r[case]["seen"] for x in s["losses"].values())


def test_batch_norm_within_ranks_gives_other_losses_and_every_rank_running_statistics_of_its_own(ranks, alone):
    case = "batch norm per rank"
    assert_close(alone[case]["seen"][0]["losses"], alone["batch norm"]["seen"][0]["losses"], **EXACT)
    found, whole = mean_losses(ranks, case, 0), alone[case]["seen"][0]["losses"]
    assert not torch.allclose(found["image"], whole["image"], rtol=1e-3)
    here, there = (rank[case]["state"] for rank in ranks)
    differ = {name for name, x in here.items() if torch.is_tensor(x) and not torch.equal(x, there[name])}
    assert differ == {name for name in here if "running" in name}


@pytest.mark.parametrize("used", IDLE)
def test_a_lone_row_keeps_the_company_of_idle_ones_where_batch_norm_would_measure_it_alone(ranks, used):
    kept = {scope: [rank["idle"][used, scope] for rank in ranks] for scope in ("rank", "all")}
    assert kept["rank"] == [4 if n == 1 else n for n in used]
    assert kept["all"] == ([4, 4] if sum(used) == 1 else list(used))


@pytest.mark.parametrize("name", GATHERED)
def test_gathered_rows_stand_in_rank_order_whatever_each_rank_has(ranks, name):
    for rank in ranks:
        for found in rank["collectives"][name]:
            shape, dtype = found.shape[1:], found.dtype
            expected = torch.cat([numbered(r, n, *shape, dtype=dtype) for r, n in enumerate(GATHERED[name])])
            assert torch.equal(found, expected)


def test_a_total_is_the_sum_over_ranks_and_leaves_its_argument_alone(ranks):
    for r, rank in enumerate(ranks):
        total, own = rank["collectives"]["total"]
        assert total.tolist() == [3, 30]
        assert own.tolist() == [r + 1, 10 * (r + 1)]


def test_agreeing_ranks_have_the_parameters_and_buffers_of_the_first(ranks):
    torch.manual_seed(0)
    weight = torch.nn.init.normal_(torch.empty(3))
    for rank in ranks:
        for here, there in zip(rank["collectives"]["agree"], ranks[0]["collectives"]["agree"], strict=True):
            assert torch.equal(here, there)
        assert torch.equal(rank["collectives"]["agree"][0].detach(), weight)


def test_a_rank_without_a_gradient_counts_as_zero_and_none_anywhere_stays_none(ranks):
    for rank in ranks:
        first, second, third = rank["collectives"]["gradients"]
        assert (first.tolist(), second.tolist(), third) == ([4, 4], [0.5, 0.5], None)


def test_every_rank_knows_who_it_is(ranks):
    assert [rank["collectives"]["who"] for rank in ranks] == [[0, 2, True], [1, 2, True]]


def test_alone_every_function_is_the_identity():
    x, layer = torch.randn(3, 2), torch.nn.Linear(2, 2)
    assert distributed.gather(x) is x
    assert distributed.total(x) is x
    before = [p.clone() for p in layer.parameters()]
    distributed.agree(layer)
    distributed.average_gradients(layer.parameters())
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), before, strict=True))
    assert all(p.grad is None for p in layer.parameters())
    assert (distributed.rank(), distributed.world_size(), distributed.is_on()) == (0, 1, False)
