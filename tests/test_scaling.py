"""The model of steps on many GPUs rests on exchanges that are what real steps make, call by call and byte by byte."""

from pathlib import Path

import pytest
import torch.distributed as dist

from experiments.scaling import exchanged, formulas
from experiments.scaling.model import Link, Machine
from experiments.scaling.processes import on_ranks
from sslkit import config

SIZES = [
    "train.batch_size = 4",
    "scenes/datasets.Scenes.n_images = 16",
    "datasets.Scenes.size = 48",
    "augmenters.Crop.size = 48",
]
CASES = {
    "gin/cribo.gin": ["clusterers.Sinkhorn.n_clusters = 4"],
    "gin/adasim.gin": [
        "Partners.start_epoch = 1",
        "memories.PerImage.warmup_epochs = 0",
        "memories.PerImage.n_neighbours = 3",
    ],
    "gin/byol.gin": [],
    "gin/hybrids/cribo_patch_to_image.gin": [
        "clusterers.Sinkhorn.n_clusters = 4",
        "Method.centering = @centerings.Mean()",
    ],
}


def watched(folder):
    """What steps of every case exchange on this rank."""
    seen = {}
    for file, more in CASES.items():
        own = Path(folder, file.replace("/", "_"))
        own.mkdir(exist_ok=True)
        seen[file] = exchanged.watch([file], [*SIZES, *more], 4, str(own))
    return seen


@pytest.mark.slow
def test_the_formulas_name_every_call_that_steps_on_two_ranks_make():
    first, second = on_ranks(2, watched, start="spawn")
    for file, more in CASES.items():
        seen, other = first[file], second[file]
        method = config.load([file], [*SIZES, *more]).part("train", "method")
        method.make_room(16)
        rows, queries = max(seen.rows, other.rows), max(seen.queries, other.queries)
        expected = formulas.calls(method, formulas.Sizes(2, 4, rows, queries, seen.norms, has_labels=True))
        made = [(call.part, call.kind, call.bytes) for call in seen.steps[-1] if call.part != "losses"]
        assert sorted(made) == sorted((call.part, call.kind, call.bytes) for call in expected), file
        left_out = sum(call.bytes for call in seen.steps[-1] if call.part == "losses")
        assert left_out < 1e-4 * sum(call.bytes for call in expected), file
        assert [[c.bytes for c in step] for step in seen.steps] == [[c.bytes for c in step] for step in other.steps]


def test_a_sum_passes_every_link_twice_but_for_a_share_and_a_gather_once_for_each_other_rank():
    link = Link(seconds_per_call=0.5, bytes_per_s=100)
    assert link.seconds(formulas.Call("all_reduce", 1000, "gradients"), 2) == 0.5 + 10
    assert link.seconds(formulas.Call("all_reduce", 1000, "gradients"), 4) == 0.5 + 15
    assert link.seconds(formulas.Call("all_gather", 1000, "memory"), 4) == 0.5 + 30
    assert link.seconds(formulas.Call("all_gather", 1000, "memory"), 1) == 0


def test_a_step_takes_what_its_parts_take():
    calls = [formulas.Call("all_gather", 100, "memory")] * 3
    step = Machine(lambda world: Link(1.0, 100.0 * world)).step(2, calls, compute=5, search=2, load=1, save=0.25)
    assert step.exchange == 3 * 1.5
    assert step.total == 5 + 2 + 1 + 0.25 + 4.5


def test_counting_leaves_the_exchanges_as_they_were():
    before = dist.all_reduce, dist.all_gather
    with pytest.raises(ZeroDivisionError), exchanged.counted():
        assert dist.all_reduce is not before[0]
        raise ZeroDivisionError
    assert (dist.all_reduce, dist.all_gather) == before


def test_steps_end_with_their_agreement_and_what_is_before_the_first_end_is_none():
    parts = ["start", "gradients", "agreement", "memory", "gradients", "agreement", "memory"]
    calls = [exchanged.Exchange("all_reduce", n, part, 0.0) for n, part in enumerate(parts)]
    assert [[call.bytes for call in step] for step in exchanged.cut(calls)] == [[3, 4, 5]]


def test_one_process_exchanges_nothing():
    method = config.load(["gin/cribo.gin"], SIZES).part("train", "method")
    assert formulas.calls(method, formulas.Sizes(1, 4, 16, 16)) == []
    norms = ((3, True), (3, False))
    made = formulas.calls(method, formulas.Sizes(2, 4, 16, 16, norms))
    assert [call.bytes for call in made if call.part == "BatchNorm"] == [28, 24, 28]


def test_a_gradient_is_as_large_as_what_is_trained():
    method = config.load(["gin/byol.gin"], SIZES).part("train", "method")
    _, gradients = (c.bytes for c in formulas.calls(method, formulas.Sizes(2, 4, 0, 0)) if c.part == "gradients")
    assert gradients == 4 * sum(p.numel() for p in method.student.parameters())
