"""Mixed precision reaches the networks and nothing that compares, sums or balances."""

import pytest
import torch

from sslkit.aligners import ImageAcrossViews
from sslkit.backbones import Timm
from sslkit.centerings import Balance
from sslkit.heads import Prototypes
from sslkit.losses import Distillation
from sslkit.matchers import Cycle
from sslkit.memories import Queue
from sslkit.method import Method
from sslkit.monitors.health import health
from sslkit.precision import autocast
from sslkit.term import Term
from sslkit.types import Batch, Queries, View


def alike(n, dim, seed):
    """Rows that differ by far less than half precision can tell."""
    generator = torch.Generator().manual_seed(seed)
    return torch.ones(dim) + 0.03 * torch.randn(2, n, dim, generator=generator)


def test_a_cycle_among_near_duplicates_is_the_same_under_autocast():
    queue = Queue(200, n_per_image=1, dim=32)
    queue.push(Queries.of(alike(200, 32, seed=0)))
    queries = Queries.of(alike(100, 32, seed=1))
    expected = Cycle()(queries, queue)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Cycle()(queries, queue)
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.weight, expected.weight)


def test_balancing_is_the_same_under_autocast():
    logits, weight = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), torch.ones(64)
    balance = Balance(temperature=0.1)
    expected = balance(logits, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(balance(logits, weight), expected, rtol=0, atol=0)


def test_a_step_and_its_diagnostics_work_in_bfloat16():
    backbone = Timm("resnet18", options={"layers": (1, 1, 0, 0), "channels": (8, 16, 16, 16)})
    term = Term(aligner=ImageAcrossViews(), loss=Distillation(), head="image")
    method = Method(backbone=backbone, heads=[Prototypes({"image": 8}, hidden=16, bottleneck=8)], terms={"image": term})
    box = torch.tensor([[0.0, 0, 32, 32]]).expand(4, 4)
    views = tuple(
        View(torch.randn(4, 3, 32, 32), box, torch.zeros(4, dtype=torch.bool), torch.full((4, 2), 32.0))
        for _ in range(2)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = method(Batch(views, 2, torch.arange(4)))
    assert outcome.step.teacher.patches[0].dtype == torch.bfloat16
    outcome.total.backward()
    assert all(isinstance(value, (int, float)) for value in health(method, outcome).values())


def test_the_cpu_trains_in_float32_whatever_is_asked(caplog):
    for asked in ("auto", "float32", "bfloat16", "float16"):
        _, scaler = autocast(torch.device("cpu"), asked)
        assert not scaler.is_enabled()
    assert caplog.text.count("training in float32") == 2


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision='half'"):
        autocast(torch.device("cpu"), "half")
