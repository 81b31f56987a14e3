"""Runs looked at from outside, stopped from outside, and asked for what they were before their end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time

import pytest
from click.testing import CliRunner
from safetensors import safe_open

from sslkit import checkpoint, status
from sslkit.cli import main
from sslkit.errors import ConfigError, NotFinite
from sslkit.launch.job import Job, ready
from sslkit.status import Status
from tests.watched import done, launch, small, start, until_it_steps

FEW = ("train.evaluations = {'dense': @evaluate.DenseRetrieval()}", "memory/datasets.Scenes.n_images = 4")
EVALUATED = (*FEW, "val/datasets.Scenes.n_images = 2", "train.n_workers = 0")


def said(*words, code=0):
    """What a command prints, in this process."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def row(output, run):
    """The line of a run in the table, its words apart."""
    (line,) = [line for line in output.splitlines() if line.startswith(f"{run} ")]
    return re.split(r"  +", line)


def run_of(folder, state, **told):
    folder.mkdir(parents=True)
    Status(folder).change(state, **told)
    return folder


def test_an_empty_folder_has_no_runs_and_a_missing_one_is_said_to_be_missing(tmp_path):
    assert said("runs", tmp_path) == f"no runs in {tmp_path}\n"
    assert f"there is no folder {tmp_path / 'nowhere'}" in said("runs", tmp_path / "nowhere", code=2)


def test_runs_of_a_sweep_are_found_below_their_folder_in_the_order_of_their_names(tmp_path):
    for name in ("k=4", "k=12", "inner/k=1"):
        run_of(tmp_path / "grid" / name, "finished", step=5, n_steps=5)
    (tmp_path / "grid" / "empty").mkdir()
    shown = said("runs", tmp_path).splitlines()
    assert [line.split()[0] for line in shown[1:]] == [str(tmp_path / "grid" / n) for n in ("inner/k=1", "k=12", "k=4")]
    records = json.loads(said("runs", tmp_path / "grid", "--json"))
    first = records[0]
    assert first["folder"] == str(tmp_path / "grid" / "inner" / "k=1")
    assert (first["state"], first["step"]) == ("finished", "5/5")


def test_a_run_that_claims_to_be_at_work_and_is_not_is_lost(tmp_path):
    run = run_of(tmp_path / "run", "running", step=3, n_steps=9, left_s=40.0, images_per_s=12.0)
    output = said("runs", tmp_path)
    assert row(output, run)[1:5] == ["lost", "3/9", "-", "-"]
    assert f"{run}: it ended without a word, killed perhaps; the same command goes on" in output


def test_a_failed_run_is_shown_with_its_reason(tmp_path):
    run = run_of(tmp_path / "run", "failed", step=3, n_steps=9, message="OSError: no space left")
    output = said("runs", run)
    assert row(output, run)[1] == "failed"
    assert output.endswith(f"{run}: OSError: no space left\n")


def test_there_is_nothing_to_cancel_where_nothing_is_at_work(tmp_path):
    run_of(tmp_path / "run", "finished")
    assert f"no run in {tmp_path} is at work or in the queue" in said("cancel", tmp_path, code=2)
    assert "there is no folder" in said("cancel", tmp_path / "nowhere", code=2)


def test_the_log_of_what_is_no_run_is_refused(tmp_path):
    assert f"{tmp_path} is not a run directory" in said("logs", tmp_path, code=2)


def test_the_last_lines_of_a_log_are_shown(tmp_path):
    (tmp_path / "log.txt").write_text("".join(f"line {n}\n" for n in range(100)))
    assert said("logs", tmp_path, "-n", 2) == "line 98\nline 99\n"
    assert len(said("logs", tmp_path).splitlines()) == 50


@pytest.mark.parametrize("name", ["'knn/accuracy'", "'miou'"])
def test_the_best_by_what_no_evaluation_finds_is_refused_with_its_place(name):
    with pytest.raises(ConfigError, match=r"--set: train.keep_best = .*the run has no such evaluation; it has: dense"):
        ready(["gin/cribo.gin"], [f"train.keep_best = {name}"])


def test_the_best_by_an_evaluation_that_data_took_away_is_refused(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("include 'gin/cribo.gin'\ntrain.keep_best = 'dense/miou'\n")
    with pytest.raises(ConfigError, match=rf"{file}:2: train.keep_best.*no such evaluation; it has: none"):
        ready([str(file)], ["train.evaluations = None"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose checkpoints were kept by step, by being best, and by being the last."""
    run = tmp_path_factory.mktemp("finished") / "run"
    kept = ("save_every = 1", "evaluate_every = 2", "keep = 1", "keep_every = 3", "keep_best = 'dense/miou'")
    Job(
        ["gin/cribo.gin"],
        [*small(*EVALUATED, "train.n_steps = 7", *(f"train.{k}" for k in kept))],
        str(run),
        ["sslkit"],
    )()
    return run


@pytest.mark.slow
def test_a_run_that_would_go_on_with_another_name_of_the_best_is_refused_and_loses_none(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    kept = checkpoint.steps(run)
    bindings = small(*EVALUATED, "train.n_steps = 7", "train.keep = 1", "train.keep_best = 'dense/mIoU'")
    with pytest.raises(ConfigError, match="keep_best='dense/mIoU', but what evaluations find is dense/miou"):
        Job(["gin/cribo.gin"], [*bindings], str(run), ["sslkit"])()
    assert checkpoint.steps(run) == kept


@pytest.mark.slow
def test_two_ranks_keep_what_one_would_and_record_that_they_are_two(tmp_path):
    kept = ("save_every = 1", "evaluate_every = 1", "keep = 1", "keep_best = 'dense/miou'", "n_steps = 6")
    bindings = small(*EVALUATED, *(f"train.{k}" for k in kept))
    ended = done(launch(tmp_path / "run", "--processes", "2", bindings=bindings))
    assert ended.returncode == 0, ended.stderr
    found = {step: of["dense/miou"] for step, of in by_step(tmp_path / "run").items() if step > 0}
    assert checkpoint.steps(tmp_path / "run") == sorted({6, max(found, key=lambda step: found[step])})
    assert json.loads((tmp_path / "run" / "environment.json").read_text())[0]["ranks"] == 2


@pytest.mark.slow
def test_an_evaluation_gives_way_to_a_signal_and_is_done_at_the_next_start(tmp_path):
    run = tmp_path / "run"
    words = launch(run, "--steps", "3", bindings=small(*EVALUATED))
    process = start(words)
    while status.read(run).get("state") != "evaluating":
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR2, errors
    assert "stopped by SIGUSR2 before the first step" in errors
    assert not (run / "evaluations.json").is_file()
    assert done(words).returncode == 0
    assert sorted(by_step(run)) == [0, 3]


def by_step(run):
    return {int(step): found for step, found in json.loads((run / "evaluations.json").read_text()).items()}


@pytest.mark.slow
def test_kept_are_the_latest_those_of_every_so_many_steps_and_the_best(finished):
    found = by_step(finished)
    assert sorted(found) == [0, 2, 4, 6, 7]
    best = max((2, 4, 6, 7), key=lambda step: found[step]["dense/miou"])
    assert checkpoint.steps(finished) == sorted({3, 6, 7, best})


@pytest.mark.slow
def test_a_finished_run_is_shown_with_its_last_probe(finished):
    probe = "dense/miou={:.3f}".format(by_step(finished)[7]["dense/miou"])
    assert row(said("runs", finished), finished)[1:6] == ["finished", "7/7", "-", "-", probe]


@pytest.mark.slow
def test_the_log_holds_what_was_said_with_its_time(finished):
    lines = said("logs", finished).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    assert sum("dense, after 7 steps: miou" in line for line in lines) == 1


@pytest.mark.slow
def test_a_kept_checkpoint_is_named_by_its_step_or_by_what_it_is_best_by(finished, tmp_path):
    found = by_step(finished)
    best = max(checkpoint.steps(finished), key=lambda step: found.get(step, {}).get("dense/miou", -1))
    for at, step in ((), 7), (("--at", "3"), 3), (("--at", "dense/miou"), best):
        said("export", finished, "--to", "timm", "--out", tmp_path / "timm", *at)
        with safe_open(tmp_path / "timm" / "model.safetensors", "pt") as file:
            assert file.metadata()["step"] == str(step)


@pytest.mark.slow
def test_an_evaluation_says_which_step_it_is_of(finished, tmp_path):
    protocol = tmp_path / "few.gin"
    dense = "train = @memory/datasets.Scenes()", "val = @val/datasets.Scenes()", "n_classes = 7", "image_size = 48"
    scenes = "size = 96", "n_classes = 6", "objects = (2, 3)", "scale = (0.35, 0.45)", "n_images = 3"
    protocol.write_text(
        "\n".join(
            [
                "evaluation.protocol = @evaluate.DenseRetrieval()",
                *(f"evaluate.DenseRetrieval.{line}" for line in dense),
                *(f"datasets.Scenes.{line}" for line in scenes),
                "val/datasets.Scenes.split = 'val'",
            ]
        )
    )
    record = json.loads(said("evaluate", finished, "--protocol", protocol, "--at", "3").splitlines()[-1])
    assert record["step"] == 3
    assert 0 <= record["miou"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "at, wrong",
    [
        ("5", "has no checkpoint of that step; it has ["),
        ("dense/mio", "has no checkpoint with 'dense/mio'; evaluations found "),
    ],
)
def test_a_checkpoint_that_was_not_kept_is_refused_with_those_that_were(finished, at, wrong):
    for words in (("picture", finished), ("export", finished, "--to", "timm", "--out", "nowhere")):
        assert wrong in said(*words, "--at", at, code=2)


@pytest.mark.slow
def test_a_result_that_an_evaluation_does_not_have_stops_the_run_before_its_first_step(tmp_path):
    wrong = small(*EVALUATED, "train.n_steps = 2", "train.keep_best = 'dense/mio'")
    with pytest.raises(ConfigError, match=r"(?s)keep_best='dense/mio'.*dense/miou.*--set: train.keep_best"):
        Job(["gin/cribo.gin"], list(wrong), str(tmp_path / "run"), [])()
    assert checkpoint.steps(tmp_path / "run") == []


@pytest.mark.slow
def test_a_run_that_fails_says_so_and_why(tmp_path):
    run = tmp_path / "run"
    wrong = small("train.n_steps = 9", "train.n_workers = 0", "Optimizer.lr = 1e30")
    with pytest.raises(NotFinite):
        Job(["gin/cribo.gin"], list(wrong), str(run), [])()
    output = said("runs", run)
    assert row(output, run)[1] == "failed"
    assert f"{run}: NotFinite: the loss or its gradient is not finite" in output
    assert "NotFinite" in said("logs", run, "-n", 1)


@pytest.mark.slow
def test_a_run_at_work_is_shown_followed_and_cancelled(tmp_path):
    run = tmp_path / "run"
    process = start(launch(run, "--steps", "5000", bindings=small("train.log_every = 1")))
    until_it_steps(process)
    shown = row(said("runs", tmp_path), run)
    assert shown[1] == "running"
    assert shown[6].endswith(str(process.pid))
    followed = start([*launch(run)[:3], "logs", str(run), "-n", "1", "-f"])
    steps = [int(re.findall(r"step (\d+)/5000", followed.stdout.readline())[0]) for _ in range(3)]
    assert steps == list(range(steps[0], steps[0] + 3))
    followed.send_signal(signal.SIGINT)
    assert followed.wait(30) == 0
    assert followed.communicate()[1] == ""
    assert (
        said("cancel", tmp_path) == f"{run}: process {process.pid} was asked to stop; it saves at the end of its step\n"
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    (step,) = re.findall(r"stopped by SIGTERM after step (\d+), which is saved", errors)
    assert checkpoint.steps(run)[-1] == int(step)
    assert row(said("runs", tmp_path), run)[1:3] == ["stopped", f"{step}/5000"]


@pytest.mark.slow
def test_an_evaluation_that_was_killed_after_the_last_step_is_done_again_and_nothing_else(tmp_path):
    run = tmp_path / "run"
    bindings = small(*FEW, "val/datasets.Scenes.n_images = 60", "train.n_workers = 0")
    process = start(launch(run, "--steps", "2", bindings=bindings))
    while not checkpoint.steps(run) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert status.holder(run) is None
    assert sorted(by_step(run)) == [0]
    assert row(said("runs", run), run)[1] == "lost"
    (kept,) = checkpoint.paths(run).values()
    before, records = os.stat(kept).st_mtime_ns, (run / "metrics.jsonl").read_text()
    Job(["gin/cribo.gin"], [*bindings, "train.n_steps = 2"], str(run), ["sslkit"])()
    assert sorted(by_step(run)) == [0, 2]
    assert list(checkpoint.paths(run).values()) == [kept]
    assert os.stat(kept).st_mtime_ns == before
    added = (run / "metrics.jsonl").read_text().removeprefix(records).splitlines()
    assert [set(json.loads(line)) for line in added] == [{"step", "dense/miou", *by_step(run)[2]}]
    assert row(said("runs", run), run)[1] == "finished"
