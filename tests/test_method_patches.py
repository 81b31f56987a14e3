"""Local terms in a method: whose heads rows pass, what they come to, and which views have regions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sslkit.aligners import (
    ImageAcrossViews,
    ImageToPatch,
    PatchToImage,
    PatchToMatch,
    PatchToRegion,
    RegionAcrossImages,
    RegionAcrossViews,
)
from sslkit.backbones import Timm
from sslkit.clusterers.base import Clusterer
from sslkit.errors import ConfigError
from sslkit.heads import Projector, Prototypes
from sslkit.losses import Cosine, Distillation
from sslkit.matchers import Nearest
from sslkit.memories import Queue
from sslkit.plan import Plan, refuse_untrained
from sslkit.schedules import Linear, Piecewise, Product, Rest, Time
from sslkit.search import Search
from sslkit.term import Term
from tests.test_method import Patches, assert_close, batch_of, gradients, method_of, step, terms_of

IMAGE = dict(aligner=ImageAcrossViews(), head="image", loss=Cosine())


def projector(name, width=6):
    return Projector({name: width}, hidden=9, predictor_hidden=8)


def co_byol(weight=0.5, aligner=None, **changes):
    """CO-BYOL in small, in its convex form."""
    local = Term(aligner=aligner or PatchToImage(), head="local", loss=Cosine(), weight=Product([2.0, weight]))
    terms = {"image": Term(**IMAGE, weight=Product([2.0, Rest(weight)])), "local": local}
    settings = dict(terms=terms, heads=[projector("image"), projector("local")], clusterer=None, searches={})
    return method_of(**settings | changes)


def mirrored(batch):
    return replace(batch, views=(batch.views[1], batch.views[0]))


def distance(prediction, target):
    return 2 - 2 * (F.normalize(prediction, dim=-1) * F.normalize(target, dim=-1)).sum(dim=-1)


def test_the_objective_is_the_published_one_written_out():
    method, batch, share = co_byol(weight=0.3), batch_of(), 0.3
    outcome = method(batch)
    student, teacher = outcome.step.student, outcome.step.teacher

    def through(network, rows, output):  # all rows of a step together, as BatchNorm measures them so
        sizes = [len(x) for x in rows]
        return network.project(torch.cat(list(rows)), output).split(sizes)

    p, z = through(method.student, student.images, "image"), through(method.teacher, teacher.images, "image")
    image = (distance(p[0], z[1]) + distance(p[1], z[0])).mean()
    patches = [x.flatten(0, 1) for x in student.patches]
    p, z = through(method.student, patches, "local"), through(method.teacher, teacher.images, "local")
    n = student.patches[0].shape[1]
    local = sum(distance(p[a], z[b].repeat_interleave(n, dim=0)).view(-1, n).mean(dim=1) for a, b in ((0, 1), (1, 0)))
    torch.testing.assert_close(outcome.total, (1 - share) * image + share * local.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("aligner", [PatchToImage, ImageToPatch])
def test_swapping_the_views_changes_nothing(aligner):
    here, there = (co_byol(aligner=aligner()) for _ in range(2))
    outcomes = step(here, [batch_of()]), step(there, [mirrored(batch_of())])
    assert_close(*({k: v.detach() for k, v in o[0].losses.items()} for o in outcomes), rtol=1e-10, atol=0)
    assert_close(gradients(here), gradients(there), rtol=1e-8, atol=1e-12)


def test_each_loss_reaches_its_own_head_and_the_backbone():
    method = co_byol()
    method(batch_of()).losses["local"].backward()
    reached = {name.split(".")[0] + name.split(".")[1] for name, g in gradients(method).items() if g.abs().sum() > 0}
    assert reached == {"backboneembed", "backbonemix", "heads1"}


def test_patches_that_share_the_images_head_pass_it_with_them():
    terms = {"image": Term(**IMAGE), "local": Term(aligner=PatchToImage(), head="image", loss=Cosine())}
    method, seen = co_byol(terms=terms, heads=[projector("image")]), []
    method.student.heads[0].register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    batch = batch_of(b=4)
    n = (32 // 8) ** 2
    method(batch)
    assert seen == [2 * 4 + 2 * 4 * n]


def test_a_target_head_gives_patches_the_targets_of_another_head():
    terms = {
        "image": Term(aligner=ImageAcrossViews(), head="image", loss=Distillation()),
        "local": Term(aligner=PatchToImage(), head="local", target_head="image", loss=Distillation()),
    }
    heads = [Prototypes({name: 8}, hidden=9, bottleneck=5) for name in ("image", "local")]
    method = method_of(terms=terms, heads=heads, clusterer=None, searches={})
    seen = []
    method.teacher.heads[1].register_forward_hook(lambda *_: seen.append(1))
    outcome = method(batch_of())
    assert not seen
    patch, image = outcome.step.student.patch, outcome.step.teacher.image
    target = method.teacher.project(image.rows, "image") - method.centerings["image"].centre
    pairs = PatchToImage()(outcome.step)
    expected = Distillation()(method.student.project(patch.rows, "local"), target, pairs)
    torch.testing.assert_close(outcome.losses["local"], expected)


def test_a_term_without_weight_asks_nothing_of_its_head_and_moves_no_centre():
    heads = [Prototypes({name: 8}, hidden=9, bottleneck=5) for name in ("image", "local")]
    local = Term(aligner=PatchToImage(), head="local", loss=Distillation(), weight=Linear(0.0, 1.0, steps=4))
    terms = {"image": Term(aligner=ImageAcrossViews(), head="image", loss=Distillation()), "local": local}
    method, seen = method_of(terms=terms, heads=heads, clusterer=None, searches={}), []
    for network in (method.student, method.teacher):
        network.heads[1].register_forward_hook(lambda *_: seen.append(1))
    before = method.centerings["local"].centre.clone()
    (outcome,) = step(method, [batch_of()], at=0)
    assert not seen
    assert outcome.losses["local"] == 0
    assert torch.equal(method.centerings["local"].centre, before)
    (outcome,) = step(method, [batch_of()], at=1)
    assert len(seen) == 2
    assert outcome.losses["local"] > 0


def test_patches_of_an_inner_layer_predict_what_another_head_makes_of_the_image():
    small = {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 20), "output_stride": 8}
    backbone = Timm("resnet18", options=small, patch_layer=-2)
    terms = {
        "image": Term(**IMAGE),
        "local": Term(aligner=PatchToImage(), head="local", target_head="image", loss=Cosine()),
    }
    method = co_byol(terms=terms, heads=[projector("image"), projector("local")], backbone=backbone)
    outcome = method(batch_of())
    assert outcome.step.student.patch.rows.shape[1] == 16
    assert outcome.step.student.image.rows.shape[1] == 20
    outcome.losses["local"].backward()
    reached = {name for name, g in gradients(method).items() if g.abs().sum() > 0}
    assert any(name.startswith("backbone.model.layer3") for name in reached)
    assert not any(name.startswith("backbone.model.layer4") for name in reached)


def test_a_head_that_would_take_rows_of_two_widths_is_refused():
    small = {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 20)}
    backbone = Timm("resnet18", options=small, patch_layer=-2)
    with pytest.raises(
        ValueError, match=r"head of 'local' would take rows of two widths: .*\(16\).*\(20\).*target_head"
    ):
        co_byol(backbone=backbone)


def test_a_target_head_of_another_width_is_refused():
    terms = {"local": Term(aligner=PatchToImage(), head="local", target_head="image", loss=Cosine())}
    heads = [projector("image", 6), projector("local", 7)]
    with pytest.raises(ValueError, match=r"term 'local' compares rows of widths 7 \(head='local'\) and 6"):
        co_byol(terms=terms, heads=heads)


@pytest.mark.parametrize("output", ["target_head", "search"])
def test_an_output_layer_of_the_teacher_that_no_loss_trains_is_refused(output):
    """It would stay a copy of the student's, which stays random."""
    heads = [Prototypes({name: 8}, hidden=9, bottleneck=5) for name in ("image", "other")]
    target = dict(target_head="other") if output == "target_head" else {}
    terms = {"image": Term(aligner=ImageAcrossViews(), head="image", loss=Distillation(), **target)}
    searches = {"objects": Search(memory=Queue(8), matcher=Nearest(), level="image", output="other")}
    user = "targets of term 'image' pass target_head" if target else "rows of search 'objects' pass output"
    with pytest.raises(ValueError, match=f"{user}='other', but no term has head='other', so that it would stay random"):
        method_of(terms=terms, heads=heads, clusterer=None, searches={} if target else searches)


def test_an_output_layer_that_shares_its_prototypes_is_trained_with_them():
    heads = [Prototypes({"image": 8, "local": "image"}, hidden=9, bottleneck=5)]
    terms = {"local": Term(aligner=PatchToImage(), head="local", target_head="image", loss=Distillation())}
    assert method_of(terms=terms, heads=heads, clusterer=None, searches={})


def test_an_output_layer_that_only_terms_train_that_never_count_is_refused():
    heads = [Prototypes({name: 8}, hidden=9, bottleneck=5) for name in ("image", "local")]
    terms = {
        "image": Term(aligner=ImageAcrossViews(), head="image", loss=Distillation(), weight=0.0),
        "local": Term(aligner=PatchToImage(), head="local", target_head="image", loss=Distillation()),
    }
    method = method_of(terms=terms, heads=heads, clusterer=None, searches={})
    with pytest.raises(ConfigError, match="no term has head='image', so that it would stay random"):
        refuse_untrained(method, Plan(n_steps=10, per_epoch=5, step_size=4))


def test_steps_at_which_no_term_counts_are_found_in_the_middle_of_a_long_run():
    gap = Piecewise({0: 1.0, 100: 0.0, 101: 1.0})
    terms = {"image": Term(aligner=ImageAcrossViews(), head="image", loss=Distillation(), weight=gap)}
    method = method_of(terms=terms, clusterer=None, searches={})
    with pytest.raises(ConfigError, match="no term counts at step 10000 of 90000"):
        refuse_untrained(method, Plan(n_steps=90_000, per_epoch=100, step_size=4))


def test_a_search_for_regions_holds_rows_as_wide_as_patches():
    small = {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 20), "output_stride": 8}
    backbone = Timm("resnet18", options=small, patch_layer=-2)
    terms = {"across": Term(aligner=PatchToMatch("objects"), head="region", loss=Distillation())}
    heads = [Prototypes({"region": 7}, hidden=9, bottleneck=5)]
    method = method_of(backbone=backbone, terms=terms, heads=heads)
    step(method, [batch_of()])
    (outcome,) = step(method, [batch_of(1)], at=1)
    assert outcome.step.matches["objects"].rows.shape[2] == 16


@pytest.mark.parametrize("at", [0, 1, 2])
def test_regions_are_those_of_the_views_that_show_the_image(at):
    """A view of the partner, wherever it stands, leaves the losses on regions as they are."""
    third = batch_of(5).views[0]
    both, source = list(batch_of().views), [0, 0]
    both.insert(at, replace(third, source=1))
    source.insert(at, 1)
    here = method_of(terms=terms_of(("region", "across")))
    there = method_of(terms=terms_of(("region", "across")))
    for epoch in range(2):
        plain = replace(batch_of(), epoch=epoch)
        shown = replace(plain, views=tuple(both), n_global=3, partner=torch.arange(4).flip(0))
        (a,), (b,) = step(here, [plain], at=epoch), step(there, [shown], at=epoch)
        assert b.step.regions.views == tuple(v for v in range(3) if source[v] == 0)
        assert_close(*({k: v.detach() for k, v in o.losses.items()} for o in (a, b)), rtol=1e-10, atol=0)


def test_one_view_of_an_image_beside_others_of_its_partner_has_no_regions():
    method = method_of(terms=terms_of(("region",)))
    with pytest.raises(ValueError, match=r"only view .0. of 2 shows it, the others its partner"):
        method(batch_of(source=(0, 1, 0, 0)))


class Soft(Clusterer):
    """A plan that is given, whatever the tokens."""

    def __init__(self, plan):
        super().__init__(plan.shape[-1])
        self.plan = plan

    def assign(self, tokens, positions, seeds):
        return self.plan.expand(len(tokens), -1, -1)


def test_a_patch_that_is_assigned_softly_is_held_by_the_region_that_has_most_of_it():
    """And not by a small one, of which even little is a large share."""
    n = method_of().look(batch_of()).student.patches[0].shape[1]
    plan = torch.tensor([0.9, 0.1]).repeat(2 * n, 1)
    plan[1] = torch.tensor([0.6, 0.4])
    step = method_of(clusterer=Soft(plan)).look(batch_of())
    number, share = step.regions.of_patches()
    assert torch.equal(step.regions.cluster[number], torch.zeros_like(number))
    expected = plan[:n, 0] / plan[:n, 0].sum()
    torch.testing.assert_close(share[0], expected.expand_as(share[0]))


def test_what_two_terms_find_passes_their_head_once():
    terms = {
        "region": Term(aligner=RegionAcrossImages("objects"), head="region", loss=Distillation()),
        "patch": Term(aligner=PatchToMatch("objects"), head="region", loss=Distillation()),
    }
    method = method_of(terms=terms, heads=[Prototypes({"region": 7}, hidden=9, bottleneck=5)])
    step(method, [batch_of()])
    seen = []
    method.teacher.heads[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    (outcome,) = step(method, [batch_of(1)], at=1)
    found = outcome.step.matches["objects"].rows
    assert len(seen) == 1 and 0 < seen[0] <= found.shape[0] * found.shape[1]


@pytest.mark.parametrize("aligner", [PatchToImage(), PatchToRegion(), RegionAcrossViews()])
def test_patches_that_do_not_pass_the_network_cannot_be_compared(aligner):
    backbone = Timm("vit_tiny_patch16_224", options={"img_size": 32, "depth": 1}, mask="drop")
    what = aligner.reads
    with pytest.raises(ValueError, match=f"term 'x' compares the student's {what}, but the backbone's mask='drop'"):
        method_of(backbone=backbone, terms={"x": Term(aligner=aligner, head="region", loss=Distillation())})


def test_patches_of_small_views_have_no_region_and_predict_whole_images():
    terms = {
        "region": Term(aligner=PatchToRegion(), head="region", loss=Distillation()),
        "image": Term(aligner=PatchToImage(), head="image", loss=Distillation()),
    }
    outcome = method_of(terms=terms)(batch_of(n_local=2))
    views = {name: set() for name in terms}
    for name, term in terms.items():
        pairs = term.aligner(outcome.step)
        views[name] = set(pairs.prediction.view[pairs.i].tolist())
    assert views == {"region": {0, 1}, "image": {0, 1, 2, 3}}
    assert outcome.total.isfinite()


def test_every_patch_predicts_the_image_that_its_image_found():
    search = Search(level="image", matcher=Nearest(), memory=Queue(12))
    terms = {"local": Term(aligner=PatchToMatch("images"), head="image", loss=Distillation())}
    method = method_of(terms=terms, searches={"images": search}, clusterer=None)
    (first,) = step(method, [batch_of()])
    assert first.losses["local"] == 0  # the memory was empty
    (outcome,) = step(method, [batch_of(1)], at=1)
    assert outcome.losses["local"] > 0


def test_a_schedule_that_leaves_no_rest_of_one_is_refused_when_it_comes_to_that():
    rest = Rest(Linear(0.0, 2.0, steps=5))
    assert rest(Time(1, n_steps=10)) == 0.5
    with pytest.raises(ValueError, match="value=2 at step 5, but it must be from 0 to 1"):
        rest(Time(5, n_steps=10))


def test_static_shapes_change_no_local_loss():
    def terms():
        return {
            "region": Term(aligner=PatchToRegion(), head="region", loss=Distillation()),
            "across": Term(aligner=PatchToMatch("objects"), head="region", loss=Distillation()),
            "image": Term(aligner=PatchToImage(n_positions=5), head="image", loss=Distillation()),
        }

    for seed in range(2):
        here, there = (method_of(terms=terms(), static_shapes=static) for static in (False, True))
        for at in range(2):
            (a,), (b,) = (step(m, [batch_of(seed + at)], at=at) for m in (here, there))
            assert_close(*({k: v.detach() for k, v in o.losses.items()} for o in (a, b)), rtol=1e-6, atol=1e-9)


def test_the_patches_of_the_plain_backbone_are_as_wide_as_its_image_vector():
    assert Patches(dim=10).patch_dim == 10
