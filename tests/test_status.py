"""A run says in a small file how it stands, and holds its directory as long as it lives."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from sslkit import status
from sslkit.status import Status

HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print(flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(status.lock_path(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_status_says_who_wrote_it_and_when(tmp_path):
    Status(tmp_path).change("running", step=3, n_steps=9)
    found = status.read(tmp_path)
    assert (found["state"], found["step"], found["n_steps"]) == ("running", 3, 9)
    assert (found["host"], found["pid"]) == (platform.node(), os.getpid())
    assert found["time"] > 0


def test_what_changes_often_is_written_every_few_seconds_and_a_change_of_state_at_once(tmp_path, monkeypatch):
    kept = Status(tmp_path)
    kept.change("running", step=0)
    for step in range(1, 5):
        kept.beat(step=step)
    assert status.read(tmp_path)["step"] == 0
    kept.change("stopped")
    assert (status.read(tmp_path)["state"], status.read(tmp_path)["step"]) == ("stopped", 4)
    monkeypatch.setattr(status, "BEAT_S", 0.0)
    kept.beat(step=5)
    assert status.read(tmp_path)["step"] == 5


def test_a_start_keeps_what_is_known_and_forgets_why_the_one_before_ended(tmp_path):
    Status(tmp_path).change("failed", step=3, message="a full disk")
    Status(tmp_path).change("starting")
    found = status.read(tmp_path)
    assert (found["state"], found["step"], found["message"]) == ("starting", 3, "")


@pytest.mark.parametrize("text", ["", '{"state": "runn', "[]"])
def test_a_torn_status_says_nothing(tmp_path, text):
    status.path(tmp_path).write_text(text)
    assert status.read(tmp_path) == {}
    Status(tmp_path).change("running")
    assert status.read(tmp_path)["state"] == "running"


def test_nobody_holds_a_directory_without_a_run(tmp_path):
    assert status.holder(tmp_path) is None
    status.lock_path(tmp_path).touch()
    assert status.holder(tmp_path) is None


def test_the_process_that_holds_a_directory_is_known_until_it_is_killed(tmp_path, other):
    assert status.holder(tmp_path) == other.pid
    other.kill()
    other.wait()
    assert status.holder(tmp_path) is None


def test_a_holder_on_another_machine_is_no_process_of_this_one(tmp_path, other):
    status.path(tmp_path).write_text(json.dumps({"state": "running", "host": "another"}))
    assert status.holder(tmp_path) == 0


@pytest.mark.parametrize(
    "seconds, words",
    [(5, "0 min 05 s"), (59.6, "1 min 00 s"), (3600, "1 h 00 min"), (172799, "47 h 59 min"), (180000, "2 d 2 h")],
)
def test_lengths_of_time_are_spelt_in_two_units(seconds, words):
    assert status.spell(seconds) == words
