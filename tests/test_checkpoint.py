"""A checkpoint is on the disk whole or not at all."""

import logging
import os
import resource
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
        checkpoint.save(tmp_path, step, {"x": torch.arange(step), "n": step}, keep=3)
    step, state = checkpoint.latest(tmp_path)
    assert step == 12
    assert torch.equal(state["x"], torch.arange(12))
    assert state["n"] == 12


def test_only_the_latest_are_kept(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, step, {}, keep=2)
    assert checkpoint.steps(tmp_path) == [3, 4]


def test_a_new_run_has_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize("length", [0, 10, 500])
def test_a_torn_file_is_named_and_the_one_before_it_taken(tmp_path, caplog, length):
    checkpoint.save(tmp_path, 1, {"x": torch.ones(100)}, keep=3)
    newest = checkpoint.save(tmp_path, 2, {"x": torch.zeros(100)}, keep=3)
    newest.write_bytes(newest.read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        step, state = checkpoint.latest(tmp_path)
    assert (step, state["x"].sum().item()) == (1, 100)
    assert f"{newest} cannot be read" in caplog.text


def test_a_run_with_torn_files_only_is_not_started_anew(tmp_path):
    checkpoint.save(tmp_path, 1, {}, keep=3).write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        checkpoint.latest(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half_written(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": torch.ones(10)}, keep=3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails with an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises((OSError, RuntimeError)):
            checkpoint.save(tmp_path, 2, {"x": torch.randn(1_000_000)}, keep=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in checkpoint.folder(tmp_path).iterdir()] == [checkpoint.path(tmp_path, 1).name]
    assert checkpoint.latest(tmp_path)[0] == 1


@pytest.mark.slow
def test_a_kill_while_saving_leaves_a_readable_checkpoint(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from sslkit import checkpoint\n"
        "x = torch.randn(3_000_000)\n"
        "for step in range(1, 10_000): checkpoint.save(Path(sys.argv[1]), step, {'x': x, 'step': step}, keep=2)"
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
    checkpoint.save(tmp_path, 20_000, {}, keep=2)
    assert not list(checkpoint.folder(tmp_path).glob("*.partial*"))
