"""What a checkpoint holds of a run is all that the run needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from sslkit import checkpoint, config, distributed
from sslkit.errors import CheckpointError
from sslkit.precision import autocast
from sslkit.resume import Resumable
from sslkit.train import train
from tests.conftest import ROOT
from tests.ranks import on_ranks
from tests.short_runs import SHORT
from tests.test_launch import same

# the run of tests/data/checkpoint_of_format_1.pt
FIRST_FORMAT = (
    "train.batch_size = 4",
    "train.n_workers = 0",
    "train.evaluations = None",
    "train.pictures = False",
    "backbones.Timm.options = {'output_stride': 8, 'layers': (1, 1, 0, 0), 'channels': (4, 6, 6, 6)}",
    "scenes/datasets.Scenes.n_images = 16",
    "heads.Projector.hidden = 8",
    "heads.Projector.outputs = {'image': 6}",
    "heads.Projector.predictor_hidden = 8",
    "train.n_steps = 6",
)
IDENTITY = {"n_images": 16, "step_size": 4, "n_steps": 6}


def resumable(identity=IDENTITY, hidden=8):
    narrower = [binding.replace("hidden = 8", f"hidden = {hidden}") for binding in FIRST_FORMAT]
    arguments = config.load("gin/byol.gin", narrower).build("train")
    method, optimizer = arguments["method"], arguments["optimizer"]
    method.make_room(16)
    optimizer.build(method)
    return Resumable(method, optimizer, autocast(torch.device("cpu"), "float32")[1], identity)


@pytest.fixture
def old_run(tmp_path):
    checkpoint.folder(tmp_path).mkdir()
    shutil.copy(ROOT / "tests/data/checkpoint_of_format_1.pt", checkpoint.folder(tmp_path) / "step_00000006.pt")
    return tmp_path


def test_a_run_goes_on_from_a_checkpoint_of_the_first_format(old_run):
    run = resumable()
    assert run.restore(old_run) == 6
    kept = torch.load(checkpoint.paths(old_run)[6], weights_only=True)
    assert same(dict(run.method.state_dict()), dict(kept["method"]))
    assert same(run.optimizer.inner.state_dict(), kept["optimizer"])


def test_what_is_saved_is_what_is_restored(old_run):
    before, after = resumable(), resumable()
    before.restore(old_run)
    checkpoint.save(old_run, 7, before.state())
    assert after.restore(old_run) == 7
    assert same(dict(before.state()), dict(after.state()))


def test_a_checkpoint_of_another_length_or_method_is_refused(old_run):
    with pytest.raises(CheckpointError, match="cannot go on as one of"):
        resumable(IDENTITY | {"n_steps": 7}).restore(old_run)
    with pytest.raises(CheckpointError, match="is of another method"):
        resumable(hidden=9).restore(old_run)


OWN = ("Method.batch_norm_scope = 'rank'", "train.save_every = 2", "train.keep = 9", "train.n_steps = 6")


def own_statistics():
    """A run on two ranks whose BatchNorm measures the images of each alone, once in one go and once again from step 2.

    The running statistics of this rank at the end of both.
    """
    folder, found = Path(os.environ["SSLKIT_TEST_FOLDER"]), []
    for start in ("whole", "again"):
        run = folder / start
        if start == "again" and distributed.rank() == 0:
            shutil.copytree(folder / "whole", run)
            for step in (4, 6):
                checkpoint.paths(run)[step].unlink()
        elif distributed.rank() == 0:
            run.mkdir()
        distributed.wait()
        torch.manual_seed(0)
        arguments = config.load("gin/byol.gin", [*SHORT, *OWN]).build("train")
        train(run_dir=run, **arguments)
        found.append({n: x for n, x in arguments["method"].state_dict().items() if "running" in n})
    return found


@pytest.mark.slow
def test_every_rank_has_its_own_batch_norm_statistics_back(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLKIT_TEST_FOLDER", str(tmp_path))
    meet = tmp_path / "ranks"
    meet.mkdir()
    ranks = on_ranks(own_statistics, meet)
    for whole, again in ranks:
        assert same(whole, again)
    assert not same(ranks[0][0], ranks[1][0])
