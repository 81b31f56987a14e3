"""Every process finds out who it is from its environment, and where rank 0 listens from the run directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from sslkit import rendezvous
from sslkit.errors import ConfigError
from sslkit.rendezvous import Place, here
from tests.conftest import ROOT

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node1"}
SLURM = {
    "SLURM_JOB_ID": "812",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
}


def test_nobody_around_is_one_process_alone():
    assert here({}) == Place(rank=0, size=1, local_rank=0, local_size=1, meeting="")


def test_torchrun_says_who_and_where():
    assert here(TORCHRUN) == Place(rank=5, size=8, local_rank=1, local_size=4, meeting="")


def test_torchrun_inside_a_job_of_slurm_is_the_one_that_counts():
    assert here(SLURM | TORCHRUN) == here(TORCHRUN)


def test_who_sets_rank_and_size_alone_is_alone_on_every_machine():
    found = here({"RANK": "3", "WORLD_SIZE": "4"})
    assert (found.rank, found.size, found.local_size) == (3, 4, 1)


def test_a_task_of_slurm_knows_itself_and_its_start():
    found = here(SLURM)
    assert (found.rank, found.size, found.local_rank) == (9, 11, 1)
    again = here(SLURM | {"SLURM_RESTART_COUNT": "1"})
    assert found.meeting != again.meeting
    assert here(SLURM | {"SLURM_PROCID": "0"}).meeting == found.meeting
    assert here(SLURM | {"SLURM_STEP_ID": "1"}).meeting != found.meeting


@pytest.mark.parametrize(
    "tasks, counts",
    [("4(x2),3", [4, 4, 3]), ("2", [2]), ("1,3(x2)", [1, 3, 3]), ("2(x3)", [2, 2, 2]), ("5,1", [5, 1])],
)
def test_lists_of_tasks_per_node_are_read_as_slurm_writes_them(tasks, counts):
    for node, count in enumerate(counts):
        environment = SLURM | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)}
        assert here(environment).local_size == count


def test_a_shell_of_salloc_is_one_process_alone():
    shell = {"SLURM_JOB_ID": "812", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert here(shell) == Place()


def test_a_step_of_one_task_is_one_process_alone():
    assert here(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) == Place()


@pytest.mark.parametrize("gone", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_ID"])
def test_a_missing_variable_is_named(gone):
    environment = {name: value for name, value in SLURM.items() if name != gone}
    with pytest.raises(ConfigError, match=f"does not say who this process is.*{gone}"):
        here(environment)


def test_what_is_no_number_is_shown():
    with pytest.raises(ConfigError, match="'five'"):
        here(TORCHRUN | {"RANK": "five"})


def test_a_rank_that_rank_0_never_tells_where_to_go_says_what_it_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "WAIT_S", 0.3)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"rank 1 on .* waited 0 s for .*/\.meeting_start\.json, which rank 0 writes"):
        rendezvous.meet(Place(1, 2, 1, 2, "start"), tmp_path)
    assert time.monotonic() - began < 5


def test_a_rank_that_the_others_never_join_says_for_whom_it_waited(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "WAIT_S", 0.3)
    with pytest.raises(ConfigError, match=r"rank 0 on .* waited 0 s for all 2 ranks to start"):
        rendezvous.meet(Place(0, 2, 0, 2, "start"), tmp_path)


def test_what_was_left_of_another_start_leads_nobody_astray(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "WAIT_S", 0.3)
    (tmp_path / ".meeting_killed.json").write_text('{"host": "127.0.0.1", "port": 1}')
    with pytest.raises(ConfigError, match=r"\.meeting_anew\.json"):
        rendezvous.meet(Place(1, 2, 1, 2, "anew"), tmp_path)


OTHER = """
import sys
from pathlib import Path
from sslkit import rendezvous
store = rendezvous.meet(rendezvous.Place(1, 2, 1, 2, "start"), Path(sys.argv[1]))
store.set("answer", store.get("question").decode() + " indeed")
"""


@pytest.mark.slow
def test_two_processes_meet_through_the_run_directory_and_leave_nothing_there(tmp_path):
    run, here = tmp_path / "run", Place(0, 2, 0, 2, "start")
    run.mkdir()
    (run / ".meeting_killed.json").write_text("{}")
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(run)], cwd=ROOT)
    store = rendezvous.meet(here, run)
    store.set("question", "met")
    assert store.get("answer") == b"met indeed"
    assert other.wait(60) == 0
    assert {path.name for path in run.iterdir()} == {".meeting_killed.json", ".meeting_start.json"}
    rendezvous.met(here, run)
    assert [path.name for path in run.iterdir()] == [
        ".meeting_killed.json"
    ]  # of a start that may still be about to meet
    rendezvous.forget_others(run)
    assert [path.name for path in run.iterdir()] == [".meeting_killed.json"]
    os.utime(run / ".meeting_killed.json", (0, 0))
    rendezvous.forget_others(run)
    assert list(run.iterdir()) == []
