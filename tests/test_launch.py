"""Runs started, killed, continued and looked at as a user does."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from sslkit import checkpoint
from tests.conftest import ROOT, TINY, command

pytestmark = pytest.mark.slow


def weights(run):
    return checkpoint.latest(run)[1]


def same(a, b):
    """Whether two nested states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short CrIBo run."""
    run = tmp_path_factory.mktemp("run") / "cribo"
    done = subprocess.run(
        command("launch", "--gin", "gin/cribo.gin", "--steps", "14", "--out", str(run), bindings=TINY),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return run, done.stdout


def test_a_run_directory_holds_everything(finished):
    run, said = finished
    kept = {p.name for p in run.iterdir()}
    assert kept >= {"config.gin", "operative.gin", "environment.json", "metrics.jsonl", "checkpoints", "pictures"}
    assert kept >= {"status.json", "log.txt", "evaluations.json", "results.json"}
    assert {p.name for p in (run / "pictures").iterdir()} == {
        "clusters.png",
        "matches_objects.png",
        "features.png",
        "receptive_field.png",
        "curves.png",
    }
    assert "dense, random backbone: miou" in said
    assert "dense, after 14 steps: miou" in said
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/image", "loss/region", "loss/across", "lr", "momentum"} <= records[1].keys()


def test_the_same_command_on_a_finished_run_changes_nothing(finished, sslkit):
    run, _ = finished
    before = weights(run)
    again = sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "14", "--out", str(run), bindings=TINY)
    assert again.returncode == 0, again.stderr
    assert same(before, weights(run))


def test_a_run_is_repeated_from_what_it_kept(finished, tmp_path, sslkit):
    run, _ = finished
    done = sslkit("launch", "--from", str(run), "--out", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    assert same(weights(run), weights(tmp_path / "again"))
    for name in ("operative.gin", "results.json"):
        assert (tmp_path / "again" / name).read_text() == (run / name).read_text()
    changed = sslkit("launch", "--from", str(run), "--out", str(tmp_path / "other"), "--steps", "2")
    assert changed.returncode == 0, changed.stderr
    assert "step 2/2" in changed.stdout


def test_a_run_records_the_command_that_started_it(finished):
    run, _ = finished
    first = json.loads((run / "environment.json").read_text())[0]
    assert first["command"][1:4] == ["launch", "--gin", "gin/cribo.gin"]


def test_a_dry_run_of_a_command_leaves_no_trace(tmp_path, sslkit):
    out = tmp_path / "run"
    done = sslkit("launch", "--gin", "gin/cribo.gin", "--dry-run", "--out", str(out), bindings=TINY)
    assert done.returncode == 0, done.stderr
    assert "a step takes" in done.stdout
    assert not out.exists()


def test_other_settings_on_the_same_directory_are_refused(finished, sslkit):
    run, _ = finished
    before = weights(run)
    refused = sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "15", "--out", str(run), bindings=TINY)
    assert refused.returncode == 2
    assert "-train.n_steps = 14" in refused.stderr
    assert "+train.n_steps = 15" in refused.stderr
    assert same(before, weights(run))


# three steps an epoch, and partners that are often other images
ADAPTIVE = (
    "scenes/datasets.Scenes.n_images = 24",
    "train.batch_size = 8",
    "train.n_workers = 1",
    "train.evaluations = None",
    "memories.PerImage.window = 2",
    "memories.PerImage.warmup_epochs = 0",
    "Partners.matcher = @matchers.Nearest()",
    "backbones.Timm.drop_path = 0.3",  # draws from torch's own generator
)
METHODS = {"gin/cribo.gin": (*TINY, "train.save_every = 3"), "gin/adasim.gin": (*ADAPTIVE, "train.save_every = 4")}


@pytest.mark.parametrize("file", METHODS)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(file, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "killed"

    def words(out):
        return command("launch", "--gin", file, "--steps", "14", "--out", str(out), bindings=METHODS[file])

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(words(whole), cwd=ROOT, env=environment, check=True, capture_output=True, timeout=600)
    process = subprocess.Popen(words(run), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not checkpoint.steps(run) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(random.Random(file).uniform(0, 1.0))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    interrupted = checkpoint.steps(run)[-1]
    done = subprocess.run(words(run), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"going on from step {interrupted}" in done.stdout or interrupted == 14
    assert same(weights(whole), weights(run))


def test_partners_are_drawn_again_as_they_were_from_every_checkpoint_in_the_middle_of_an_epoch(tmp_path, sslkit):
    whole, run = tmp_path / "whole", tmp_path / "again"
    bindings = (*ADAPTIVE, "train.save_every = 1", "train.keep = 14")
    asked = ("launch", "--gin", "gin/adasim.gin", "--steps", "14")
    assert sslkit(*asked, "--out", str(whole), bindings=bindings).returncode == 0
    assert json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])["partners/bootstrapped"] == 1
    for left in (7, 8):  # epoch 2 is steps 7 to 9: partners are active, and these lie at its start and inside it
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        for step in checkpoint.steps(run):
            if step > left:
                checkpoint.paths(run)[step].unlink()
        done = sslkit(*asked, "--out", str(run), bindings=bindings)
        assert done.returncode == 0, done.stderr
        assert f"going on from step {left} of 14" in done.stdout
        assert same(weights(whole), weights(run))


def test_a_truncated_checkpoint_is_passed_over_with_a_warning(finished, tmp_path, sslkit):
    run = tmp_path / "torn"
    bindings = (*TINY, "train.save_every = 3")
    assert (
        sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "6", "--out", str(run), bindings=bindings).returncode == 0
    )
    newest = checkpoint.paths(run)[6]
    newest.write_bytes(newest.read_bytes()[:1000])
    again = sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "6", "--out", str(run), bindings=bindings)
    assert again.returncode == 0, again.stderr
    assert f"{newest} cannot be read" in again.stderr
    assert "going on from step 3 of 6" in again.stdout


def test_when_no_checkpoint_can_be_read_the_run_stops_and_keeps_them(finished, tmp_path, sslkit):
    run = tmp_path / "torn"
    assert sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "2", "--out", str(run), bindings=TINY).returncode == 0
    newest = checkpoint.paths(run)[2]
    newest.write_bytes(b"not a checkpoint")
    again = sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "2", "--out", str(run), bindings=TINY)
    assert again.returncode == 1
    assert "none of the 1 checkpoints" in again.stderr
    assert "Traceback" not in again.stderr
    assert newest.read_bytes() == b"not a checkpoint"


def test_a_wrong_configuration_ends_with_code_2_and_no_traceback(tmp_path, sslkit):
    run = tmp_path / "run"
    refused = sslkit("launch", "--gin", "gin/cribo.gin", "--out", str(run), bindings=("Method.momentun = 1",))
    assert refused.returncode == 2
    assert "did you mean 'momentum'?" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not run.exists()


def test_a_missing_data_folder_ends_with_code_2(tmp_path, sslkit):
    refused = sslkit("launch", "--gin", "gin/cribo.gin", "--data", str(tmp_path / "nowhere"))
    assert refused.returncode == 2
    assert f"there is no such folder (looked at {tmp_path / 'nowhere'})" in refused.stderr


def test_a_folder_without_images_ends_with_code_2(tmp_path, sslkit):
    (tmp_path / "empty").mkdir()
    refused = sslkit(
        "launch", "--gin", "gin/cribo.gin", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "run")
    )
    assert refused.returncode == 2
    assert str(tmp_path / "empty") in refused.stderr
    assert "Traceback" not in refused.stderr


def images(folder, n):
    folder.mkdir()
    for i in range(n):
        noise = torch.randint(0, 255, (40, 60, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / f"{i:03}.png")
    return folder


ON_IMAGES = ("train.batch_size = 8", "train.n_workers = 1")


def test_a_corrupt_image_is_reported_and_the_run_goes_on(tmp_path, sslkit):
    folder = images(tmp_path / "images", 24)
    (folder / "007.png").write_bytes(b"no image")
    out = str(tmp_path / "run")
    bindings = (*ON_IMAGES, "datasets.ImageFolder.max_unreadable = 0.2")
    done = sslkit(
        "launch", "--gin", "gin/cribo.gin", "--data", str(folder), "--steps", "3", "--out", out, bindings=bindings
    )
    assert done.returncode == 0, done.stderr
    assert "007.png" in done.stderr


def test_too_many_corrupt_images_stop_the_run_with_their_paths(tmp_path, sslkit):
    folder = images(tmp_path / "images", 24)
    for i in range(12):
        (folder / f"{i:03}.png").write_bytes(b"no image")
    out = str(tmp_path / "run")
    bindings = (*ON_IMAGES, "datasets.ImageFolder.max_unreadable = 0.1")
    done = sslkit(
        "launch", "--gin", "gin/cribo.gin", "--data", str(folder), "--steps", "3", "--out", out, bindings=bindings
    )
    assert done.returncode == 1
    assert "max_unreadable=0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path, sslkit):
    out = tmp_path / "run"
    bindings = (*TINY, "Optimizer.lr = 1e30")
    done = sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "5", "--out", str(out), bindings=bindings)
    assert done.returncode == 1
    assert "is not finite" in done.stderr
    (kept,) = out.glob("not_finite_step_*.pt")
    assert {"batches", "losses", "step", "method"} == torch.load(kept, weights_only=True).keys()


def test_an_exported_backbone_is_loaded_by_timm_and_gives_the_same_features(finished, tmp_path, sslkit):
    import timm

    from sslkit.backbones import pad_by
    from sslkit.commands.runs import method_of, settings_of

    run, _ = finished
    done = sslkit("export", str(run), "--to", "timm", "--out", str(tmp_path / "export"))
    assert done.returncode == 0, done.stderr
    assert "pad_by(model, 'reflect')" in done.stdout
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    pad_by(model, "reflect")
    _, method = method_of(run, settings_of(run))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours, _, _ = method.teacher.backbone.eval()(pixels)
        torch.testing.assert_close(model.forward_head(model.forward_features(pixels), pre_logits=True), ours)


def test_a_protocol_prints_one_json_record_last(finished, tmp_path, sslkit):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind / split).mkdir(parents=True)
        for i in range(3):
            pixels = torch.randint(0, 255, (48, 48, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "set" / "images" / split / f"{i}.png")
            labels = torch.randint(0, 12, (6, 6), dtype=torch.uint8).repeat_interleave(8, 0).repeat_interleave(8, 1)
            Image.fromarray(labels.numpy()).save(tmp_path / "set" / "labels" / split / f"{i}.png")
    run, _ = finished
    protocol = ("--protocol", "gin/protocols/camvid_dense_nn.gin", "--data", str(tmp_path / "set"))
    done = sslkit("evaluate", str(run), *protocol, bindings=("evaluate.DenseRetrieval.image_size = 64",))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert 0 <= record["miou"] <= 1
    assert record["protocol"] == "camvid_dense_nn"
    without = sslkit("evaluate", str(run), *protocol[:2])
    assert without.returncode == 2
    assert "datasets.Segmentation.root is not set; give --data DIR" in without.stderr


def launch_on_two_ranks(run, *bindings):
    """A run on two processes of this machine."""
    words = command("launch", "--gin", "gin/cribo.gin", "--out", str(run), bindings=(*TINY, *bindings))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(torchrun, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def test_two_processes_train_evaluate_draw_and_go_on(tmp_path, sslkit):
    run = tmp_path / "run"
    done = launch_on_two_ranks(run, "train.n_steps = 3", "train.log_every = 1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("after 3 steps: miou") == 1
    assert (run / "pictures" / "matches_objects.png").is_file()
    again = launch_on_two_ranks(run, "train.n_steps = 3", "train.log_every = 1")
    assert again.returncode == 0, again.stderr[-3000:]


def test_a_run_does_not_go_on_with_another_number_of_processes(tmp_path, sslkit):
    run = tmp_path / "run"
    bindings = ("train.n_steps = 2", "train.log_every = 1")
    assert launch_on_two_ranks(run, *bindings).returncode == 0
    refused = sslkit("launch", "--gin", "gin/cribo.gin", "--out", str(run), bindings=(*TINY, *bindings))
    assert refused.returncode == 2
    assert "holds a run of 2 ranks, which cannot go on with 1" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_term_that_would_never_start_is_refused(tmp_path, sslkit):
    bindings = (*TINY[:-1], "across/Term.start_step = 100")
    words = ("launch", "--gin", "gin/cribo.gin", "--steps", "5", "--out", str(tmp_path / "r"))
    refused = sslkit(*words, bindings=bindings)
    assert refused.returncode == 2
    assert "term 'across' would start with step 100" in refused.stderr


def test_the_order_of_bindings_on_the_command_line_does_not_matter(finished, sslkit):
    run, _ = finished
    again = sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "14", "--out", str(run), bindings=TINY[::-1])
    assert again.returncode == 0, again.stderr


def test_a_run_whose_configuration_is_gone_is_not_written_over(finished, tmp_path, sslkit):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    newest = checkpoint.paths(finished[0])[14]
    (run / "checkpoints" / newest.name).write_bytes(newest.read_bytes())
    refused = sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "14", "--out", str(run), bindings=TINY)
    assert refused.returncode == 2
    assert "its operative.gin is gone" in refused.stderr


def test_two_jobs_do_not_train_in_one_directory(tmp_path, sslkit):
    import fcntl

    run = tmp_path / "run"
    run.mkdir()
    with (run / ".lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        refused = sslkit("launch", "--gin", "gin/cribo.gin", "--steps", "2", "--out", str(run), bindings=TINY)
    assert refused.returncode == 2
    assert f"another process trains in {run}" in refused.stderr
