"""Every method file trains, and every method on whole images becomes adaptive by one include."""

from __future__ import annotations

import json

import pytest

from sslkit import checkpoint, config
from sslkit.launch.job import ready
from sslkit.train import train
from tests.conftest import ROOT

FILES = sorted(f"gin/{path.name}" for path in (ROOT / "gin").glob("*.gin"))
ADAPTIVE = [file for file in FILES if file not in ("gin/cribo.gin", "gin/adasim.gin", "gin/msn.gin")]
N_IMAGES, BATCH = 16, 4
SHORT = (
    f"scenes/datasets.Scenes.n_images = {N_IMAGES}",
    f"train.batch_size = {BATCH}",
    "train.n_workers = 0",
    "train.evaluations = None",
    "train.pictures = False",
    "train.log_every = 1",
)


def trained(files, run, steps, *bindings):
    """The records of a run of so many steps."""
    settings = config.load(files, [*SHORT, f"train.n_steps = {steps}", *bindings])
    train(run_dir=run, **settings.build("train"))
    assert checkpoint.steps(run) == [steps]
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_method_takes_its_steps_and_every_term_has_a_gradient(file, tmp_path):
    shorter = {
        "gin/cribo.gin": ["across/Term.start_fraction = 0.0"],
        "gin/adasim.gin": ["memories.PerImage.warmup_epochs = 0", "memories.PerImage.window = 1"],
    }
    unfrozen = ["Method.freeze_outputs_epochs = 0"] if file == "gin/swav.gin" else []
    records = trained([file], tmp_path, 6, *shorter.get(file, []), *unfrozen)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(record["gradient_norm"] > 0 for record in records[1:])  # NNCLR's first step has nobody to compare with
    assert all(value is not None for record in records for value in record.values())


@pytest.mark.slow
@pytest.mark.parametrize("file", ADAPTIVE)
def test_one_include_makes_a_method_adaptive(file, tmp_path):
    mine = tmp_path / "mine.gin"
    mine.write_text(f"include '{file}'\ninclude 'gin/base/adaptive_partners.gin'\nmemories.PerImage.window = 1\n")
    unfrozen = ["Method.freeze_outputs_epochs = 0"] if file == "gin/swav.gin" else []
    always = "Partners.matcher = @matchers.Nearest()"  # few steps would not make many images lead their neighbours
    records = trained([str(mine)], tmp_path, 10, always, *unfrozen)
    shares = [record.get("partners/bootstrapped") for record in records]
    assert shares == [None] * (2 * N_IMAGES // BATCH) + [1.0, 1.0]  # epoch 1 is the first that counts


@pytest.mark.parametrize(
    "file", [file for file in FILES if file not in ("gin/cribo.gin", "gin/ibot.gin", "gin/msn.gin")]
)
def test_a_method_on_whole_images_takes_a_vit_as_well(file):
    small = "{'img_size': 48, 'patch_size': 8, 'depth': 2, 'embed_dim': 48, 'num_heads': 3}"
    vit = ("backbones.Timm.name = 'vit_tiny_patch16_224'", f"backbones.Timm.options = {small}")
    settings = ready([file], [*vit, "backbones.Timm.padding = 'zeros'"])  # takes a whole step without data
    assert settings.part("train", "method").student.backbone.n_prefix == 1
