"""Checkpoints are written behind the training, whole, and as the state was when they were asked for."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from sslkit import checkpoint
from sslkit.saving import Saver
from tests.conftest import ROOT


class Gate:
    """Keeps the thread from being done: `written` waits until it is opened."""

    def __init__(self):
        self.opened, self.steps = threading.Event(), []

    def __call__(self, step):
        assert self.opened.wait(30)
        self.steps.append(step)


def state_of(value):
    return {"method": {"x": torch.full((1000,), float(value))}, "optimizer": {0: [torch.tensor(value)]}, "n": value}


def slowly(monkeypatch):
    """Let files be written once the event is set, and not before."""
    go, save = threading.Event(), checkpoint.save

    def late(*args):
        assert go.wait(30)
        return save(*args)

    monkeypatch.setattr(checkpoint, "save", late)
    return go


def test_a_save_returns_before_its_file_is_written(tmp_path, monkeypatch):
    go = slowly(monkeypatch)
    with Saver(tmp_path) as saver:
        saver.save(3, state_of(1))
        assert checkpoint.steps(tmp_path) == []
        go.set()
        saver.wait()
        assert checkpoint.steps(tmp_path) == [3]


def writing():
    """Threads that write a checkpoint; other tests may have left threads of libraries behind."""
    return sum(thread.name.startswith("checkpoint") for thread in threading.enumerate())


def test_what_changes_after_a_save_does_not_reach_its_file(tmp_path, monkeypatch):
    go, state = slowly(monkeypatch), state_of(1)
    with Saver(tmp_path) as saver:
        saver.save(3, state)
        state["method"]["x"].zero_()
        state["optimizer"][0][0].zero_()
        state["optimizer"][0].append(torch.ones(1))
        state["n"] = 2
        go.set()
    saved = checkpoint.of_step(tmp_path, 3)
    assert torch.equal(saved["method"]["x"], torch.ones(1000))
    assert [x.item() for x in saved["optimizer"][0]] == [1]
    assert saved["n"] == 1


def test_leaving_waits_for_the_last_file(tmp_path):
    with Saver(tmp_path) as saver:
        saver.save(1, {"x": torch.zeros(2_000_000)})
    assert checkpoint.steps(tmp_path) == [1]
    assert not writing()


def test_files_are_written_one_at_a_time_and_in_order(tmp_path, monkeypatch):
    written, at_once, save = [], [], checkpoint.save

    def watched(run_dir, step, state):
        at_once.append(writing())
        save(run_dir, step, state)

    monkeypatch.setattr(checkpoint, "save", watched)
    with Saver(tmp_path, written=written.append) as saver:
        for step in range(5):
            saver.save(step, state_of(step))
    assert written == [0, 1, 2, 3, 4]
    assert at_once == [1] * 5
    assert [checkpoint.of_step(tmp_path, step)["n"] for step in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ask", [lambda saver: saver.save(2, {}), lambda saver: saver.wait()])
def test_an_error_of_the_thread_stops_the_next_call(tmp_path, ask):
    (tmp_path / "checkpoints").write_text("a file where the folder would be")
    saver = Saver(tmp_path)
    saver.save(1, {})
    with pytest.raises(OSError, match="checkpoints"):
        ask(saver)
    saver.wait()  # said once


def test_an_error_of_the_last_file_is_said_on_leaving(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder would be")
    with pytest.raises(OSError, match="checkpoints"), Saver(tmp_path) as saver:
        saver.save(1, {})


def test_an_error_of_the_loop_outweighs_one_of_the_thread_and_waits_for_it(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder would be")
    with pytest.raises(ZeroDivisionError), Saver(tmp_path) as saver:
        saver.save(1, {})
        raise ZeroDivisionError
    assert not writing()


def test_an_error_of_retention_stops_the_run_and_the_file_is_there(tmp_path):
    def fails(step):
        raise PermissionError(f"no file of before step {step} can go")

    with pytest.raises(PermissionError, match="before step 4"), Saver(tmp_path, written=fails) as saver:
        saver.save(4, state_of(4))
    assert checkpoint.steps(tmp_path) == [4]


def test_retention_follows_each_file(tmp_path):
    with Saver(tmp_path, written=lambda step: checkpoint.prune(tmp_path, step, keep=2)) as saver:
        for step in range(1, 6):
            saver.save(step, state_of(step))
    assert checkpoint.steps(tmp_path) == [4, 5]


def test_the_next_save_waits_for_retention(tmp_path):
    gate = Gate()
    with Saver(tmp_path, written=gate) as saver:
        saver.save(1, {})
        threading.Timer(0.3, gate.opened.set).start()
        saver.save(2, {})
        assert gate.steps == [1]
        assert gate.opened.is_set()
    assert gate.steps == [1, 2]


def test_the_copies_stay_in_the_memory_of_the_first_save(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(checkpoint, "save", lambda run_dir, step, state: seen.append(state["method"]["x"].data_ptr()))
    with Saver(tmp_path) as saver:
        for step in range(4):
            saver.save(step, state_of(step))
    assert len(set(seen)) == 1


def test_a_state_that_grows_or_changes_its_kind_is_copied_whole(tmp_path):
    states = [
        {"x": torch.arange(3)},
        {"x": torch.arange(5)},
        {"x": torch.arange(5) / 2},
        {"y": torch.arange(5)[::2]},
        {"y": torch.zeros(0, 4)},
    ]
    with Saver(tmp_path) as saver:
        for step, state in enumerate(states):
            saver.save(step, state)
    for step, state in enumerate(states):
        saved = checkpoint.of_step(tmp_path, step)
        for name, x in state.items():
            assert saved[name].dtype == x.dtype
            assert torch.equal(saved[name], x)


def test_tensors_whose_keys_read_alike_stay_apart(tmp_path):
    state = {"a": {"b": torch.tensor([1])}, "a/b": torch.tensor([2]), 0: torch.tensor([3]), "0": torch.tensor([4])}
    with Saver(tmp_path) as saver:
        saver.save(1, state)
    saved = checkpoint.of_step(tmp_path, 1)
    assert [saved["a"]["b"].item(), saved["a/b"].item(), saved[0].item(), saved["0"].item()] == [1, 2, 3, 4]


def test_a_part_of_a_large_tensor_is_saved_as_that_part(tmp_path):
    with Saver(tmp_path) as saver:
        saver.save(1, {"x": torch.zeros(1_000_000)[:10]})
    (path,) = checkpoint.paths(tmp_path).values()
    assert path.stat().st_size < 10_000


@pytest.mark.slow
def test_a_kill_while_the_thread_writes_leaves_the_last_file_whole(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from sslkit import checkpoint; from sslkit.saving import Saver\n"
        "run = Path(sys.argv[1])\n"
        "with Saver(run, written=lambda step: checkpoint.prune(run, step, keep=2)) as saver:\n"
        "    for step in range(1, 10_000):\n"
        "        saver.save(step, {'x': torch.full((3_000_000,), float(step)), 'step': step})\n"
    )
    for wait in (0.0, 0.013, 0.041):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        began, before = time.monotonic(), set(checkpoint.steps(tmp_path))
        while set(checkpoint.steps(tmp_path)) <= before and time.monotonic() - began < 60:
            time.sleep(0.002)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        step, state = checkpoint.latest(tmp_path)
        assert step == state["step"] == max(checkpoint.steps(tmp_path))
        assert torch.equal(state["x"], torch.full((3_000_000,), float(step)))
        for path in checkpoint.folder(tmp_path).glob("step_*.pt"):
            path.unlink()
