"""The method as a whole: what is computed once, what moves when, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from sslkit import draws
from sslkit.aligners import ImageAcrossViews, RegionAcrossImages, RegionAcrossViews
from sslkit.augmenters import Crop, Crops
from sslkit.backbones.base import Backbone
from sslkit.centerings import Balance, Mean
from sslkit.clusterers import Grid, Sinkhorn
from sslkit.datasets import Scenes
from sslkit.heads import Prototypes
from sslkit.losses import Distillation
from sslkit.matchers import Cycle, Nearest
from sslkit.memories import Queue
from sslkit.method import Method
from sslkit.optimizer import Optimizer
from sslkit.registry import components
from sslkit.schedules import Cosine, Linear, Time
from sslkit.search import Search
from sslkit.term import Term
from sslkit.train import train
from sslkit.types import Batch, View

K, SIDE = 6, 32


class Patches(Backbone):
    """Patches, each through the same two layers; the image vector is their mean."""

    def __init__(self, dim: int = 10, patch: int = 8):
        super().__init__()
        self.dim = dim
        self.embed, self.mix = nn.Conv2d(3, dim, patch, patch), nn.Linear(dim, dim)

    def forward(self, pixels):
        x = self.embed(pixels)
        tokens = self.mix(x.flatten(2).mT.tanh())
        return tokens.mean(dim=1), tokens, tuple(x.shape[-2:])

    def without_drop_path(self):
        return self


def terms_of(names=("image", "region", "across"), *, loss=Distillation, start_epoch=0, **weights):
    every = dict(
        image=lambda: dict(aligner=ImageAcrossViews(), head="image"),
        region=lambda: dict(aligner=RegionAcrossViews(), head="region"),
        across=lambda: dict(aligner=RegionAcrossImages("objects"), head="region", start_epoch=start_epoch),
    )
    return {n: Term(**every[n](), loss=loss(), weight=weights.get(n, 1.0)) for n in names}


def method_of(*, seed=0, terms=None, **changes):
    """CrIBo in small, in float64."""
    torch.manual_seed(seed)
    settings = dict(
        backbone=Patches(),
        heads=[Prototypes({"image": 8, "region": 7}, hidden=9, bottleneck=5, learn_magnitude=True)],
        terms=terms_of() if terms is None else terms,
        clusterer=Sinkhorn(K),
        searches={"objects": Search(matcher=Cycle(), memory=Queue(12))},
        momentum=0.9,
    )
    method = Method(**settings | changes).double()
    for module in method.student.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)  # the usual start leaves rows almost equal
    trained = method.student.state_dict()
    method.teacher.load_state_dict({name: trained[name] for name in method.teacher.state_dict()})  # no predictors
    return method


def view_of(b, draw, *, side=SIDE, source=0):
    box = torch.rand(b, 4, generator=draw) * 20 + torch.tensor([0.0, 0, 20, 20])
    flip = torch.rand(b, generator=draw) < 0.5
    pixels = torch.randn(b, 3, side, side, generator=draw, dtype=torch.float64)
    return View(pixels, box.double(), flip, torch.full((b, 2), 60.0), source)


def batch_of(seed=0, *, b=4, n_global=2, n_local=0, epoch=0, first_image=0, source=(0, 0, 0, 0)):
    draw = torch.Generator().manual_seed(seed)
    views = [view_of(b, draw, source=source[v]) for v in range(n_global)]
    views += [view_of(b, draw, side=SIDE // 2) for _ in range(n_local)]
    return Batch(tuple(views), n_global, first_image + torch.arange(b), epoch)


def taken(batch, chosen):
    """Some images of a batch."""
    views = tuple(View(v.pixels[chosen], v.box[chosen], v.flip[chosen], v.size[chosen], v.source) for v in batch.views)
    return replace(batch, views=views, index=batch.index[chosen])


def step(method, batches, *, at=0, lr=0.1):
    """One optimiser step over micro-batches."""
    method.set_time(Time(at, n_steps=20, steps_per_epoch=4))
    for p in method.student.parameters():
        p.grad = None
    outcomes = [method(b) for b in batches]
    for outcome in outcomes:
        (outcome.total / len(outcomes)).backward()
    method.drop_frozen_gradients()
    with torch.no_grad():
        for p in method.student.parameters():
            if p.grad is not None:
                p -= lr * p.grad
    method.update(outcomes)
    return outcomes


def state_of(method):
    return copy.deepcopy(method.state_dict())


def changed(before, after):
    return {n for n, x in before.items() if (not torch.equal(x, after[n]) if torch.is_tensor(x) else x != after[n])}


def gradients(method):
    return {n: p.grad for n, p in method.student.named_parameters() if p.grad is not None}


def assert_close(here, there, **tolerance):
    assert here.keys() == there.keys()
    for name, x in here.items():
        if torch.is_tensor(x):
            torch.testing.assert_close(x, there[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")
        else:
            assert x == there[name], name


def warm(method):
    """The same method with something in its memory and centres."""
    step(method, [batch_of(100, first_image=40)])
    step(method, [batch_of(101, first_image=50)])
    return method


# what is computed


def test_rows_that_several_terms_share_are_projected_once_per_output_and_step():
    method, seen = warm(method_of()), []
    for network in ("student", "teacher"):
        head = getattr(method, network).heads[0]
        head.register_forward_hook(lambda _, given, out, network=network: seen.append((network, given[1], len(out))))
    outcome = method(batch_of())
    n = len(outcome.step.regions)
    assert (outcome.step.matches["objects"].weight > 0).any()
    students = [s for s in seen if s[0] == "student"]
    teachers = [s for s in seen if s[0] == "teacher"]
    assert students == [("student", "image", 8), ("student", "region", 2 * n)]
    matched = int((outcome.step.matches["objects"].weight > 0).sum())
    assert teachers == [("teacher", "image", 8), ("teacher", "region", 2 * n + matched)]


def test_each_network_sees_the_views_of_one_size_together_and_the_teacher_no_local_ones():
    method, seen = method_of(), []
    for network in ("student", "teacher"):
        backbone = getattr(method, network).backbone
        backbone.register_forward_pre_hook(
            lambda _, given, network=network: seen.append((network, *given[0].shape[::3]))
        )
    method(batch_of(n_local=3))
    assert seen == [("student", 8, SIDE), ("student", 12, SIDE // 2), ("teacher", 8, SIDE)]


def test_the_total_is_the_sum_of_the_terms():
    outcome = warm(method_of())(batch_of())
    assert set(outcome.losses) == {"image", "region", "across"}
    assert all(loss > 0 for loss in outcome.losses.values())
    assert outcome.total.item() == pytest.approx(sum(loss.item() for loss in outcome.losses.values()))


def test_regions_are_means_of_the_tokens_of_their_cluster_in_each_view():
    outcome = method_of()(batch_of())
    regions, teacher, student = outcome.step.regions, outcome.step.teacher, outcome.step.student
    n = len(regions)
    assert not regions.valid.all()
    assert torch.equal(regions.valid, (regions.assignment > 0).any(dim=2).all(dim=0))
    place = 0
    for image in range(4):
        for cluster in range(K):
            if not regions.valid[image, cluster]:
                continue
            assert (regions.teacher.item[place], regions.cluster[place]) == (image, cluster)
            for v in (0, 1):
                tokens = regions.assignment[v, image, :, cluster] > 0
                for rows, patches in ((regions.teacher, teacher.patches), (regions.student, student.patches)):
                    torch.testing.assert_close(rows.rows[v * n + place], patches[v][image, tokens].mean(dim=0))
                    assert (rows.view[v * n + place], rows.ids[v * n + place]) == (v, outcome.step.batch.index[image])
            place += 1
    assert place == n


def test_identical_student_and_teacher_tokens_give_identical_region_rows():
    method, batch = method_of(), batch_of()
    teacher = method(batch).step.teacher
    regions = method.regions(batch, teacher, teacher)
    assert torch.equal(regions.student.rows, regions.teacher.rows)


def test_region_rows_of_the_student_have_a_gradient_and_those_of_the_teacher_have_none():
    regions = method_of()(batch_of()).step.regions
    assert regions.student.rows.requires_grad
    assert not regions.teacher.rows.requires_grad


@pytest.mark.parametrize("centering", [Mean(), Balance(), {"image": Mean(), "region": Balance()}])
def test_static_shapes_change_neither_losses_nor_gradients_nor_state(centering):
    dynamic, static = (warm(method_of(centering=centering, static_shapes=s)) for s in (False, True))
    assert_close(state_of(dynamic), state_of(static))
    here, there = (step(m, [batch_of()])[0] for m in (dynamic, static))
    assert len(there.step.regions) == 4 * K > len(here.step.regions)
    assert here.losses["across"] > 0
    assert_close(here.losses, there.losses)
    assert_close(gradients(dynamic), gradients(static))
    assert_close(state_of(dynamic), state_of(static))


@pytest.mark.parametrize("centering", [Mean(), Balance()])
def test_static_shapes_change_nothing_for_a_head_that_sees_no_rows_of_its_own_batch(centering):
    made = []
    for static in (False, True):
        method = warm(method_of(terms=terms_of(("image", "across")), centering=centering, static_shapes=static))
        made.append((step(method, [batch_of()])[0].losses, gradients(method), state_of(method)))
    for here, there in zip(*made, strict=True):
        assert_close(here, there)


@pytest.mark.parametrize("loss", components("losses").values())
def test_static_shapes_change_no_loss_and_no_gradient_of_any_kind(loss):
    dynamic, static = (warm(method_of(terms=terms_of(loss=loss), static_shapes=s)) for s in (False, True))
    here, there = (step(m, [batch_of()])[0] for m in (dynamic, static))
    assert all(x != 0 for x in here.losses.values())
    assert_close(here.losses, there.losses)
    assert_close(gradients(dynamic), gradients(static))


@pytest.mark.parametrize("loss", components("losses").values())
def test_the_order_of_the_images_in_a_batch_does_not_matter(loss):
    method, batch, order = warm(method_of(terms=terms_of(loss=loss))), batch_of(), torch.tensor([2, 0, 3, 1])
    assert_close(method(taken(batch, order)).losses, method(batch).losses)


def test_a_batch_of_one_image_works():
    outcome = warm(method_of())(batch_of(b=1))
    assert outcome.total.isfinite()
    assert len(outcome.step.regions) > 0


def apart(batch):
    """The same pixels, cut from two places so far apart that no cell of a grid of two holds tokens of both views."""
    left = torch.tensor([[0.0, 0, 40, 40], [100.0, 0, 40, 40]], dtype=torch.float64)
    views = tuple(replace(v, box=left[i].expand(len(v.box), -1)) for i, v in enumerate(batch.views))
    return replace(batch, views=views)


@pytest.mark.parametrize("centering", [Mean(), Balance()])
def test_a_batch_without_a_single_region_trains_its_image_term_alone(centering):
    method = warm(method_of(clusterer=Grid(1, 2), centering=centering))
    before = len(method.searches["objects"].memory)
    outcome = step(method, [apart(batch_of())])[0]
    assert len(outcome.step.regions) == 0
    assert outcome.losses["image"] > 0
    assert outcome.losses["region"] == outcome.losses["across"] == 0
    assert all(x.isfinite().all() for x in method.state_dict().values() if torch.is_tensor(x))
    assert len(method.searches["objects"].memory) <= before


def test_cluster_starts_depend_on_seed_epoch_and_image_and_not_on_torchs_generator():
    method, batch = method_of(), batch_of()

    def assignment(b):
        return method(b).step.regions.assignment

    first = assignment(batch)
    torch.manual_seed(99)
    assert torch.equal(assignment(batch), first)
    assert torch.equal(assignment(taken(batch, torch.tensor([2])))[:, 0], first[:, 2])
    for other in (dict(epoch=1), dict(seed=1), dict(index=batch.index + 1)):
        assert not torch.equal(assignment(replace(batch, **other)), first)


def test_given_seeds_start_the_clusters():
    method, batch = method_of(clusterer=Sinkhorn(K, n_rounds=1)), batch_of()
    seeds = torch.arange(K).expand(4, -1)
    here = method(batch, seeds=seeds).step.regions.assignment
    there = method(replace(batch, seed=5), seeds=seeds).step.regions.assignment
    assert torch.equal(here, there)


# gradients and times


def test_the_gradient_reaches_only_the_student():
    method = warm(method_of())
    method(batch_of()).total.backward()
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_a_term_across_images_is_exactly_zero_before_its_epoch_and_reaches_only_the_student_after():
    method = method_of(terms=terms_of(start_epoch=1))
    for at in range(4):
        outcome = step(method, [batch_of(at, first_image=10 * at)], at=at)[0]
        assert outcome.losses["across"].item() == 0
        assert not outcome.losses["across"].requires_grad
    assert len(method.searches["objects"].memory) > 0  # it fills all the same
    for p in method.parameters():
        p.grad = None
    method.set_time(Time(4, n_steps=20, steps_per_epoch=4))
    loss = method(batch_of(9)).losses["across"]
    assert loss > 0
    loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    reached = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert reached == {"student"}
    assert method.student.backbone.embed.weight.grad.abs().sum() > 0
    assert method.student.heads[0].outputs["image"].weight_v.grad is None


def test_a_term_of_weight_zero_equals_the_method_without_it():
    with_it, without = (warm(method_of(terms=terms)) for terms in (terms_of(across=0.0), terms_of(("image", "region"))))
    here, there = (step(m, [batch_of()])[0] for m in (with_it, without))
    assert here.losses["across"] == 0
    assert torch.equal(here.total, there.total)
    assert_close(gradients(with_it), gradients(without), rtol=0, atol=0)
    assert changed(state_of(with_it), state_of(without)) == set()


def test_the_weight_of_a_term_multiplies_it_and_may_be_scheduled():
    method = method_of(terms=terms_of(region=Linear(0.0, 2.0, epochs=3, stepwise=True)))
    plain = method_of()
    for epoch, weight in enumerate((0.0, 1.0, 2.0, 2.0)):
        method.set_time(Time(4 * epoch, n_steps=20, steps_per_epoch=4))
        torch.testing.assert_close(method(batch_of()).losses["region"], weight * plain(batch_of()).losses["region"])


def test_the_last_layers_are_not_trained_while_they_are_frozen():
    method = method_of(freeze_outputs_epochs=1)
    before = state_of(method)
    step(method, [batch_of()], at=3)
    moved = {name for name in changed(before, method.state_dict()) if name.startswith("student")}
    assert moved
    assert not any(".outputs." in name for name in moved)
    before = state_of(method)
    step(method, [batch_of()], at=4)
    assert any(n.startswith("student") and ".outputs." in n for n in changed(before, method.state_dict()))


# state


def test_forward_and_backward_write_no_state():
    method = warm(method_of(momentum=Cosine(0.9, 1.0)))
    before = state_of(method)
    method(batch_of()).total.backward()
    assert changed(before, method.state_dict()) == set()


def test_an_update_moves_teacher_centres_and_memory_and_not_the_student():
    method = warm(method_of())
    outcome = method(batch_of())
    with torch.no_grad():
        for p in method.student.parameters():
            p += 0.1
    before = state_of(method)
    method.update([outcome])
    moved = changed(before, method.state_dict())
    assert {name.split(".")[0] for name in moved} == {"teacher", "centerings", "searches"}
    assert {"centerings.image.centre", "centerings.region.centre"} <= moved
    for name, mean in method.teacher.named_parameters():
        old, new = before[f"teacher.{name}"], dict(method.student.named_parameters())[name].detach()
        torch.testing.assert_close(mean.detach(), method.momentum * old + (1 - method.momentum) * new)
    for head in ("image", "region"):
        logits, weight = (x.double() for x in outcome.targets[head])
        expected = 0.9 * before[f"centerings.{head}.centre"] + 0.1 * (weight @ logits) / weight.sum()
        torch.testing.assert_close(method.centerings[head].centre, expected)


def test_centres_move_by_this_batchs_own_rows_and_not_by_rows_found_in_the_memory():
    with_it, without = (warm(method_of(terms=terms)) for terms in (terms_of(across=0.0), terms_of(("image", "region"))))
    step(with_it, [batch_of()])
    step(without, [batch_of()])
    assert torch.equal(with_it.centerings["region"].centre, without.centerings["region"].centre)


def test_after_an_update_the_newest_entries_are_this_batchs_regions():
    method = warm(method_of())
    outcome = step(method, [batch_of(first_image=70)])[0]
    memory, regions = method.searches["objects"].memory, outcome.step.regions
    newest = memory.slots()[: len(regions)]
    for plane in (0, 1):
        expected = regions.teacher.rows.view(2, len(regions), -1)[plane]
        assert torch.equal(memory.rows(newest, plane=plane), expected)
    assert torch.equal(memory.ids(newest), regions.teacher.ids[: len(regions)])


def test_a_search_sees_the_memory_as_it_was_before_the_step():
    method = warm(method_of(momentum=1.0))
    before = method(batch_of(first_image=70)).step.matches["objects"]
    assert (before.ids < 70).all()
    step(method, [batch_of(first_image=70)], lr=0.0)
    after = method(batch_of(first_image=70)).step.matches["objects"]
    assert (after.ids >= 70).all()
    assert (after.weight == 1).all()


def test_a_teacher_of_momentum_one_stays():
    method = method_of(momentum=1.0)
    before = copy.deepcopy(method.teacher.state_dict())
    for at in range(3):
        step(method, [batch_of(at)], at=at)
    assert_close(before, method.teacher.state_dict(), rtol=0, atol=0)


def test_stopped_saved_and_restored_a_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    settings = dict(momentum=Cosine(0.9, 1.0), centering={"image": Mean(), "region": Balance()})
    whole = method_of(**settings)
    seen = [step(whole, [batch_of(at, first_image=4 * at)], at=at)[0].total.item() for at in range(6)]
    first, second = method_of(**settings), method_of(seed=5, **settings)
    again = [step(first, [batch_of(at, first_image=4 * at)], at=at)[0].total.item() for at in range(3)]
    torch.save(first.state_dict(), tmp_path / "method.pt")
    second.load_state_dict(torch.load(tmp_path / "method.pt", weights_only=True))
    again += [step(second, [batch_of(at, first_image=4 * at)], at=at)[0].total.item() for at in range(3, 6)]
    assert again == seen
    assert changed(whole.state_dict(), second.state_dict()) == set()


def test_micro_batches_move_the_centres_and_the_teacher_once_and_the_memory_by_each():
    method = warm(method_of())
    before = state_of(method)
    n_before = method.searches["objects"].memory.n_pushes
    outcomes = step(method, [batch_of(1, first_image=60), batch_of(2, first_image=70)])
    for head in ("image", "region"):
        logits, weight = (torch.cat([o.targets[head][i] for o in outcomes]).double() for i in (0, 1))
        expected = 0.9 * before[f"centerings.{head}.centre"] + 0.1 * (weight @ logits) / weight.sum()
        torch.testing.assert_close(method.centerings[head].centre, expected)
    for name, mean in method.teacher.named_parameters():
        new = dict(method.student.named_parameters())[name].detach()
        torch.testing.assert_close(
            mean.detach(), method.momentum * before[f"teacher.{name}"] + (1 - method.momentum) * new
        )
    memory = method.searches["objects"].memory
    assert memory.n_pushes == n_before + 2
    newest = memory.ids(memory.slots()).unique_consecutive()
    assert newest[:8].tolist() == [60, 61, 62, 63, 70, 71, 72, 73]


def test_a_run_with_two_micro_batches_updates_once_per_step_with_both(tmp_path, monkeypatch):
    calls, update = [], Method.update
    monkeypatch.setattr(Method, "update", lambda self, outcomes: (calls.append(outcomes), update(self, outcomes))[1])
    train(
        run_dir=tmp_path,
        method=method_of().float(),
        data=Scenes(n_images=12, size=SIDE),
        augmenter=Crops(global_crops=(Crop(size=SIDE, n=2),)),
        optimizer=Optimizer(),
        batch_size=2,
        n_steps=3,
        accumulate=2,
        n_workers=0,
        device="cpu",
        pictures=False,
    )
    assert [len(outcomes) for outcomes in calls] == [2, 2, 2]
    images = [o.step.batch.index.tolist() for outcomes in calls for o in outcomes]
    assert sorted(i for batch in images for i in batch) == list(range(12))


def test_updates_of_the_same_seed_are_the_same_and_of_another_differ():
    one, two, other = method_of(), method_of(), method_of(seed=1)
    for m in (one, two, other):
        step(m, [batch_of()])
    assert changed(one.state_dict(), two.state_dict()) == set()
    assert changed(one.state_dict(), other.state_dict())


# what is refused


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: method_of(terms={}), r"terms=\{\}"),
        (lambda: method_of(clusterer=None), "needs regions, but the method has no clusterer"),
        (lambda: method_of(centering={"image": Mean()}), "no entry for the output layer 'region'; it has: image"),
        (
            lambda: method_of(heads=[Prototypes({"image": 8}, hidden=9), Prototypes({"image": 7}, hidden=9)]),
            "two heads of the method have an output named 'image'",
        ),
        (lambda: Search(matcher=Nearest(), memory=Queue(3), level="patch"), "level='patch'"),
    ],
)
def test_a_method_that_cannot_be_is_refused_when_it_is_built(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def refused(method, batch, *parts):
    with pytest.raises(ValueError) as error:
        method(batch)
    for part in parts:
        assert part in str(error.value)


def test_an_unknown_head_is_answered_with_the_known_ones():
    terms = {"image": Term(aligner=ImageAcrossViews(), loss=Distillation(), head="imgae")}
    refused(method_of(terms=terms), batch_of(), "head='imgae'", "image, region")


def test_an_unknown_search_is_answered_with_the_term_and_the_known_ones():
    terms = {"far": Term(aligner=RegionAcrossImages("object"), loss=Distillation(), head="region")}
    refused(method_of(terms=terms), batch_of(), "term 'far'", "search='object'", "it has: objects")


@pytest.mark.parametrize("name", ["region", "across"])
def test_region_terms_without_a_clusterer_are_refused_with_their_name(name):
    method = method_of(terms=terms_of((name,)), clusterer=None, searches={})
    refused(method, batch_of(), f"term {name!r}", "Method.clusterer")


def test_views_of_different_sources_are_refused_where_regions_are_made_and_only_there():
    batch = batch_of(source=(0, 1))
    refused(method_of(), batch, "sources (0, 1)")
    assert method_of(terms=terms_of(("image",)), clusterer=None, searches={})(batch).total > 0


def test_more_clusters_than_tokens_are_refused():
    refused(method_of(clusterer=Sinkhorn(33)), batch_of(), "n_clusters=33", "only 32 tokens")


def test_an_image_level_search_needs_no_clusterer():
    searches = {"images": Search(matcher=Nearest(), memory=Queue(8), level="image")}
    method = method_of(terms=terms_of(("image",)), clusterer=None, searches=searches)
    step(method, [batch_of()], lr=0.0)
    matches = method(batch_of()).step.matches["images"]
    assert torch.equal(matches.ids, torch.arange(4).expand(2, -1))


def slow_chances(batch, regions, n_planes=2):
    """The chance of each region by the definition: an image draws for each of its planes, then for each cluster."""
    n = len(regions)
    made = torch.zeros(n_planes, n)
    for r in range(n):
        image = batch.index[regions.teacher.item[r]]
        drawn = draws.uniform(batch.seed, batch.epoch, image[None], n_planes * K, "match")[0]
        for plane in range(n_planes):
            made[plane, r] = drawn[plane * K + regions.cluster[r]]
    return made


@pytest.mark.parametrize("static", [True, False])
def test_regions_draw_by_their_image_and_cluster_in_any_company(static):
    method, batch = method_of(static_shapes=static), replace(batch_of(b=6), seed=3)
    order = torch.tensor([4, 1, 2])
    for some in (batch, taken(batch, order), replace(batch, epoch=1), replace(batch, seed=4)):
        step = method.look(some)
        chance = step.queries["objects"].chance
        assert torch.equal(chance, slow_chances(some, step.regions))
        assert len(chance.unique()) == chance.numel()


def test_images_draw_by_themselves_and_their_plane():
    search = Search(matcher=Nearest(), memory=Queue(8), level="image")
    method = method_of(terms=terms_of(("image",)), clusterer=None, searches={"images": search})
    batch = batch_of(epoch=2)
    chance = method.look(batch).queries["images"].chance
    for image in range(4):
        assert torch.equal(chance[:, image], draws.uniform(0, 2, torch.tensor([image]), 2, "match")[0])
    assert len(chance.unique()) == chance.numel()


# without values


def test_a_term_starts_with_the_latest_of_its_three_starts():
    term = Term(aligner=ImageAcrossViews(), loss=Distillation(), head="image", start_epoch=1, start_fraction=0.5)
    assert [term.first_step(n_steps, 3) for n_steps in (4, 10)] == [3, 5]
    for step in range(10):
        term.set_time(Time(step, 10, 3))
        assert term.is_on == (step >= 5)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("start_epoch", [0, 1])
def test_a_step_works_without_values(static, start_epoch):
    with torch.device("meta"):
        terms = terms_of(start_epoch=start_epoch)
        method = method_of(static_shapes=static, terms=terms).float()
        views = tuple(
            View(torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2, 4), torch.zeros(2).bool(), torch.zeros(2, 2))
            for _ in "ab"
        )
        outcome = method(Batch(views, 2, torch.zeros(2, dtype=torch.long)))
        outcome.total.backward()
    assert outcome.total.is_meta
    assert outcome.total.shape == ()
