"""Masked views in a method: who sees them, what passes the heads, and what the centre moves by."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslkit.aligners import ImageAcrossViews, MaskedPatches
from sslkit.aligners.base import Aligner
from sslkit.backbones import Timm
from sslkit.centerings import Balance, Mean
from sslkit.heads import Prototypes
from sslkit.losses import Distillation
from sslkit.method import Method
from sslkit.schedules import Time
from sslkit.term import Term
from sslkit.types import Batch, Pairs, View

SIDE, N, B = 32, 16, 4  # pixels and patches of a global view, images
VIT = dict(depth=1, embed_dim=24, num_heads=3, patch_size=8, img_size=SIDE)


class AllPatches(Aligner):
    """Every patch of the first view predicts itself."""

    reads = "patches"

    def forward(self, step):
        place = torch.arange(B * N)
        return Pairs(step.student.patch, step.teacher.patch, place, place, torch.full((B * N,), 1 / (B * N)))


def term(aligner, head):
    return Term(aligner=aligner, loss=Distillation(), head=head)


def method_of(*, terms=None, mask="token", outputs=None, batch_norm=False, seed=0, **changes):
    """Image and patch terms in small, in float64."""
    torch.manual_seed(seed)
    outputs = {"image": 8, "patch": "image"} if outputs is None else outputs
    terms = {"image": (ImageAcrossViews(), "image"), "patch": (MaskedPatches(), "patch")} if terms is None else terms
    settings = dict(
        backbone=Timm("vit_tiny_patch16_224", options=VIT, mask=mask),
        heads=[Prototypes(outputs, hidden=9, bottleneck=5, batch_norm=batch_norm, learn_magnitude=True)],
        terms={name: term(*parts) for name, parts in terms.items()},
        momentum=0.9,
    )
    method = Method(**settings | changes).double()
    for module in method.student.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    method.teacher.load_state_dict(method.student.state_dict())
    return method


def view_of(draw, *, side=SIDE, mask=None):
    pixels = torch.randn(B, 3, side, side, generator=draw, dtype=torch.float64)
    box = torch.tensor([0.0, 0, 40, 40], dtype=torch.float64).expand(B, -1)
    return View(pixels, box, torch.zeros(B).bool(), torch.full((B, 2), 60.0), mask=mask)


def masks_of(seed=0, share=0.3):
    """Masks of two global views; the first image hides nothing in the second."""
    masks = torch.rand(2, B, N, generator=torch.Generator().manual_seed(seed)) < share
    masks[1, 0] = False
    return masks


def batch_of(masks, *, seed=0, n_local=0):
    draw = torch.Generator().manual_seed(seed)
    views = [view_of(draw, mask=mask) for mask in masks] + [view_of(draw, side=SIDE // 2) for _ in range(n_local)]
    return Batch(tuple(views), 2, torch.arange(B))


def bare(batch):
    """The same batch without masks."""
    return replace(batch, views=tuple(replace(view, mask=None) for view in batch.views))


def step(method, batch, lr=0.1):
    """One optimiser step."""
    method.set_time(Time(0, n_steps=20, steps_per_epoch=4))
    method.zero_grad()
    outcome = method(batch)
    outcome.total.backward()
    method.drop_frozen_gradients()
    with torch.no_grad():
        for p in method.student.parameters():
            if p.grad is not None:
                p -= lr * p.grad
    method.update([outcome])
    return outcome


def passes_of(method):
    """Every pass of a backbone, as it comes: whose, images, pixels of a side, patches hidden (None: no mask)."""
    seen = []
    for network in ("student", "teacher"):

        def note(_, given, network=network):
            hidden = int(given[1].sum()) if len(given) > 1 else None
            seen.append((network, len(given[0]), given[0].shape[-1], hidden))

        getattr(method, network).backbone.register_forward_pre_hook(note)
    return seen


def projected_by(method):
    """Every pass of a head, as it comes: whose, which output, how many rows."""
    seen = []
    for network in ("student", "teacher"):

        def note(_, given, out, network=network):
            seen.append((network, given[1], len(out)))

        getattr(method, network).heads[0].register_forward_hook(note)
    return seen


def same(here, there, **tolerance):
    assert here.keys() == there.keys()
    for name, x in here.items():
        if torch.is_tensor(x):
            torch.testing.assert_close(x, there[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")


def gradients(method):
    return {name: p.grad for name, p in method.student.named_parameters() if p.grad is not None}


# who sees what


def test_the_student_sees_masked_views_together_and_others_apart_and_the_teacher_sees_all():
    masks = masks_of()
    method = method_of()
    seen = passes_of(method)
    method(batch_of(masks, n_local=2))
    hidden = int(masks.sum())
    assert seen == [("student", 8, 32, hidden), ("student", 8, 16, None), ("teacher", 8, 32, None)]
    seen.clear()
    method(batch_of([masks[0], None]))
    assert seen == [("student", 4, 32, int(masks[0].sum())), ("student", 4, 32, None), ("teacher", 8, 32, None)]


def test_a_network_that_is_not_told_to_mask_passes_masks_over():
    network, batch = method_of().student, batch_of(masks_of())
    here, there = (network(b.views, b.index) for b in (batch, bare(batch)))
    assert all(torch.equal(x, y) for x, y in zip(here.patches, there.patches, strict=True))
    masked = network(batch.views, batch.index, masked=True)
    assert not torch.equal(masked.patches[0], here.patches[0])


def test_what_the_teacher_sees_does_not_depend_on_the_masks():
    method, batch = method_of(), batch_of(masks_of())
    targets = [method(b).step.teacher for b in (batch, batch_of(masks_of(seed=1)))]
    assert torch.equal(targets[0].patch.rows, targets[1].patch.rows)


def test_what_is_hidden_from_the_student_moves_no_image_loss():
    method, batch = (
        method_of(terms={"image": (ImageAcrossViews(), "image")}, outputs={"image": 8}),
        batch_of(masks_of()),
    )
    noise = batch.views[0].pixels.clone()
    hidden = batch.views[0].mask.view(B, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    noise[hidden[:, None].expand(-1, 3, -1, -1)] += 1
    student = method.look(batch).student
    other = method.look(replace(batch, views=(replace(batch.views[0], pixels=noise), batch.views[1]))).student
    assert torch.equal(student.image.rows, other.image.rows)


# what is computed


def test_the_loss_is_the_mean_cross_entropy_of_hidden_patches_over_images_then_views():
    method, masks = method_of(), masks_of()
    step(method, batch_of(masks_of(seed=3), seed=3))  # so that the centre is somewhere
    batch = batch_of(masks)
    outcome = method(batch)
    student, teacher = outcome.step.student, outcome.step.teacher
    losses = []
    for v in range(2):
        for b in range(B):
            if masks[v, b].any():
                scores = method.student.project(student.patches[v][b, masks[v, b]], "patch") / 0.1
                target = method.teacher.project(teacher.patches[v][b, masks[v, b]], "patch")
                q = F.softmax((target - method.centerings["patch"].centre) / 0.04, dim=-1)
                losses.append(-(q * F.log_softmax(scores, dim=-1)).sum(dim=-1).mean())
    assert len(losses) == 7
    torch.testing.assert_close(outcome.losses["patch"], sum(losses) / 7)
    whole = method_of(terms={"patch": (MaskedPatches(normalise="all"), "patch")})
    whole.load_state_dict(method.state_dict(), strict=False)
    torch.testing.assert_close(whole(batch).losses["patch"], sum(losses) / 8)  # as iBOT's program divides


@pytest.mark.parametrize("batch_norm", [False, True])
def test_only_hidden_patches_pass_the_heads(batch_norm):
    method, masks = method_of(batch_norm=batch_norm), masks_of()
    seen, hidden = projected_by(method), int(masks.sum())
    method(batch_of(masks, n_local=1))
    assert seen == [
        ("teacher", "image", 2 * B),
        ("teacher", "patch", hidden),
        ("student", "image", 3 * B),
        ("student", "patch", hidden),
    ]


def test_patches_that_two_terms_ask_for_pass_the_head_once():
    terms = {"hidden": (MaskedPatches(), "patch"), "every": (AllPatches(), "patch"), "other": (AllPatches(), "image")}
    method, masks = method_of(terms=terms), masks_of()
    seen = projected_by(method)
    outcome = method(batch_of(masks))
    n_asked = B * N + int(masks[1].sum())  # all of the first view, and what the second hides
    expected = {"patch": n_asked, "image": B * N}
    assert seen == [(network, head, n) for network in ("teacher", "student") for head, n in expected.items()]
    alone = {name: method_of(terms={name: terms[name]}) for name in terms}
    for name, method in alone.items():
        torch.testing.assert_close(method(batch_of(masks)).losses[name], outcome.losses[name])


@pytest.mark.parametrize("centering", [Mean(), Balance(), {"image": Balance(), "patch": Mean()}])
@pytest.mark.parametrize("shared", [True, False])
def test_static_shapes_change_neither_losses_nor_gradients_nor_state(centering, shared):
    outputs = {"image": 8, "patch": "image" if shared else 6}
    dynamic, static = (method_of(centering=centering, static_shapes=s, outputs=outputs) for s in (False, True))
    for seed in range(2):
        here, there = (step(m, batch_of(masks_of(seed), seed=seed)) for m in (dynamic, static))
        same(here.losses, there.losses)
        same(gradients(dynamic), gradients(static))
        same(dynamic.state_dict(), static.state_dict())


@pytest.mark.parametrize("static", [False, True])
def test_the_centre_moves_by_hidden_patches_alone(static):
    method, masks = method_of(static_shapes=static), masks_of()
    outcome = method(batch_of(masks))
    rows = torch.cat([x[m] for x, m in zip(outcome.step.teacher.patches, masks, strict=True)])
    expected = 0.1 * method.teacher.project(rows, "patch").mean(dim=0).detach()
    method.update([outcome])
    torch.testing.assert_close(method.centerings["patch"].centre, expected)


@pytest.mark.parametrize("centering", [Mean(), Balance()])
@pytest.mark.parametrize("static", [False, True])
def test_a_batch_that_hides_nothing_trains_the_other_terms_as_if_there_were_no_masks(centering, static):
    masked = method_of(centering=centering, static_shapes=static)
    terms = {"image": (ImageAcrossViews(), "image")}
    plain = method_of(centering=centering, static_shapes=static, terms=terms, mask=None)
    plain.load_state_dict(masked.state_dict(), strict=False)
    batch = batch_of(torch.zeros(2, B, N).bool())
    here, there = step(masked, batch), step(plain, bare(batch))
    assert here.losses["patch"] == 0
    assert torch.equal(here.losses["image"], there.losses["image"])
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(dict(masked.student.named_parameters())[name].grad, gradient)
    assert all(x.isfinite().all() for x in masked.state_dict().values() if torch.is_tensor(x))
    assert (masked.centerings["patch"].state_dict().get("centre", torch.zeros(1)) == 0).all()


def test_the_gradient_of_the_patch_term_reaches_the_mask_token_and_the_shared_prototypes():
    method = method_of(terms={"patch": (MaskedPatches(), "patch")})
    method(batch_of(masks_of())).total.backward()
    assert method.student.backbone.mask_token.grad.abs().sum() > 0
    assert method.student.heads[0].outputs["image"].weight_v.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.parametrize("static", [False, True])
def test_a_step_works_without_values(static):
    with torch.device("meta"):
        method = method_of(static_shapes=static).float()
        zeros = torch.zeros(2, B, N, dtype=torch.bool)
        views = tuple(
            View(torch.zeros(B, 3, SIDE, SIDE), torch.zeros(B, 4), torch.zeros(B).bool(), torch.zeros(B, 2), mask=mask)
            for mask in zeros
        )
        outcome = method(Batch(views, 2, torch.zeros(B, dtype=torch.long)))
        outcome.total.backward()
    assert outcome.total.is_meta


# shared prototypes in a method


def test_shared_prototypes_are_centred_apart_and_averaged_frozen_and_trained_once():
    method = method_of(freeze_outputs_epochs=1)
    names = [name for name, _ in method.student.named_parameters()]
    assert [name for name in names if "outputs" in name] == [
        "heads.0.outputs.image.weight_g",
        "heads.0.outputs.image.weight_v",
    ]
    assert len(list(method.student.output_layers())) == 2
    before = copy.deepcopy(method.state_dict())
    step(method, batch_of(masks_of()))
    prototypes = "heads.0.outputs.{}.weight_v"
    for name in ("image", "patch"):
        assert torch.equal(
            method.state_dict()["student." + prototypes.format(name)], before["student." + prototypes.format(name)]
        )
    with torch.no_grad():
        method.student.heads[0].outputs["patch"].weight_v += 1
    start = method.teacher.heads[0].outputs["image"].weight_v.clone()
    method.update([method(batch_of(masks_of()))])
    moved = method.teacher.heads[0].outputs["image"].weight_v - start
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1))  # once, not twice
    assert not torch.equal(method.centerings["image"].centre, method.centerings["patch"].centre)


def test_saved_and_restored_a_masked_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = method_of()
    step(whole, batch_of(masks_of(0), seed=0))
    torch.save(whole.state_dict(), tmp_path / "method.pt")
    again = method_of(seed=5)
    again.load_state_dict(torch.load(tmp_path / "method.pt", weights_only=True))
    here, there = (step(m, batch_of(masks_of(1), seed=1)) for m in (whole, again))
    same(here.losses, there.losses, rtol=0, atol=0)
    same(whole.state_dict(), again.state_dict(), rtol=0, atol=0)


# patches left out


def test_an_image_term_trains_on_what_is_left_when_patches_are_dropped():
    method = method_of(mask="drop", terms={"image": (ImageAcrossViews(), "image")}, outputs={"image": 8})
    masks = torch.zeros(2, B, N).bool()
    masks[0, :, :5] = masks[1, :, 3:8] = True
    batch = batch_of(masks, n_local=1)
    outcome = step(method, batch)
    assert (outcome.step.student.patches[1][:, 3:8] == 0).all()
    assert outcome.losses["image"] > 0
    assert all(p.grad is not None for p in method.student.backbone.parameters())


def test_dropped_patches_cannot_be_predicted():
    with pytest.raises(ValueError, match=r"term 'patch' compares the student's patches, but .* mask='drop' .*'token'"):
        method_of(mask="drop")


def test_a_term_of_masked_patches_without_masks_is_refused_with_its_name():
    with pytest.raises(ValueError, match=r"term 'patch': no global view has a mask.*augmenters.Crop.masking"):
        method_of()(bare(batch_of(masks_of())))
