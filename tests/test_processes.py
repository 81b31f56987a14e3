"""Several ranks on this machine: what they compute, how they stop, and what becomes of them when one fails.

One run is stopped in every way there is, one after the other on the same directory, and ends with the same bits as one
that was left alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass

import pytest

from sslkit import checkpoint, status
from sslkit.launch import processes
from tests.test_launch import same
from tests.watched import done, launch, ranks_of, small, start, torchrun, until_gone, until_it_steps

pytestmark = pytest.mark.slow
N_STEPS = 24
LENGTH = ("--steps", str(N_STEPS))


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@dataclass
class Leg:
    """A start of a run: how it ended, what it said, and what was left."""

    code: int
    said: str
    errors: str
    steps: list[int]
    status: dict


def leg(run, act, *bindings):
    """Start or go on, wait for a step, do something to the process, and see how it ends."""
    process = start(launch(run, *LENGTH, "--processes", "2", bindings=small(*bindings)))
    until_it_steps(process)
    ranks = ranks_of(process)
    act(process.pid, ranks)
    said, errors = process.communicate(timeout=300)
    for rank in ranks:
        until_gone(rank)
    return Leg(process.returncode, said, errors, checkpoint.steps(run), status.read(run))


def to_parent(number):
    return lambda parent, ranks: os.kill(parent, number)


def to_rank(rank, number):
    return lambda parent, ranks: os.kill(ranks[rank], number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finished = done(launch(run, *LENGTH, "--processes", "2"))
    assert finished.returncode == 0, finished.stderr
    return run


@pytest.fixture(scope="module")
def legs(tmp_path_factory):
    """A run that was stopped in every way, and how each of its starts ended."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    found = {name: leg(run, to_parent(number)) for name, number in SIGNALS.items()}
    found["rank 1 is killed"] = leg(run, to_rank(1, signal.SIGKILL))
    found["the parent is killed"] = leg(run, to_parent(signal.SIGKILL))
    found["rank 1 hangs"] = leg(run, to_rank(1, signal.SIGSTOP), "train.patience_s = 10")
    found["the end"] = leg(run, lambda parent, ranks: None)
    return run, found


SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGUSR2": signal.SIGUSR2, "SIGINT": signal.SIGINT}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_to_the_parent_saves_stops_all_ranks_and_is_the_exit_code(legs, name):
    found = legs[1][name]
    assert found.code == 128 + SIGNALS[name]
    (step,) = re.findall(rf"stopped by {name} after step (\d+), which is saved", found.errors)
    assert found.steps[-1] == int(step) < N_STEPS
    assert found.status["state"] == "stopped"
    assert found.errors.count("stopped by") == 1
    assert "Traceback" not in found.errors


def test_the_death_of_a_rank_ends_the_other_and_is_told_with_its_name(legs):
    found = legs[1]["rank 1 is killed"]
    assert found.code == 128 + signal.SIGKILL
    assert "error: rank 1 was killed by SIGKILL (out of memory?); the same command goes on" in found.errors
    assert "Traceback" not in found.errors
    assert found.status["state"] == "failed"
    assert found.status["message"].startswith("rank 1 was killed by SIGKILL")


def test_ranks_whose_parent_was_killed_save_and_leave(legs):
    found = legs[1]["the parent is killed"]
    assert found.code == -signal.SIGKILL
    assert found.status["state"] == "stopped"
    (step,) = re.findall(r"stopped by SIGTERM after step (\d+), which is saved", found.status["message"])
    assert found.steps[-1] == int(step)


def test_a_rank_that_hangs_is_missed_after_a_while_and_told(legs):
    found = legs[1]["rank 1 hangs"]
    assert found.code == 1
    assert "rank 0 of 2 has lost another one, which died or hangs" in found.errors
    assert "Traceback" not in found.errors
    assert found.status["state"] == "failed"


def test_a_run_stopped_in_every_way_ends_with_the_same_bits(legs, whole):
    run, found = legs
    assert found["the end"].code == 0, found["the end"].errors
    assert found["the end"].status["state"] == "finished"
    assert same(checkpoint.latest(run)[1], checkpoint.latest(whole)[1])
    assert len({record["step"] for record in records(run)}) == len(records(run))
    before = [leg.steps[-1] for leg in found.values()]
    assert before == sorted(before)
    assert not list(run.glob(".meeting*"))


def test_processes_and_torchrun_come_to_the_same_bits(whole, tmp_path):
    run = tmp_path / "run"
    finished = done(torchrun(launch(run, *LENGTH)))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert same(checkpoint.latest(run)[1], checkpoint.latest(whole)[1])
    said = [{k: v for k, v in r.items() if k not in ("images_per_s", "data_wait")} for r in records(run)]
    assert said == [{k: v for k, v in r.items() if k not in ("images_per_s", "data_wait")} for r in records(whole)]


def test_the_gradient_of_two_ranks_is_that_of_one_with_the_double_batch(whole, tmp_path):
    run = tmp_path / "run"
    finished = done(launch(run, "--steps", "2", bindings=small("train.batch_size = 8")))
    assert finished.returncode == 0, finished.stderr
    assert records(run)[0]["gradient_norm"] == pytest.approx(records(whole)[0]["gradient_norm"], rel=1e-4)


def test_a_wrong_configuration_is_told_once_and_not_by_every_rank(tmp_path):
    refused = done(launch(tmp_path / "run", *LENGTH, "--processes", "2", bindings=small("Method.momentun = 1")))
    assert refused.returncode == 2
    assert refused.stderr.count("did you mean 'momentum'?") == 1
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.glob("run/*.gin"))


def test_a_rank_that_hangs_when_another_has_finished_is_ended(monkeypatch):
    monkeypatch.setattr(processes, "LAST_S", 0.5)
    group = processes._Group([subprocess.Popen(["true"]), subprocess.Popen(["sleep", "60"])])
    assert group.wait() == 1
    assert group.hung == 1
    assert [process.returncode for process in group.ranks] == [0, -signal.SIGKILL]
