"""A compiled backbone computes what it computes as it is written, and is compiled once for all steps."""

from __future__ import annotations

import copy
import os
import pickle
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from sslkit import compilation
from sslkit.backbones import Timm
from sslkit.backbones.untrained import with_statistics
from sslkit.errors import ConfigError
from tests.test_method import SIDE, assert_close, batch_of, gradients, method_of, step, terms_of

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which torch asks for as it traces
CPU = torch.device("cpu")
VIT = {"depth": 3, "img_size": SIDE, "patch_size": 8, "embed_dim": 12, "num_heads": 3}
RESNET = {"layers": (1, 1, 0, 0), "channels": (8, 10, 10, 10)}
BACKBONES = {
    "vit": lambda: Timm("vit_tiny_patch16_224", options=VIT),
    "vit with drop path": lambda: Timm("vit_tiny_patch16_224", options=VIT, drop_path=0.3),
    "vit with a mask token": lambda: Timm("vit_tiny_patch16_224", options=VIT, mask="token"),
    "vit with dropout": lambda: Timm("vit_tiny_patch16_224", options=VIT | {"depth": 2, "proj_drop_rate": 0.2}),
    "resnet": lambda: Timm("resnet18", options=RESNET),
}
compiles = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def method_with(name, **changes):
    torch.manual_seed(0)
    return method_of(backbone=BACKBONES[name](), **changes).train()


def taken_steps(method, n=6):
    """Losses, gradients and graphs after each of some steps on large and small crops."""
    seen = []
    for at in range(n):
        torch.manual_seed(at)
        (outcome,) = step(method, [batch_of(at, n_local=2, first_image=4 * at)], at=at, lr=0.01)
        losses = {name: loss.detach() for name, loss in outcome.losses.items()}
        seen.append((losses, copy.deepcopy(gradients(method)), dict(counters["stats"]), dict(counters["frames"])))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_a_traced_backbone_has_the_losses_and_gradients_of_the_written_one_and_is_traced_in_the_first_step_only(name):
    compiled, plain = method_with(name), method_with(name)
    compilation.compile_backbones(compiled, CPU, backend="aot_eager")
    before = counters["stats"]["unique_graphs"]
    here, there = taken_steps(compiled), taken_steps(plain)
    for (losses, grads, *_), (losses_there, grads_there, *_) in zip(here, there, strict=True):
        assert_close(losses, losses_there, rtol=1e-9, atol=1e-12)
        assert_close(grads, grads_there, rtol=1e-9, atol=1e-12)
    assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-9, atol=1e-12)
    graphs = [stats["unique_graphs"] - before for *_, stats, _ in here]
    frames = [frames["total"] == frames["ok"] for *_, frames in here]
    most = 3  # large and small crops of the student, large ones of the teacher
    if name == "vit with drop path":
        most = 2 * (1 + 3) + 2  # blocks without a rate are another kind; those of the student fall in three pieces
    assert graphs == [graphs[0]] * len(here)
    assert 0 < graphs[0] <= most
    assert all(frames)  # nothing has been given up


@compiles
@pytest.mark.slow
def test_a_compiled_backbone_has_the_losses_and_gradients_of_the_written_one_but_for_rounding():
    compiled, plain = (method_with("vit with dropout").float() for _ in range(2))
    compilation.compile_backbones(compiled, CPU)
    batch = batch_of(n_local=2)
    for view in batch.views:
        view.pixels.data = view.pixels.float()
    found = []
    for method in (compiled, plain):
        torch.manual_seed(1)
        outcome = method(batch)
        outcome.total.backward()
        found.append((outcome.losses, gradients(method)))
    assert counters["stats"]["unique_graphs"] > 0
    for here, there in zip(*found, strict=True):
        largest = max(x.abs().max().item() for x in there.values())
        assert_close(here, there, rtol=1e-4, atol=1e-5 * largest)


def test_names_stay_the_same_and_copies_are_not_compiled():
    method, plain = (method_with("vit with drop path") for _ in range(2))
    compilation.compile_backbones(method, CPU, backend="aot_eager")
    assert list(method.state_dict()) == list(plain.state_dict())
    backbone, pixels = method.student.backbone, batch_of().views[0].pixels
    before = dict(counters["frames"])
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert list(other.state_dict()) == list(backbone.state_dict())
        assert torch.equal(other.eval()(pixels)[0], plain.student.backbone.eval()(pixels)[0])
    assert counters["frames"] == before


def test_statistics_of_a_compiled_backbone_are_measured_as_of_the_written_one():
    method, plain = (method_with("resnet") for _ in range(2))
    compilation.compile_backbones(method, CPU, backend="aot_eager")
    pixels = batch_of().views[0].pixels
    here, there = (with_statistics(m.teacher.backbone, pixels).state_dict() for m in (method, plain))
    assert_close(here, there)


def test_switched_off_a_compiled_backbone_runs_as_written_on_images_of_any_size():
    method, plain = (method_with("vit") for _ in range(2))
    compilation.compile_backbones(method, CPU, backend="aot_eager")
    before = dict(counters["frames"])
    for side in (16, 24, 40):
        pixels = torch.randn(2, 3, side, side).double()
        with compilation.off():
            image = method.teacher.backbone(pixels)[0]
        assert torch.equal(image, plain.teacher.backbone(pixels)[0])
    assert counters["frames"] == before


def test_a_compiler_that_is_not_there_is_missed_before_anything_runs(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    method = method_with("vit", terms=terms_of(("image",)))
    with pytest.raises(ConfigError, match=r"torch cannot compile for cpu here: .*No working C\+\+ compiler"):
        compilation.compile_backbones(method, CPU)
