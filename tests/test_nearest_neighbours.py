import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from sslkit import config
from sslkit.datasets import ImageFolder, Scenes
from sslkit.errors import NotFinite
from sslkit.evaluate import NearestNeighbours, nearest_neighbours
from sslkit.evaluate.classification import numbers_of
from sslkit.evaluate.nearest_neighbours import places
from sslkit.evaluate.pixels import to_pixels
from tests.labelled import SIDE, Pictures, noise, of_one_colour_a_class, pixels_as_they_are


def rows_of(pictures):
    rows = torch.stack([to_pixels(pictures[i].image, SIDE).flatten() for i in range(len(pictures))])
    return F.normalize(rows.double(), dim=-1)


def answer(train, val, **changes):
    return NearestNeighbours(train=train, val=val, **dict(image_size=SIDE) | changes)(pixels_as_they_are, "cpu")


def places_by_loop(similarity, labels, truth, n_neighbours, n_classes, temperature):
    found = []
    for k in n_neighbours:
        found.append([])
        for similar, votes_for, true in zip(similarity.tolist(), labels.tolist(), truth.tolist(), strict=True):
            votes = {}
            for s, label in list(zip(similar, votes_for, strict=True))[:k]:
                votes[label] = votes.get(label, 0) + math.exp(s / temperature)
            order = sorted(votes, key=lambda c: (-votes[c], c))
            found[-1].append(order.index(true) if true in order else n_classes)
    return found


@pytest.mark.parametrize("n_neighbours", [(1,), (3,), (9, 2, 5), (4, 4)])
@pytest.mark.parametrize("temperature", [0.02, 0.07, 3.0])
def test_places_equal_a_loop_over_queries_neighbours_and_classes(n_neighbours, temperature):
    draw = torch.Generator().manual_seed(0)
    similarity = torch.rand(40, 9, generator=draw).sort(dim=1, descending=True).values * 2 - 1
    labels, truth = torch.randint(0, 6, (40, 9), generator=draw), torch.randint(0, 7, (40,), generator=draw)
    given = (labels, truth, n_neighbours, 6, temperature)
    assert places(similarity, *given).tolist() == places_by_loop(similarity, *given)


def test_of_classes_with_as_many_votes_the_lowest_comes_first():
    similarity, labels = torch.full((4, 4), 0.5), torch.tensor([[2, 0, 1, 1], [0, 2, 1, 1], [2, 1, 1, 0], [2, 1, 1, 0]])
    truth = torch.tensor([0, 2, 1, 2])
    assert places(similarity, labels, truth, (2, 4), 4, 0.07).tolist() == [[0, 1, 0, 1], [1, 2, 0, 2]]


@pytest.mark.parametrize("n_classes", [2, 7])
def test_accuracies_agree_with_scikit_learn(n_classes):
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, val = noise(300, n_classes, seed=1), noise(150, n_classes, seed=2)
    found = answer(train, val, n_neighbours=(20, 5, 40))
    for k in (20, 5, 40):
        oracle = neighbors.KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.07)
        ).fit(rows_of(train).numpy(), train.labels)
        votes = oracle.predict_proba(rows_of(val).numpy())
        assert found[f"accuracy@{k}"] == np.mean(votes.argmax(axis=1) == val.labels)
        own = votes[np.arange(150), val.labels]
        in_five = ((votes > own[:, None]).sum(axis=1) < 5) & (own > 0)
        assert k != 20 or n_classes < 5 or found["top5"] == np.mean(in_five)
    assert found["accuracy"] == found["accuracy@20"]
    assert found["nearest_agreement"] == np.mean(
        np.array(train.labels)[(rows_of(val) @ rows_of(train).mT).argmax(dim=1)] == val.labels
    )


def test_features_that_show_the_class_are_always_right():
    found = answer(of_one_colour_a_class(60, 6, seed=1), of_one_colour_a_class(40, 6, seed=2), n_neighbours=(3, 10))
    rates = ("accuracy", "accuracy@3", "accuracy@10", "top5", "nearest_agreement")
    assert found == dict.fromkeys(rates, 1.0) | dict(n_classes=6, n_train=60, n_val=40)


def test_labels_that_say_nothing_of_the_image_are_found_by_chance():
    found = answer(noise(800, 4, seed=1), noise(800, 4, seed=2), n_neighbours=(1, 20, 100))
    for name in ("accuracy@1", "accuracy@20", "accuracy@100", "nearest_agreement"):
        assert found[name] == pytest.approx(1 / 4, abs=4 * math.sqrt(1 / 4 * 3 / 4 / 800))


def test_one_neighbour_is_right_as_often_as_the_nearest_agrees():
    found = answer(noise(90, 8, seed=3), noise(70, 8, seed=4), n_neighbours=(1, 30))
    assert found["accuracy@1"] == found["accuracy"] == found["nearest_agreement"]
    assert found["top5"] == found["accuracy"]  # classes without a vote are not among the five


def test_the_coldest_vote_is_the_nearests_and_the_hottest_counts_heads():
    train, val = noise(90, 2, seed=5), noise(70, 2, seed=6)
    cold = answer(train, val, n_neighbours=(9,), temperature=1e-6)
    assert cold["accuracy"] == cold["nearest_agreement"]
    hot = answer(train, val, n_neighbours=(9,), temperature=1e6)
    neighbours = (rows_of(val) @ rows_of(train).mT).topk(9).indices
    heads = np.array(train.labels)[neighbours].sum(axis=1)  # of class 1; nine do not tie
    assert hot["accuracy"] == np.mean((heads >= 5) == val.labels)


def test_neither_the_order_of_images_nor_the_names_of_classes_change_the_result():
    train, val = noise(120, 7, seed=7), noise(80, 7, seed=8)
    expected = answer(train, val)
    rng = np.random.default_rng(0)
    assert answer(train.at(rng.permutation(120)), val.at(rng.permutation(80))) == expected
    other = rng.permutation(7)
    assert answer(train.labelled(lambda y: int(other[y])), val.labelled(lambda y: int(other[y]))) == expected
    assert answer(train.labelled(lambda y: 100 - 9 * y), val.labelled(lambda y: 100 - 9 * y)) == expected


@pytest.mark.parametrize("n_queries", [1, 7, 80])
def test_chunks_of_queries_do_not_change_the_result(n_queries, monkeypatch):
    train, val = noise(120, 7, seed=9), noise(80, 7, seed=10)
    expected = answer(train, val)
    monkeypatch.setattr(nearest_neighbours, "QUERIES", n_queries)
    assert answer(train, val) == expected


@pytest.mark.parametrize("changes", [dict(batch_size=1), dict(batch_size=7), dict(n_workers=1)])
def test_neither_batches_nor_workers_change_the_result(changes):
    train, val = noise(50, 5, seed=11), noise(30, 5, seed=12)
    assert answer(train, val, **changes) == answer(train, val)


def test_where_all_images_look_alike_one_class_is_predicted_for_all():
    def blind(pixels):
        return torch.ones(len(pixels), 1), torch.ones(len(pixels), 1, 1), (1, 1)

    pictures = noise(60, 3, seed=15)
    pictures.labels = [i % 3 for i in range(60)]
    protocol = NearestNeighbours(train=pictures, val=pictures, image_size=SIDE)
    assert protocol(blind, "cpu")["accuracy"] == protocol(blind, "cpu")["accuracy@20"] == 1 / 3


def test_five_classes_are_needed_for_the_best_five():
    assert "top5" not in answer(noise(30, 4, seed=13), noise(9, 4, seed=14))
    assert "top5" in answer(noise(40, 5, seed=13), noise(9, 5, seed=14))


def test_a_backbone_without_numbers_is_refused():
    def broken(pixels):
        image, patches, grid = pixels_as_they_are(pixels)
        return image * torch.nan, patches, grid

    pictures = noise(30, 3, seed=15)
    with pytest.raises(NotFinite, match=r"NaN or infinite features of train\[0\]"):
        NearestNeighbours(train=pictures, val=pictures, image_size=SIDE)(broken, "cpu")


def test_numbers_of_labels_count_the_classes_and_lead_out_of_them_where_there_is_none():
    assert numbers_of(torch.tensor([7, 3, 5, 0, 9]), torch.tensor([3, 7])).tolist() == [1, 0, 2, 2, 2]


def test_limits_draw_by_seed_and_a_smaller_draw_is_part_of_a_larger_one():
    def used(**changes):
        train = noise(40, 2, seed=16)
        answer(train, noise(3, 1, seed=17), n_neighbours=(2,), **changes)
        return train.read

    few, more = used(n_train=6), used(n_train=15)
    assert len(few) == 6
    assert set(few) < set(more)
    assert more == sorted(more) != list(range(15))
    assert used(n_train=15, seed=1) != more
    assert used() == list(range(40))


def test_an_image_is_wrong_if_its_class_has_no_image_in_the_memory_and_refused_if_it_never_can():
    train, val = of_one_colour_a_class(60, 6, seed=1), of_one_colour_a_class(40, 6, seed=2)
    lacking = train.at([i for i in range(60) if train.labels[i] != 5])
    with pytest.raises(ValueError, match=r"val\[5\] has the label 5, but no image of train has it"):
        answer(lacking, val, n_neighbours=(3,))
    expected = 1 - val.labels.count(5) / 40
    drawn = answer(lacking, val, n_neighbours=(3,), n_train=len(lacking) - 1)
    lacking.classes = tuple("abcdef")
    named = answer(lacking, val, n_neighbours=(3,))
    for found in (drawn, named):
        assert found["accuracy"] == found["nearest_agreement"] == found["top5"] == pytest.approx(expected)
        assert found["n_classes"] == 5


@pytest.mark.parametrize("size", [(90, 60), (61, 83), (50, 50), (33, 200), (47, 46)])
@pytest.mark.parametrize("resize, side", [(40, 32), (45, 32), (32, 32), (70, 33)])
def test_resizing_and_cutting_agree_with_torchvision(size, resize, side):
    levels = np.random.default_rng(20).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(levels)
    oracle = v2.Compose(
        [
            v2.Resize(resize, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(side),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    torch.testing.assert_close(to_pixels(image, side, resize=resize), oracle(image))


def test_the_backbone_sees_squares_of_the_middle_or_of_the_whole():
    half = np.zeros((30, 60, 3), np.uint8)
    half[:, 15:45] = 255
    for resize, share in ((30, 1.0), (None, 0.5)):
        levels = to_pixels(Image.fromarray(half), 30, resize=resize)[0]
        assert (levels > 1).float().mean().item() == pytest.approx(share, abs=0.04)  # bicubic edges


class Strided(nn.Module):
    """A backbone that needs squares of 16 pixels."""

    def forward(self, pixels):
        patches = pixels.unfold(2, 16, 16).unfold(3, 16, 16).mean(dim=(4, 5))
        assert patches.shape[2] * 16 == pixels.shape[2], "16 pixels must divide the image"
        return patches.mean(dim=(2, 3)), patches.flatten(2).mT, tuple(patches.shape[2:])


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(n_neighbours=()), r"n_neighbours=\(\), but it must have a number"),
        (dict(n_neighbours=(5, 0)), r"n_neighbours=\(5, 0\), but it must be made of numbers at least 1"),
        (dict(n_neighbours=(5, 31)), r"n_neighbours=\(5, 31\), but there are 30 training images"),
        (dict(n_neighbours=(5,), n_train=4), r"n_neighbours=\(5,\), but there are 4 training images"),
        (dict(temperature=0.0), r"temperature=0\.0"),
        (dict(image_size=0), "image_size=0"),
        (dict(image_size=32, resize=24), "resize=24, but a square of image_size=32 is to be cut out"),
        (dict(n_train=31), "n_train=31, but train has 30 images"),
        (dict(val=Pictures(np.zeros((0, SIDE, SIDE, 3)), [])), "val has 0 images"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        NearestNeighbours(**dict(train=noise(30, 3, seed=21), val=noise(5, 3, seed=22)) | changes)


def checked(backbone=pixels_as_they_are, **changes):
    settings = dict(train=noise(30, 3, seed=21), val=noise(5, 3, seed=22), image_size=SIDE)
    NearestNeighbours(**settings | changes).check(backbone)


def test_what_can_be_known_before_the_run_is_refused_before_it():
    checked()
    checked(Strided(), image_size=32)
    with pytest.raises(ValueError, match=r"image_size=24 does not suit the backbone: 16 pixels must divide"):
        checked(Strided(), image_size=24)
    with pytest.raises(ValueError, match=r"val\[0\] has no label"):
        checked(val=noise(5, 3, seed=22).labelled(lambda y: None))
    with pytest.raises(ValueError, match=r"train\[\d+\] has no label"):
        checked(train=Scenes(n_images=40, size=32, objects=(2, 2)), n_train=20)


def test_a_label_must_be_the_same_class_in_both_sets():
    six, twelve = (Scenes(n_images=30, size=32, objects=(1, 1), n_classes=n) for n in (6, 12))
    checked(train=twelve, val=six, image_size=32)
    with pytest.raises(ValueError, match=r"the label 6 is 'dotted disc' in val, but train has 6 classes"):
        checked(train=six, val=twelve, image_size=32)


@pytest.fixture
def folders(tmp_path):
    """Folders of two splits with a sub-folder for each class, whose images are all of its colour."""
    for split, n in (("train", 4), ("val", 2)):
        for colour, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                levels = np.full((20, 30, 3), 20, np.uint8)
                levels[..., colour] = 200 + i
                Image.fromarray(levels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_a_class_that_one_folder_lacks_is_noticed(folders):
    for image in (folders / "val" / "bee").iterdir():
        image.unlink()
    with pytest.raises(ValueError, match=r"the label 1 is 'cat' in val, but 'bee' in train"):
        checked(train=ImageFolder(folders, split="train"), val=ImageFolder(folders, split="val"), n_neighbours=(2,))


def test_the_protocol_of_imagenet_reads_both_folders(folders):
    small = (
        "evaluate.NearestNeighbours.n_neighbours = (3, 12)",
        "evaluate.NearestNeighbours.n_workers = 0",
    )
    settings = config.load(["gin/protocols/imagenet_knn.gin"], [f"DATA = {str(folders)!r}", *small])
    protocol = settings.part("evaluation", "protocol")
    protocol.check(pixels_as_they_are)
    found = protocol(pixels_as_they_are, "cpu")
    assert (found["n_train"], found["n_val"], found["n_classes"]) == (12, 6, 3)
    assert found["accuracy"] == found["accuracy@3"] == 1
