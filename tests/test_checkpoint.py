"""A checkpoint is on the disk whole or not at all, and what was changed since is not taken for it."""

import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from sslkit import checkpoint
from sslkit.errors import CheckpointError
from tests.conftest import ROOT


def test_the_newest_checkpoint_comes_back_as_it_was(tmp_path):
    for step in (3, 12, 7):
        checkpoint.save(tmp_path, step, {"x": torch.arange(step), "n": step})
    step, state = checkpoint.latest(tmp_path)
    assert step == 12
    assert torch.equal(state["x"], torch.arange(12))
    assert state["n"] == 12
    assert state["format"] == checkpoint.FORMAT


def test_torch_reads_it_without_running_anything(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"x": torch.ones(3), "held": {2: [1.5, None, "text"]}})
    state = torch.load(path, weights_only=True)
    assert state["held"] == {2: [1.5, None, "text"]}


KEPT = [  # keep, every, best: those of the steps 1 to 12 that are left
    (2, None, None, [11, 12]),
    (1, 5, None, [5, 10, 12]),
    (2, None, 4, [4, 11, 12]),
    (1, 6, 7, [6, 7, 12]),
    (20, None, None, list(range(1, 13))),
]


@pytest.mark.parametrize("keep, every, best, left", KEPT)
def test_the_latest_those_of_every_so_many_steps_and_the_best_are_kept(tmp_path, keep, every, best, left):
    for step in range(1, 13):
        checkpoint.save(tmp_path, step, {})
    checkpoint.prune(tmp_path, 12, keep=keep, every=every, best=best)
    assert checkpoint.steps(tmp_path) == left


def test_a_step_that_is_saved_again_has_the_newer_file_alone(tmp_path):
    checkpoint.save(tmp_path, 5, {"x": torch.zeros(3)})
    newer = checkpoint.save(tmp_path, 5, {"x": torch.ones(3)})
    assert list(checkpoint.folder(tmp_path).iterdir()) == [newer]
    assert checkpoint.save(tmp_path, 5, {"x": torch.ones(3)}) == newer  # the same contents, the same name
    assert newer.is_file()


def test_a_new_run_has_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize("length", [0, 10, 500])
def test_a_torn_file_is_named_and_the_one_before_it_taken(tmp_path, caplog, length):
    checkpoint.save(tmp_path, 1, {"x": torch.ones(100)})
    newest = checkpoint.save(tmp_path, 2, {"x": torch.zeros(100)})
    newest.write_bytes(newest.read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        step, state = checkpoint.latest(tmp_path)
    assert (step, state["x"].sum().item()) == (1, 100)
    assert f"{newest} cannot be read" in caplog.text


def test_a_single_bit_that_flips_anywhere_is_noticed(tmp_path, caplog):
    checkpoint.save(tmp_path, 1, {"x": torch.ones(100)})
    newest = checkpoint.save(tmp_path, 2, {"x": torch.zeros(100)})
    whole, draw = newest.read_bytes(), random.Random(0)
    for at in [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(50))]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << draw.randrange(8)
        newest.write_bytes(flipped)
        assert checkpoint.latest(tmp_path)[0] == 1
    newest.write_bytes(whole)
    assert checkpoint.latest(tmp_path)[0] == 2


def test_a_run_with_torn_files_only_is_not_started_anew(tmp_path):
    checkpoint.save(tmp_path, 1, {}).write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        checkpoint.latest(tmp_path)


def test_a_later_format_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {})
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    checkpoint.save(tmp_path, 2, {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=f"has format {checkpoint.FORMAT + 1}"):
        checkpoint.latest(tmp_path)


def test_the_first_format_is_read_as_the_present_one(tmp_path):
    checkpoint.folder(tmp_path).mkdir()
    shutil.copy(ROOT / "tests/data/checkpoint_of_format_1.pt", checkpoint.folder(tmp_path) / "step_00000006.pt")
    step, state = checkpoint.latest(tmp_path)
    assert step == 6
    assert state.keys() == {"format", "method", "optimizer", "scaler", "identity", "ranks"}
    assert state["format"] == checkpoint.FORMAT
    assert state["identity"] == {"n_images": 16, "step_size": 4, "n_steps": 6}


def test_a_step_that_has_no_checkpoint_is_refused_with_those_that_have(tmp_path):
    checkpoint.save(tmp_path, 3, {"x": torch.ones(1)})
    assert checkpoint.of_step(tmp_path, 3)["x"] == 1
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4; it has \[3\]"):
        checkpoint.of_step(tmp_path, 4)


def test_files_of_others_are_no_checkpoints(tmp_path):
    path = checkpoint.save(tmp_path, 3, {})
    for name in ("step_3.pt", "step_00000004.pt.bak", "my_step_00000005.pt", "step_00000006-xyz.pt", "notes.txt"):
        shutil.copy(path, path.with_name(name))
    assert checkpoint.steps(tmp_path) == [3]


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half_written(tmp_path):
    first = checkpoint.save(tmp_path, 1, {"x": torch.ones(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails with an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError):
            checkpoint.save(tmp_path, 2, {"x": torch.randn(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(checkpoint.folder(tmp_path).iterdir()) == [first]
    assert checkpoint.latest(tmp_path)[0] == 1


@pytest.mark.slow
def test_a_kill_while_saving_leaves_a_readable_checkpoint(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from sslkit import checkpoint\n"
        "x, run = torch.randn(3_000_000), Path(sys.argv[1])\n"
        "for step in range(1, 10_000): checkpoint.save(run, step, {'x': x}); checkpoint.prune(run, step, keep=2)"
    )
    for wait in (0.0, 0.011, 0.037):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        while len(checkpoint.steps(tmp_path)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(wait)
        process.kill()
        process.wait()
        step, state = checkpoint.latest(tmp_path)
        assert step == state["step"] == checkpoint.steps(tmp_path)[-1]
    checkpoint.save(tmp_path, 20_000, {})
    assert not list(checkpoint.folder(tmp_path).glob("*.partial*"))


def test_checkpoints_of_later_steps_that_the_run_passed_over_do_not_cost_it_its_own(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, {"n": step})
    checkpoint.prune(tmp_path, 20, keep=1)  # 30 is torn, and 20 was written again
    assert checkpoint.steps(tmp_path) == [20, 30]
    checkpoint.prune(tmp_path, 30, keep=1)
    assert checkpoint.steps(tmp_path) == [30]
