import pickle

import numpy as np
import pytest
import torch

from sslkit.datasets import Scenes
from sslkit.datasets.scenes import CLASSES, SHAPES, TEXTURES


def pixels(sample):
    return np.asarray(sample.image)


def test_a_scene_depends_on_seed_split_and_index_alone():
    scenes, again = Scenes(n_images=50), Scenes(n_images=9)
    scenes[0]  # what was drawn before does not matter
    assert (pixels(scenes[8]) == pixels(again[8])).all()
    assert (scenes[8].instances == again[8].instances).all()
    for other in (scenes[7], Scenes(seed=1)[8], Scenes(split="val")[8]):
        assert (pixels(scenes[8]) != pixels(other)).any()


def test_the_set_survives_pickling():
    scenes = Scenes(n_images=5, objects=(1, 1), n_classes=3)
    again = pickle.loads(pickle.dumps(scenes))
    assert repr(again) == repr(scenes)
    assert (pixels(again[4]) == pixels(scenes[4])).all()


@pytest.mark.parametrize("size", [32, 64, 96, 131])
def test_masks_have_the_size_of_the_image_and_agree_with_each_other(size):
    for i in range(10):
        sample = Scenes(size=size, n_classes=5)[i]
        assert sample.image.mode == "RGB" and sample.image.size == (size, size) and sample.index == i
        assert sample.mask.shape == sample.instances.shape == (size, size)
        assert sample.mask.dtype == sample.instances.dtype == torch.int64
        assert ((sample.mask > 0) == (sample.instances > 0)).all()
        assert set(sample.mask.unique().tolist()) <= set(range(6))
        for number in sample.instances.unique()[1:]:
            assert len(sample.mask[sample.instances == number].unique()) == 1


@pytest.mark.parametrize("objects", [(1, 1), (2, 2), (1, 3)])
def test_as_many_objects_as_asked_for_where_there_is_room(objects):
    counts = [int(Scenes(objects=objects, scale=(0.2, 0.25))[i].instances.max()) for i in range(40)]
    assert set(counts) == set(range(objects[0], objects[1] + 1))


def test_a_scene_without_room_holds_fewer_objects_but_never_none():
    counts = [int(Scenes(objects=(5, 5), scale=(0.9, 0.9))[i].instances.max()) for i in range(10)]
    assert set(counts) == {1}


def smallest_object(occlusion):
    """Visible pixels of the smallest object, as a share of a full striped disc."""
    scenes = Scenes(objects=(4, 4), occlusion=occlusion, n_classes=1, scale=(0.3, 0.3))
    disc = np.pi * (0.88 * 0.15 * 96) ** 2
    return min(int(area) for i in range(20) for area in scenes[i].instances.unique(return_counts=True)[1]) / disc


def test_objects_stay_whole_when_occlusion_is_zero():
    assert smallest_object(occlusion=0.0) > 0.55  # aspect and shear make a disc smaller, down to that
    assert smallest_object(occlusion=1.0) < 0.3


def test_objects_reach_their_diameter_and_no_further():
    sizes = []
    for i in range(60):
        y, x = (Scenes(objects=(1, 1), scale=(0.5, 0.5))[i].mask > 0).nonzero().T
        sizes.append(max(np.ptp(y.numpy()), np.ptp(x.numpy())) + 1)
    assert 40 < max(sizes) <= 49  # 48 px and the pixel that the edge runs through


def test_every_class_is_equally_likely():
    scenes = Scenes(n_images=2400, objects=(1, 1), size=32)
    counts = torch.bincount(torch.tensor([scenes[i].label for i in range(2400)]), minlength=12)
    chi_squared = ((counts - 200) ** 2 / 200).sum()
    assert chi_squared < 24.7  # exceeded once in 100 draws (11 degrees of freedom), and this one is fixed


SHIPPED = {  # gin/base/scenes.gin
    "n_classes": 6,
    "rotation": 20.0,
    "scale": (0.35, 0.45),
    "clutter": (0, 0),
    "color_variation": 0.3,
    "background_texture": 0.1,
}


def accuracy_of_mean_color(**settings):
    """Share of objects whose nearest neighbour by mean colour, among others' objects, is of their class."""

    def colors(split, n):
        samples = [Scenes(objects=(1, 1), size=48, split=split, **settings)[i] for i in range(n)]
        means = [torch.from_numpy(pixels(s)[s.mask.numpy() > 0].mean(0)) for s in samples]
        return torch.stack(means), torch.tensor([s.label for s in samples])

    (bank, labels), (queries, truth) = colors("train", 1200), colors("val", 600)
    return (labels[torch.cdist(queries, bank).argmin(1)] == truth).double().mean()


def test_mean_color_does_not_tell_the_class():
    chance = 1 / 12
    assert accuracy_of_mean_color() < chance + 3 * (chance * (1 - chance) / 600) ** 0.5  # three standard deviations


def test_mean_color_hardly_tells_the_class_in_the_shipped_scenes():
    # with little variation of colour the share of bright texture shows through: 0.26 where chance is 0.17
    assert accuracy_of_mean_color(**SHIPPED) < 0.3


def test_texture_survives_half_the_resolution():
    for i in range(24):
        sample = Scenes(objects=(1, 1), texture_contrast=0.6)[i]
        small = np.asarray(sample.image.convert("L").resize((48, 48)), float)
        inside = sample.mask.numpy()[1::2, 1::2] > 0
        assert small[inside].std() > 20, f"scene {i}"  # of 255; two flat halves 0.6 apart have 76


def test_without_color_variation_every_object_has_the_same_greys():
    sample = Scenes(color_variation=0.0, background_texture=0.0)[3]
    spread = pixels(sample).astype(int).max(-1) - pixels(sample).min(-1)
    assert spread.max() <= 1


def test_no_two_classes_are_alike_and_the_first_six_share_nothing():
    assert len(set(CLASSES)) == 12
    assert {t for t, _ in CLASSES[:6]} == set(TEXTURES) and {s for _, s in CLASSES[:6]} == set(SHAPES)
    assert Scenes(n_classes=4).classes == ("striped disc", "checkered square", "dotted triangle", "wavy star")


def test_only_single_object_scenes_have_a_label():
    assert Scenes(objects=(1, 2))[0].label is None
    single = Scenes(objects=[1, 1])[0]  # a list, as from a gin file
    assert single.label == single.mask.max() - 1


@pytest.mark.parametrize(
    "argument, value",
    [
        ("n_images", 0),
        ("n_images", 10.5),
        ("size", 31),
        ("n_classes", 13),
        ("objects", (0, 2)),
        ("objects", (3, 2)),
        ("objects", (1.0, 2.5)),
        ("objects", 3),
        ("scale", (0.3, 1.2)),
        ("rotation", 270),
        ("occlusion", -0.1),
        ("clutter", (-1, 2)),
        ("color_variation", 1.5),
        ("texture_contrast", float("nan")),
        ("background_texture", 2),
        ("seed", -1),
        ("split", "test"),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(argument, value):
    with pytest.raises(ValueError) as caught:
        Scenes(**{argument: value})
    assert argument in str(caught.value) and str(value) in str(caught.value)


@pytest.mark.parametrize("index", [-1, 5])
def test_an_item_that_does_not_exist_is_an_error(index):
    with pytest.raises(IndexError, match=f"item {index}"):
        Scenes(n_images=5)[index]
