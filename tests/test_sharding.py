"""Two ranks with a part of each backbone against two ranks with all of it, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from sslkit import compilation, distributed, sharding
from sslkit.aligners import ImageAcrossViews, MaskedPatches
from sslkit.backbones import Timm
from sslkit.clusterers import Grid
from sslkit.errors import ConfigError
from sslkit.evaluate.base import evaluating
from sslkit.heads import Projector
from sslkit.losses import Cosine, Distillation
from sslkit.losses.base import Loss
from sslkit.matchers import Nearest
from sslkit.memories import Queue
from sslkit.monitors.receptive_field import effective_receptive_field
from sslkit.optimizer import TAKING_SHARDS, Optimizer
from sslkit.precision import Scaler
from sslkit.schedules import Cosine as CosineSchedule
from sslkit.schedules import Linear, Time
from sslkit.search import Search
from sslkit.term import Term
from tests.ranks import on_ranks
from tests.test_method import SIDE, assert_close, batch_of, method_of, taken, terms_of

pytestmark = pytest.mark.slow
WORLD, B, N_STEPS, ACCUMULATE = 2, 4, 2, 2
EXACT = dict(rtol=1e-9, atol=1e-12)
CPU = torch.device("cpu")
VIT = {"depth": 2, "img_size": SIDE, "patch_size": 8, "embed_dim": 9, "num_heads": 3}
SMALL = {
    "resnet18": {"layers": (1, 1, 1, 0), "channels": (4, 5, 6, 6)},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (4, 5, 6, 7)},
    "swin_tiny_patch4_window7_224": {
        "img_size": SIDE,
        "window_size": 2,
        "depths": (2, 2),
        "embed_dim": 6,
        "num_heads": (1, 2),
    },
    "eva02_tiny_patch14_224": {
        "img_size": SIDE,
        "patch_size": 8,
        "depth": 2,
        "embed_dim": 12,
        "num_heads": 3,
        "ref_feat_shape": (4, 4),
    },
}
WITHOUT_LOCAL_VIEWS = ("a rank without regions", *SMALL)


class OneSided(Loss):
    """A loss that is a constant on all ranks but the first."""

    def forward(self, prediction, target, pairs):
        if distributed.rank():
            return prediction.new_zeros(())
        return Cosine()(prediction, target, pairs)


def vit(**options):
    return Timm("vit_tiny_patch16_224", options=VIT, **options)


def of_images(name, loss=Cosine):
    """One term on image vectors of a backbone."""
    torch.manual_seed(0)
    head = Projector({"image": 8}, hidden=9, predictor_hidden=6)
    backbone, terms = Timm(name, options=SMALL[name]), terms_of(("image",), loss=loss)
    return dict(backbone=backbone, heads=[head], terms=terms, clusterer=None, searches={})


def cases():
    """Settings of a method and of its optimiser, by what they try."""
    torch.manual_seed(0)
    adamw = dict(lr=Linear(0.02, 0.01), weight_decay=0.1, options={"eps": 1e-3})  # rounding stays as small as it is
    regions = terms_of(("region",))
    masked = {"masked": Term(aligner=MaskedPatches(), loss=Distillation(), head="image")}
    one_sided = {"image": Term(aligner=ImageAcrossViews(), loss=OneSided(), head="image")}
    made = {
        "cribo": (dict(backbone=vit(freeze_patch_embedding=True)), dict(**adamw, clip=0.3)),
        "dino": (
            dict(backbone=vit(drop_path=0.2), terms=terms_of(("image",)), freeze_outputs_epochs=1),
            dict(**adamw, clip=0.01, clip_scope="tensor", decay="matrices"),
        ),
        "ibot": (dict(backbone=vit(mask="token"), terms=terms_of(("image",)) | masked), adamw),
        "byol": (of_images("resnet18"), dict(name="lars", lr=0.1, weight_decay=0.1)),
        "inner layer": (dict(backbone=vit(patch_layer=0), terms=regions), adamw),
        "a rank without regions": (dict(backbone=vit(), terms=regions, clusterer=Grid(1, 2)), adamw),
        "a constant loss on a rank": (dict(backbone=vit(), terms=one_sided), adamw),
        "a pass that one rank needs": (dict(backbone=vit(), terms=one_sided | regions), adamw),
        "scaled": (dict(backbone=vit()), dict(**adamw, clip=0.3)),
    }
    return made | {name: (of_images(name), dict(name="sgd", lr=0.1)) for name in SMALL if name != "resnet18"}


def method_and_optimizer(case):
    settings, given = cases()[case]
    torch.manual_seed(1)
    search = {"objects": Search(matcher=Nearest(), memory=Queue(12))}
    method = method_of(**dict(searches=search, momentum=CosineSchedule(0.9, 1.0)) | settings)
    return method.train(), Optimizer(**given)


def batches_of(case, at):
    """This rank's share of the micro-batches of a step; all images alone."""
    share = B // distributed.world_size()
    mine = torch.arange(share) + distributed.rank() * share
    for part in range(ACCUMULATE):
        first = (ACCUMULATE * at + part) * B
        batch = batch_of(first, b=B, first_image=first, n_local=0 if case in WITHOUT_LOCAL_VIEWS else 2)
        if case == "a rank without regions":  # the views of the second half do not overlap
            for v, view in enumerate(batch.views):
                view.box[B // 2 :] = torch.tensor([100.0 * v, 0, 40, 40], dtype=torch.float64)
                view.box[: B // 2] = torch.tensor([5.0 * v, 0, 40, 40], dtype=torch.float64)
        chosen = taken(batch, mine)
        if case == "ibot":
            hidden = torch.rand(B, 16, generator=torch.Generator().manual_seed(first)) < 0.3
            views = [replace(v, mask=hidden[mine]) for v in chosen.global_views]
            chosen = replace(chosen, views=(*views, *chosen.views[2:]))
        yield chosen


def step(case, method, optimizer, scaler, at):
    """One step as a run takes it; its losses, and the norm of its gradient."""
    time = Time(at, n_steps=20, steps_per_epoch=1)
    torch.manual_seed(at)
    method.set_time(time)
    optimizer.set_time(time)
    optimizer.inner.zero_grad(set_to_none=True)
    outcomes = []
    for batch in batches_of(case, at):
        outcome = method(batch)
        loss = sharding.total(method, outcome) / ACCUMULATE
        if loss.requires_grad:
            scaler.scale(loss).backward()
        outcomes.append(outcome)
    distributed.average_gradients(optimizer.parameters)
    scaler.unscale_(optimizer.inner)
    method.drop_frozen_gradients()
    norm = optimizer.clip_gradients()
    scaler.step(optimizer.inner)
    scaler.update()
    method.update(outcomes)
    losses = {f"{n} {name}": x.detach() for n, o in enumerate(outcomes) for name, x in o.losses.items()}
    return losses | {"norm": norm.detach()}


def run(case, *, shard, traced=False, first=0, last=N_STEPS, state=None):
    """What a few steps come to, from a state if there is one, with the state after each of them."""
    method, optimizer = method_and_optimizer(case)
    if shard:
        sharding.shard(method)
    if traced:
        compilation.compile_backbones(method, CPU, backend="aot_eager")
    optimizer.build(method)
    scaler = Scaler("cpu", init_scale=2.0**10, enabled=case == "scaled")
    if state is not None:
        method.load_state_dict(sharding.spread(state["method"], method.state_dict()))
        optimizer.inner.load_state_dict(sharding.spread(state["optimizer"], sharding.places(optimizer.inner)))
    seen, states = [], []
    for at in range(first, last):
        seen.append(step(case, method, optimizer, scaler, at))
        kept = sharding.whole({"method": method.state_dict(), "optimizer": optimizer.inner.state_dict()})
        states.append(copy.deepcopy(kept))
    return dict(seen=seen, states=states), method, optimizer


def held(method, optimizer):
    """How many numbers this rank holds of backbones, heads, and the state of their optimiser."""
    networks = (method.student, method.teacher)
    of = {
        "backbones": [p for n in networks for p in n.backbone.parameters()],
        "heads": [p for n in networks for p in n.heads.parameters()],
        "moments": [x for s in optimizer.inner.state.values() for x in s.values() if x.ndim],
        "gradients": [p.grad for p in method.student.backbone.parameters() if p.grad is not None],
    }
    return {what: sum(distributed.local(x).numel() for x in tensors) for what, tensors in of.items()}


def alone(method):
    """What rank 0 finds when it evaluates by itself; nothing on the others."""
    whole = sharding.unsharded(method)
    backbone, same = sharding.unsharded(method.teacher.backbone), sharding.unsharded(method.student.heads)
    shared = whole.terms is method.terms and same is method.student.heads
    found = dict(
        shared=shared,
        keys=list(whole.state_dict()),
        training=whole.training and backbone.training,
        trained=[p.requires_grad for p in whole.parameters()],
    )
    if distributed.rank():
        return found
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    with evaluating(whole), evaluating(backbone), torch.no_grad():
        found["features"] = backbone(pixels)[0]
        found["rows"] = whole.look(batch_of(n_local=1)).student.patch.rows
        found["field"] = effective_receptive_field(backbone, pixels, at=(0.5, 0.5)).gradient
    return found


def overflowing(shard):
    """Whether a step is left out on this rank when one gradient of one rank is not finite."""
    method, optimizer = method_and_optimizer("scaled")
    if shard:
        sharding.shard(method)
    optimizer.build(method)
    scaler = Scaler("cpu", init_scale=8.0, enabled=True)
    optimizer.set_time(Time())
    outcome = method(next(iter(batches_of("scaled", 0))))
    scaler.scale(sharding.total(method, outcome)).backward()
    distributed.average_gradients(optimizer.parameters)
    weight = method.student.backbone.model.blocks[1].mlp.fc2.weight
    if distributed.rank() or not shard:
        distributed.local(weight.grad)[-1, -1] = torch.inf
    before = distributed.local(weight.detach()).clone()
    scaler.unscale_(optimizer.inner)
    norm = optimizer.clip_gradients()
    scaler.step(optimizer.inner)
    scaler.update()
    return dict(same=torch.equal(before, distributed.local(weight.detach())), scale=scaler.get_scale(), norm=norm)


def after_steps_of(name, *, shard):
    """Weights after a few steps of an optimiser, the last from its state as a checkpoint holds it."""
    method, _ = method_and_optimizer("cribo")
    if shard:
        sharding.shard(method)
    optimizer = Optimizer(name=name, lr=0.01, weight_decay=0.1)
    for at in range(3):
        state = every_rank(sharding.whole(optimizer.inner.state_dict())) if at == 2 else None
        if at in (0, 2):
            optimizer.build(method)
            optimizer.set_time(Time())
        if state is not None:
            optimizer.inner.load_state_dict(sharding.spread(state, sharding.places(optimizer.inner)))
        for p in optimizer.parameters:
            p.grad = (at + 1) * p.detach()
        optimizer.inner.step()
    return sharding.whole(method.student.state_dict())


def every_rank(state):
    """What rank 0 has, on every rank, as if read from one file."""
    shared = [state if distributed.rank() == 0 else None]
    torch.distributed.broadcast_object_list(shared)
    return copy.deepcopy(shared[0])


def refused():
    """What is said of an optimiser that does not take shards, and of backbones that cannot be compiled on two ranks."""

    def said(of):
        with pytest.raises(ConfigError) as error:
            of()
        return str(error.value)

    sharded, stages, exchanging = (method_and_optimizer(case)[0] for case in ("cribo", "convnext_atto", "byol"))
    sharding.shard(sharded)
    sharding.shard(stages)
    return dict(
        optimizer=said(lambda: Optimizer(name="muon").build(sharded)),
        stages=said(lambda: compilation.compile_backbones(stages, CPU, backend="aot_eager")),
        exchanging=said(lambda: compilation.compile_backbones(exchanging, CPU, backend="aot_eager")),
    )


def work():
    made = {}
    for case in cases():
        for shard in (False, True):
            found, method, optimizer = run(case, shard=shard)
            made[case, shard] = found | dict(held=held(method, optimizer))
            if case in ("cribo", "byol"):
                made["alone", case, shard] = alone(method)
                made["groups", case, shard] = group_names(method, optimizer)
    for case in ("cribo", "byol"):
        for wrote, reads in ((True, True), (True, False), (False, True)):
            state = every_rank(made[case, wrote]["states"][0])
            made["resumed", case, wrote, reads] = run(case, shard=reads, first=1, state=state)[0]
    made["overflow"] = {shard: overflowing(shard) for shard in (False, True)}
    made["optimisers"] = {
        (name, shard): after_steps_of(name, shard=shard) for name in TAKING_SHARDS for shard in (False, True)
    }
    made["refused"] = refused()
    made["traced"] = run("cribo", shard=True, traced=True)[0]
    made["frames"] = dict(counters["frames"])
    return made


def group_names(method, optimizer):
    """The names of the parameters that decay, and of the others."""
    names = {id(p): name for name, p in method.student.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.inner.param_groups]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), WORLD)


def flat(state, name=""):
    """Every value of a nested state, by its path, with the kinds of what holds it."""
    if isinstance(state, dict):
        found = {f"{name} kind": type(state).__name__}
        for key, value in state.items():
            found |= flat(value, f"{name}/{key}")
        return found
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)), name) | {f"{name} kind": type(state).__name__}
    return {name: state}


@pytest.mark.parametrize("case", cases())
def test_sharded_steps_have_the_losses_and_gradient_norms_of_replicated_ones(ranks, case):
    for rank in ranks:
        for here, there in zip(rank[case, True]["seen"], rank[case, False]["seen"], strict=True):
            assert there["norm"] > 0
            assert_close(here, there, **EXACT)


@pytest.mark.parametrize("case", cases())
def test_a_checkpoint_of_shards_has_the_content_of_one_without(ranks, case):
    for here, there in zip(ranks[0][case, True]["states"], ranks[0][case, False]["states"], strict=True):
        here, there = flat(here), flat(there)
        assert list(here) == list(there)
        for name, x in here.items():
            assert type(x) is type(there[name]), name
        assert_close(here, there, **EXACT)


@pytest.mark.parametrize("case", cases())
def test_only_rank_0_puts_together_what_is_sharded(ranks, case):
    here, there = (flat(rank[case, True]["states"][-1]) for rank in ranks)
    left_out = {name for name, x in there.items() if x is None and here[name] is not None}
    networks = {name for name in left_out if name.startswith("/method")}
    trained = {n for n in here if n.startswith(("/method/student.backbone", "/method/teacher.backbone"))}
    buffers = {n for n in trained if n.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")}
    assert networks == {n for n in trained - buffers if not n.endswith(" kind")}
    assert any("exp_avg" in name or "momentum_buffer" in name for name in left_out)


@pytest.mark.parametrize("case", ["cribo", "byol"])
def test_each_rank_holds_its_part_of_backbones_gradients_and_moments_and_all_of_the_heads(ranks, case):
    whole, parts = ranks[0][case, False]["held"], [rank[case, True]["held"] for rank in ranks]
    for what in ("backbones", "gradients"):
        assert sum(part[what] for part in parts) == whole[what]
        assert max(part[what] for part in parts) < 0.6 * whole[what]  # torch gives the first rank the longer part
    assert all(part["heads"] == whole["heads"] for part in parts)
    assert all(part["moments"] < whole["moments"] for part in parts)


def test_layers_that_no_loss_reaches_have_no_gradient_and_do_not_decay(ranks):
    first, last = (ranks[0]["inner layer", True]["states"][at]["method"] for at in (0, -1))
    name = "student.backbone.model.blocks.{}.mlp.fc1.weight"
    assert torch.equal(first[name.format(1)], last[name.format(1)])
    assert not torch.equal(first[name.format(0)], last[name.format(0)])


@pytest.mark.parametrize("case", ["cribo", "byol"])
@pytest.mark.parametrize("wrote, reads", [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_from_a_checkpoint_with_shards_or_without_as_if_it_had_not_stopped(ranks, case, wrote, reads):
    resumed, unbroken = ranks[0]["resumed", case, wrote, reads], ranks[0][case, wrote]
    for here, there in zip(resumed["seen"], unbroken["seen"][1:], strict=True):
        assert_close(here, there, **EXACT)
    assert_close(flat(resumed["states"][-1]), flat(unbroken["states"][-1]), **EXACT)


@pytest.mark.parametrize("case", ["byol", "a rank without regions"])  # timm fits positions to small crops in float32
def test_one_process_goes_on_from_a_checkpoint_of_two_ranks_with_shards(ranks, case):
    state = ranks[0][case, True]["states"][0]
    for shard in (False, True):
        resumed = run(case, shard=shard, first=1, state=copy.deepcopy(state))[0]
        assert_close(flat(resumed["states"][-1]), flat(ranks[0][case, True]["states"][-1]), **EXACT)


@pytest.mark.parametrize("case", ["cribo", "byol"])
def test_rank_0_evaluates_and_draws_whole_copies_by_itself(ranks, case):
    here, there = ranks[0]["alone", case, True], ranks[0]["alone", case, False]
    assert here["shared"] and there["shared"]
    assert here["training"] and there["training"]
    assert here["keys"] == there["keys"]
    assert here["trained"] == there["trained"]
    assert_close(*({n: made[n] for n in ("features", "rows", "field")} for made in (here, there)), **EXACT)


@pytest.mark.parametrize("case", ["cribo", "byol"])
def test_shards_decay_as_the_whole_parameters_do(ranks, case):
    assert ranks[0]["groups", case, True] == ranks[0]["groups", case, False]


def test_an_infinite_gradient_in_the_part_of_one_rank_leaves_out_the_step_of_all(ranks):
    for rank in ranks:
        for shard in (False, True):
            left_out = rank["overflow"][shard]
            assert left_out["same"] and left_out["scale"] == 4.0
            assert not left_out["norm"].isfinite()


@pytest.mark.parametrize("name", TAKING_SHARDS)
def test_an_optimiser_does_the_same_with_shards_and_takes_up_its_state(ranks, name):
    here, there = (ranks[0]["optimisers"][name, shard] for shard in (True, False))
    assert_close(here, there, **EXACT)


def test_a_traced_backbone_takes_the_same_steps_with_shards(ranks):
    for rank in ranks:
        for here, there in zip(rank["traced"]["seen"], rank["cribo", True]["seen"], strict=True):
            assert_close(here, there, **EXACT)
        assert rank["frames"]["ok"] == rank["frames"]["total"] > 0  # none has been given up
    assert_close(flat(ranks[0]["traced"]["states"][-1]), flat(ranks[0]["cribo", True]["states"][-1]), **EXACT)


def test_what_does_not_work_with_shards_or_ranks_is_refused_with_what_would(ranks):
    for rank in ranks:
        said = rank["refused"]
        assert "Optimizer.name='muon'" in said["optimizer"] and "adamw" in said["optimizer"]
        assert "the parts of the backbone are not alike" in said["stages"]
        assert "give Method.batch_norm_scope = 'rank'" in said["exchanging"]


def test_alone_nothing_is_sharded():
    method, _ = method_and_optimizer("cribo")
    sharding.shard(method)
    assert not any(distributed.is_sharded(p) for p in method.parameters())
    assert sharding.unsharded(method) is method
    state = {"method": method.state_dict(), "results": {"a": [1.0]}}
    assert_close(flat(sharding.whole(state)), flat(state))
    assert_close(flat(sharding.spread(state, state)), flat(state))
