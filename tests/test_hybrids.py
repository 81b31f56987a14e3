"""What is added to a method changes nothing while its weight is 0 or its gate is closed."""

from __future__ import annotations

import pytest
import torch

from sslkit import config
from sslkit.errors import ConfigError
from sslkit.launch.job import ready
from sslkit.loader import Views
from sslkit.monitors import gallery
from tests.short_runs import SHORT, trained

SOON = "across/Term.start_fraction = 0.0"
HISTORY = ("memories.PerImage.warmup_epochs = 0", "memories.PerImage.window = 1")
OBJECTS = ("gin/base/objects.gin", "gin/base/small_prototypes.gin", "gin/base/dino.gin")
SIZES = ("heads.Prototypes.outputs = {'image': 256}", "augmenters.Crop.size = 48")
PURE_VIT = (  # nothing in it measures a batch, and it passes over views one by one
    "backbones.Timm.name = 'vit_tiny_patch16_224'",
    "backbones.Timm.options = {'img_size': 64, 'patch_size': 8, 'depth': 2, 'embed_dim': 48, 'num_heads': 3}",
    "backbones.Timm.padding = 'zeros'",
    "heads.Prototypes.batch_norm = False",
)
OFF = {  # a hybrid with nothing added, and its base: files and bindings of both
    "CO-BYOL": (("gin/co_byol.gin",), ("LOCAL_WEIGHT = 0",), ("gin/byol.gin",), ()),
    "CO-BYOL, additive": (
        ("gin/co_byol.gin",),
        ("LOCAL_WEIGHT = 0", "image/Term.weight = 2.0"),
        ("gin/byol.gin",),
        (),
    ),
    "CO-MoCoV3": (("gin/co_mocov3.gin",), ("LOCAL_WEIGHT = 0",), ("gin/mocov3.gin",), ()),
    "CO-DINO": (("gin/co_dino.gin",), ("LOCAL_WEIGHT = 0",), OBJECTS, SIZES),
    "H2": (
        ("gin/hybrids/cribo_sampled_cycle.gin",),
        (SOON, "matchers.SampledCycle.n_candidates = 1"),
        ("gin/cribo.gin",),
        (SOON,),
    ),
    "H4": (
        ("gin/hybrids/cribo_patch_to_region.gin",),
        (SOON, "local/Term.weight = 0.0"),
        ("gin/cribo.gin",),
        (SOON,),
    ),
    "H5": (
        ("gin/hybrids/cribo_patch_to_image.gin",),
        (SOON, "local/Term.weight = 0.0"),
        ("experiments/hybrids/cribo_vit.gin",),
        (SOON,),
    ),
    "H6": (
        ("gin/hybrids/adasim_patch_to_image.gin",),
        ("LOCAL_WEIGHT = 0", *HISTORY),
        ("gin/adasim.gin",),
        HISTORY,
    ),
    "H7": (
        ("gin/hybrids/cribo_adaptive_patch_to_match.gin",),
        (SOON, "local/Term.weight = 0.0"),
        ("gin/hybrids/cribo_adaptive.gin",),
        (SOON,),
    ),
}


def losses(records):
    return [{name: value for name, value in record.items() if name.startswith("loss/")} for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("name", OFF)
def test_a_term_of_weight_0_leaves_its_base_as_it_is(name, tmp_path):
    files, off, base_files, bindings = OFF[name]
    there = losses(trained(base_files, tmp_path / "base", 6, *bindings))
    here = losses(trained(files, tmp_path / "hybrid", 6, *off))
    for step, base in zip(here, there, strict=True):
        assert {key: step[key] for key in base} == base
        assert all(step[key] == 0 for key in step.keys() - base.keys())


@pytest.mark.slow
def test_a_closed_gate_leaves_cribo_without_matches(tmp_path):
    there = losses(trained(["gin/cribo.gin"], tmp_path / "base", 4, SOON, "across/Term.weight = 0.0"))
    closed = "matchers.Adaptive.temperature = 1e-12"
    here = losses(trained(["gin/hybrids/cribo_adaptive.gin"], tmp_path / "hybrid", 4, SOON, closed))
    assert here == there
    assert all(step["loss/across"] == 0 for step in here)


@pytest.mark.slow
def test_a_partner_of_weight_0_leaves_cribo_as_it_is(tmp_path):
    there = losses(trained(["gin/cribo.gin"], tmp_path / "base", 6, SOON, *PURE_VIT))
    off = (SOON, *PURE_VIT, *HISTORY, "partner/Term.weight = 0.0")
    here = losses(trained(["gin/hybrids/cribo_partner.gin"], tmp_path / "hybrid", 6, *off))
    for step, base in zip(here, there, strict=True):  # a third view in the same product rounds otherwise
        assert {key: step[key] for key in base} == pytest.approx(base, rel=1e-4)
        assert step["loss/partner"] == 0


def test_a_clusterer_over_an_image_and_its_partner_is_refused():
    with pytest.raises(ConfigError, match="1 of 2 global views shows the image and the others its partner") as error:
        ready(["gin/cribo.gin", "gin/base/adaptive_partners.gin"], ["memories.PerImage.window = 1"])
    assert "positions in two images cannot be compared" in str(error.value)


def test_whole_images_are_one_region_each():
    method, data, augmenter = config.load(["gin/hybrids/cribo_whole_images.gin"], SHORT).part(
        "train", "method", "data", "augmenter"
    )
    step = method.eval().look(Views(data, augmenter, 0, augmenter.n_global).first(5))
    regions = step.regions
    assert len(regions) == 5 and regions.cluster.tolist() == [0] * 5
    for features, rows in ((step.student, regions.student), (step.teacher, regions.teacher)):
        means = torch.cat([features.patches[view].mean(dim=1) for view in regions.views])
        torch.testing.assert_close(rows.rows, means)


@pytest.mark.parametrize("file", ["gin/hybrids/cribo_partner.gin", "gin/hybrids/cribo_whole_images.gin"])
def test_a_run_with_a_view_of_the_partner_has_its_pictures(file, tmp_path):
    method, data, augmenter = config.load([file], SHORT).part("train", "method", "data", "augmenter")
    method.make_room(len(data))
    assert {path.name for path in gallery.draw(tmp_path, method, data, augmenter)} >= {"clusters.png", "partners.png"}
