"""Runs on a real Slurm: stopped in the middle, started again by themselves, and the same to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sslkit import checkpoint, status
from sslkit.launch import cluster
from sslkit.status import job_of
from tests.conftest import ROOT
from tests.test_launch import same

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

N_STEPS = 40
CRIBO = (
    "scenes/datasets.Scenes.n_images = 48",
    "train.batch_size = 4",  # six steps of two ranks are an epoch
    "train.n_workers = 1",
    "train.evaluations = None",
    "train.pictures = False",
    "across/Term.start_fraction = 0.1",
    "backbones.Timm.options = {'output_stride': 8, 'layers': (1, 1, 0, 0), 'channels': (8, 12, 12, 12)}",
    "backbones.Timm.drop_path = 0.2",  # draws from torch's own generator
    f"train.n_steps = {N_STEPS}",
    "train.save_every = 15",
)
# an evaluation at every step keeps a job busy and changes no weight
EVALUATED = (
    "train.evaluations = {'dense': @evaluate.DenseRetrieval()}",
    "train.evaluate_every = 1",
    "memory/datasets.Scenes.n_images = 16",
    "val/datasets.Scenes.n_images = 8",
)
TWO_TASKS = ("--slurm", "--tasks", "2", "--cpus", "1", "--time", "10")


def cribo(*others):
    """The same bindings, and others, which take the place of those of their names."""
    names = {binding.partition(" = ")[0] for binding in others}
    return (*(binding for binding in CRIBO if binding.partition(" = ")[0] not in names), *others)


def launch(run, *words, bindings=CRIBO):
    """A launch of CrIBo as a user types it."""
    given = [word for binding in bindings for word in ("--set", binding)]
    command = [sys.executable, "-m", "sslkit.launch", "--gin", "gin/cribo.gin", "--out", str(run), *words, *given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


def submit(run, *words, bindings=CRIBO):
    """The number of the job."""
    done = launch(run, *TWO_TASKS, *words, bindings=bindings)
    assert done.returncode == 0, done.stderr
    return job_of(run)


def wait_for(what, run, seconds=400):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, said_by(run)
        time.sleep(0.2)


def said_by(run):
    """Everything that a run has said, for a test that fails."""
    outputs = [*sorted(run.glob("slurm/*.out")), run / "log.txt", status.path(run)]
    return "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in outputs if path.is_file())


def step_of(run):
    return status.read(run).get("step", 0)


def is_finished(run):
    return (run / "results.json").is_file()


def has_ended(job):
    state = cluster.states([job]).get(job)
    return state is not None and state.has_ended


def restarts(job):
    shown = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return int(shown.partition("Restarts=")[2].split()[0])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The last checkpoint of the same run on two ranks of this machine."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = launch(run, "--processes", "2")
    assert done.returncode == 0, done.stderr
    return checkpoint.latest(run)[1]


def test_a_job_that_is_asked_to_in_the_middle_of_an_epoch_saves_queues_itself_and_ends_with_the_same_bits(
    slurm, tmp_path, undisturbed
):
    run = tmp_path / "run"
    job = submit(run, bindings=cribo(f"train.save_every = {N_STEPS}"))
    wait_for(lambda: step_of(run) > 1, run)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_for(lambda: status.read(run).get("state") == "requeued", run)
    (saved,) = checkpoint.steps(run)
    assert saved < N_STEPS
    wait_for(lambda: is_finished(run), run)
    assert restarts(job) == 1
    said = (run / "log.txt").read_text()
    assert f"stopped by SIGUSR2 after step {saved}" in said
    assert f"going on from step {saved} of {N_STEPS}" in said
    assert same(undisturbed, checkpoint.latest(run)[1])
    records = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records == sorted(set(records))  # one curve


def test_at_its_time_limit_a_job_saves_queues_itself_and_ends_with_the_same_bits(slurm, tmp_path, undisturbed):
    run = tmp_path / "run"
    job = submit(run, bindings=cribo("Slurm.signal_s = 30", *EVALUATED))
    wait_for(lambda: step_of(run) > 1, run)
    subprocess.run(["scontrol", "update", f"JobId={job}", "EndTime=now+40"], check=True)  # Slurm looks every 30 s
    wait_for(lambda: is_finished(run), run)
    assert same(undisturbed, checkpoint.latest(run)[1])
    assert restarts(job) >= 1
    assert "stopped by SIGUSR2" in (run / "log.txt").read_text()
    assert sorted(map(int, json.loads((run / "evaluations.json").read_text()))) == list(range(N_STEPS + 1))


@pytest.mark.parametrize("grace", ["enough", "none"])
def test_a_job_that_is_requeued_from_outside_ends_with_the_same_bits(slurm, tmp_path, undisturbed, grace):
    run = tmp_path / "run"
    job = submit(run)
    wait_for(lambda: step_of(run) > (1 if grace == "enough" else 16), run)
    if grace == "none":  # as when a machine fails: no process gets to save
        wait_for(lambda: checkpoint.steps(run), run)
        os.kill(status.read(run)["pid"], signal.SIGKILL)
        wait_for(lambda: has_ended(job), run)
        assert status.read(run)["state"] == "running"  # nobody could say more
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait_for(lambda: is_finished(run), run)
    assert same(undisturbed, checkpoint.latest(run)[1])
    assert restarts(job) >= 1
    said = (run / "log.txt").read_text()
    assert ("stopped by SIGTERM" in said) == (grace == "enough")
    assert ("going on from step 15" in said) == (grace == "none")


def test_a_cancelled_job_saves_and_does_not_come_back(slurm, tmp_path):
    run = tmp_path / "run"
    job = submit(run)
    wait_for(lambda: step_of(run) > 1, run)
    done = subprocess.run(
        [sys.executable, "-m", "sslkit", "cancel", str(run)], capture_output=True, text=True, cwd=ROOT
    )
    assert f"job {job} is cancelled; it saves first" in done.stdout, done.stderr
    wait_for(lambda: has_ended(job), run)
    assert status.read(run)["state"] == "stopped"
    assert checkpoint.steps(run)[-1] == status.read(run)["step"]
    assert not list(run.glob("slurm/.*.sh"))  # links of submitit, which would lead out of a run that is moved


def test_a_job_that_is_cancelled_while_it_saves_to_go_on_later_does_not_come_back(slurm, tmp_path):
    run = tmp_path / "run"
    job = submit(run)
    wait_for(lambda: step_of(run) > 1, run)
    speaker = status.read(run)["pid"]
    os.kill(speaker, signal.SIGSTOP)  # so that it finds both at once
    os.kill(speaker, signal.SIGUSR2)
    subprocess.run(["scancel", job], check=True)
    os.kill(speaker, signal.SIGCONT)
    wait_for(lambda: has_ended(job), run)
    assert restarts(job) == 0
    assert status.read(run)["state"] == "stopped"
    assert status.read(run)["message"].startswith("cancelled; stopped by SIG")


def test_of_two_submissions_at_once_one_is_refused(slurm, tmp_path):
    run = tmp_path / "run"
    with ThreadPoolExecutor(2) as both:
        done = list(both.map(lambda _: launch(run, *TWO_TASKS), range(2)))
    assert sorted(each.returncode for each in done) == [0, 2], [each.stderr for each in done]
    assert any(f"{run} is job {job_of(run)}" in each.stderr for each in done)
    subprocess.run(["scancel", job_of(run)], check=True)


def test_only_a_job_of_this_run_is_cancelled(slurm, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    job = submit(run)
    (other / "slurm").mkdir(parents=True)
    (other / "slurm" / "job.json").write_text(json.dumps({"job": job}))
    command = [sys.executable, "-m", "sslkit", "cancel"]
    refused = subprocess.run([*command, str(other)], capture_output=True, text=True, cwd=ROOT)
    assert refused.returncode == 2
    assert f"says that it is job {job}, but that was submitted by {run}/slurm/" in refused.stderr
    assert not has_ended(job)
    assert subprocess.run([*command, str(run)], cwd=ROOT).returncode == 0
    wait_for(lambda: has_ended(job), run)


def test_a_sweep_of_four_runs_is_an_array_and_ends_in_one_table(slurm, tmp_path):
    out = tmp_path / "grid"
    few = tuple(b for b in CRIBO if "n_steps" not in b and "drop_path" not in b)
    axes = ("--sweep", "clusterers.Sinkhorn.n_clusters = 2, 4", "--sweep", "train.seed = 0, 1", "--steps", "8")
    done = launch(out, "--slurm", "--cpus", "1", "--time", "10", *axes, bindings=few)
    assert done.returncode == 0, done.stderr
    assert "an array of 4 runs" in done.stdout
    runs = sorted(path.parent.parent for path in out.glob("*/slurm/job.json"))
    assert len({job_of(run) for run in runs}) == 4
    wait_for(lambda: all(map(is_finished, runs)), runs[0])
    wait_for(lambda: (out / "sweep.md").is_file() and (out / "sweep.md").read_text().count("2 of 2") == 2, runs[0])
    table = (out / "sweep.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["2", "4"]
    again = launch(out, "--slurm", "--cpus", "1", "--time", "10", *axes, bindings=few)
    assert "every point is finished" in again.stdout


def test_a_job_runs_the_code_that_it_was_submitted_with(slurm, tmp_path):
    run = tmp_path / "run"
    submit(run)
    (snapshot,) = (run / "code").glob("snapshot_*")
    wait_for(lambda: is_finished(run), run)
    assert not list(snapshot.rglob("*.partial"))
    (start,) = json.loads((run / "environment.json").read_text())
    assert start["commit"] == json.loads((snapshot / "snapshot.json").read_text())["commit"]
    assert start["ranks"] == 2


def test_what_slurm_would_not_take_is_refused_before_anything_is_written(slurm, tmp_path):
    run = tmp_path / "run"
    wrong = launch(run, *TWO_TASKS, "--partition", "maim")
    assert wrong.returncode == 2
    assert "partition='maim' does not exist; did you mean 'main'?" in wrong.stderr
    large = launch(run, *TWO_TASKS, "--cpus", "64")
    assert large.returncode == 2
    assert "Slurm would not take this job" in large.stderr
    few = launch(run, *TWO_TASKS, "--tasks", "20")
    assert few.returncode == 2
    assert "the data set has 48 images, but one step takes 80" in few.stderr
    assert not (run / "slurm" / "job.json").exists()


def test_a_dry_run_shows_the_file_and_submits_nothing(slurm, tmp_path):
    done = launch(tmp_path / "run", *TWO_TASKS, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --signal=USR2@120" in done.stdout
    assert "#SBATCH --ntasks-per-node=2" in done.stdout
    assert not (tmp_path / "run" / "slurm" / "job.json").exists()
