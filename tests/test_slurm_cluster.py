"""The cluster that other tests rely on."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.slurm import ENDED, binds

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def test_a_job_of_two_tasks_runs_and_accounting_knows_it(slurm, tmp_path):
    job = slurm.submit(f"srun sh -c 'echo $SLURM_PROCID of $SLURM_NTASKS > {tmp_path}/$SLURM_PROCID'", "--ntasks=2")
    assert slurm.until(job, *ENDED) == "COMPLETED"
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["0 of 2\n", "1 of 2\n"]
    steps = slurm.run("sacct", "-n", "-P", "-j", job, "-o", "JobID,State,ExitCode,NTasks").splitlines()
    assert f"{job}.0|COMPLETED|0:0|2" in steps


def test_two_jobs_of_one_task_run_at_once(slurm, tmp_path):
    waits = f"until [ -e {tmp_path}/$OTHER ]; do sleep 0.1; done"
    jobs = [
        slurm.submit(f"OTHER={other}; touch {tmp_path}/{mine}; {waits}", "--time=1")
        for mine, other in (("a", "b"), ("b", "a"))
    ]
    assert [slurm.until(job, *ENDED) for job in jobs] == ["COMPLETED", "COMPLETED"]


def test_a_task_has_the_cpus_that_its_srun_says(slurm, tmp_path):
    if not binds():
        pytest.skip("tasks are not bound to CPUs, some of which are not ours")
    count = f"{sys.executable} -c 'import os; print(len(os.sched_getaffinity(0)))'"
    said = f"srun {count} > {tmp_path}/plain; srun --cpus-per-task=2 {count} > {tmp_path}/says"
    assert slurm.until(slurm.submit(said, "--cpus-per-task=2"), *ENDED) == "COMPLETED"
    assert [(tmp_path / name).read_text() for name in ("plain", "says")] == ["1\n", "2\n"]


def test_a_requeued_job_starts_again_soon(slurm, tmp_path):
    script = f"echo ${{SLURM_RESTART_COUNT-none}} >> {tmp_path}/counts; [ $SLURM_RESTART_COUNT ] || exec sleep 60"
    job = slurm.submit(script)
    slurm.until(job, "RUNNING")
    slurm.run("scontrol", "requeue", job)
    assert slurm.until(job, *ENDED, timeout_s=30) == "COMPLETED"
    assert slurm.states(job) == ["REQUEUED", "COMPLETED"]
    assert (tmp_path / "counts").read_text() == "none\n1\n"


def test_an_urgent_job_preempts_another_which_is_warned_and_starts_again(slurm, tmp_path):
    said, ready = tmp_path / "said", tmp_path / "ready"
    works = f"trap 'echo warned >> {said}' USR2; touch {ready}; for i in $(seq 600); do sleep 0.1; done"
    job = slurm.submit(f"[ -e {ready} ] && exit; {works}", "--ntasks=2", "--signal=B:USR2@10")
    slurm.until(job, "RUNNING")
    while not ready.exists():
        time.sleep(0.1)
    urgent = slurm.submit("true", "--ntasks=2", "--partition=urgent")
    assert slurm.until(urgent, *ENDED) == "COMPLETED"
    assert slurm.until(job, *ENDED) == "COMPLETED"
    assert slurm.states(job) == ["PREEMPTED", "COMPLETED"]
    assert said.read_text() == "warned\n"


def test_the_time_limit_of_a_running_job_can_be_moved(slurm):
    job = slurm.submit("exec sleep 600", "--time=30")
    slurm.until(job, "RUNNING")
    slurm.end_in(job, 1)
    assert slurm.until(job, *ENDED) == "TIMEOUT"


@pytest.mark.parametrize(
    "option, said",
    [
        ("--partition=nowhere", "Invalid partition name specified"),
        ("--account=nobody", "Invalid account"),
        ("--nodes=2", "Node count specification invalid"),
        ("--gpus=3", "Requested node configuration is not available"),
        ("--mem=1T", "Requested node configuration is not available"),
        ("--time=2-0", "Requested time limit is invalid"),
    ],
)
def test_what_cannot_run_is_refused(slurm, option, said):
    refused = subprocess.run(
        ["sbatch", "--test-only", option, "--wrap", "true"], capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 1
    assert said in refused.stderr
