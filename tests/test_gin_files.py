"""Every method file trains, and every method on whole images becomes adaptive by one include."""

from __future__ import annotations

import pytest

from sslkit import config
from sslkit.launch.job import ready
from tests.conftest import ROOT
from tests.short_runs import BATCH, N_IMAGES, SHORT, trained

FILES = sorted(
    str(path.relative_to(ROOT)) for path in (*(ROOT / "gin").glob("*.gin"), *(ROOT / "gin/hybrids").glob("*.gin"))
)
METHODS = [file for file in FILES if not file.startswith("gin/hybrids/")]
ADAPTIVE = [file for file in METHODS if file not in ("gin/cribo.gin", "gin/adasim.gin", "gin/msn.gin")]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_method_takes_its_steps_and_every_term_has_a_gradient(file, tmp_path):
    soon = {
        "across/Term.start_fraction": "0.0",
        "local/Term.start_fraction": "0.0",
        "memories.PerImage.warmup_epochs": "0",
        "memories.PerImage.window": "1",
    }
    said = config.load([file], SHORT).operative
    shorter = [f"{name} = {value}" for name, value in soon.items() if name in said]
    unfrozen = ["Method.freeze_outputs_epochs = 0"] if file == "gin/swav.gin" else []
    records = trained([file], tmp_path, 6, *shorter, *unfrozen)
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
    "file", [file for file in METHODS if file not in ("gin/cribo.gin", "gin/ibot.gin", "gin/msn.gin")]
)
def test_a_method_on_whole_images_takes_a_vit_as_well(file):
    small = "{'img_size': 48, 'patch_size': 8, 'depth': 2, 'embed_dim': 48, 'num_heads': 3}"
    vit = ("backbones.Timm.name = 'vit_tiny_patch16_224'", f"backbones.Timm.options = {small}")
    settings = ready([file], [*vit, "backbones.Timm.padding = 'zeros'"])  # takes a whole step without data
    assert settings.part("train", "method").student.backbone.n_prefix == 1


@pytest.mark.parametrize("file", ["gin/co_byol.gin", "gin/co_dino.gin", "gin/co_mocov3.gin"])
@pytest.mark.parametrize("name", ["rf29_resnet18", "rf99_resnet50", "bagnet17"])
def test_patches_may_see_as_much_as_one_chooses(file, name):
    narrow = "{'channels': (8, 8, 8, 8), 'layers': (2, 2, 2, 2), 'mlp_layers': 2}"
    options = narrow if name == "rf29_resnet18" else "{'channels': (8, 8, 8, 8)}"
    bindings = [f"backbones.Timm.name = '{name}'", f"backbones.Timm.options = {options}"]
    settings = ready([file], bindings)  # takes a whole step without data
    assert settings.part("train", "method").student.backbone.model.window.size == int(
        name.split("_")[0].strip("abefgnrt")
    )
