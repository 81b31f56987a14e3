import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sslkit import config, draws
from sslkit.errors import NotFinite
from sslkit.evaluate import LinearProbe, linear_probe
from sslkit.evaluate.linear_probe import SMALLEST_GRADIENT, LinearClassifier, is_right, regression
from sslkit.evaluate.pixels import to_pixels
from tests.labelled import SIDE, noise, of_one_colour_a_class, pixels_as_they_are


def answer(train, val, **changes):
    return LinearProbe(train=train, val=val, **dict(image_size=SIDE) | changes)(pixels_as_they_are, "cpu")


def rows_and_classes(n=60, dim=7, n_classes=4, *, seed=0):
    """Rows of unequal scales around the mean of their class, and their classes."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, n_classes, (n,), generator=draw)
    means = torch.randn(n_classes, dim, generator=draw)
    rows = (means[truth] + torch.randn(n, dim, generator=draw)) * torch.logspace(-2, 2, dim) + 3
    return rows, truth


def loss_of(weight, bias, rows, truth, penalty):
    """The penalised cross-entropy by its formula."""
    standard = (rows.double() - rows.double().mean(dim=0)) / rows.double().std(dim=0, correction=0)
    loss = penalty / 2 * weight.square().sum()
    for z, label in zip(standard, truth.tolist(), strict=True):
        scores = weight @ z + bias
        loss = loss - (scores[label] - scores.logsumexp(dim=0)) / len(rows)
    return loss


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
def test_no_direction_leads_down_from_what_is_found(penalty):
    rows, truth = rows_and_classes()
    found = regression(rows, truth, 4, penalty)
    weight, bias = (x.clone().requires_grad_() for x in (found.weight, found.bias))
    loss_of(weight, bias, rows, truth, penalty).backward()
    for gradient in (weight.grad, bias.grad):
        assert gradient.abs().max() <= SMALLEST_GRADIENT


def test_of_two_points_the_weight_solves_its_equation():
    found = regression(torch.tensor([[5.0], [9.0]]), torch.tensor([0, 1]), 2, 0.03)
    assert (found.mean.item(), found.deviation.item()) == (7, 2)
    w = found.weight[1, 0].item()
    assert found.weight[0, 0].item() == pytest.approx(-w)
    assert 0.03 * w == pytest.approx(1 / (1 + math.exp(2 * w)), abs=2e-6)  # where the derivative of the loss is 0
    assert found.bias.tolist() == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_weights_agree_with_scikit_learn(penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows, truth = rows_and_classes(200, 9, 5)
    found = regression(rows, truth, 5, penalty)
    standard = (rows.double() - found.mean) / found.deviation
    oracle = linear_model.LogisticRegression(C=1 / (len(rows) * penalty), tol=1e-10, max_iter=10_000)
    oracle.fit(standard.numpy(), truth.numpy())
    torch.testing.assert_close(found.weight, torch.from_numpy(oracle.coef_), atol=1e-6 / penalty, rtol=0)


def test_classes_that_a_plane_parts_are_all_right():
    rows = torch.tensor([[x, y] for x in range(6) for y in range(6)], dtype=torch.float32)
    truth = (rows[:, 0] + 2 * rows[:, 1] > 7.5).long()
    found = regression(rows, truth, 2, 1e-5)
    assert is_right(found(rows), truth).all()


def test_neither_the_order_of_rows_nor_that_of_classes_plays_a_part():
    rows, truth = rows_and_classes()
    expected = regression(rows, truth, 4, 1e-2)
    order, other = torch.randperm(60, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 3, 1])
    found = regression(rows[order], other[truth[order]], 4, 1e-2)
    for here, there in ((found.weight[other], expected.weight), (found.bias[other], expected.bias)):
        torch.testing.assert_close(here, there, atol=1e-4, rtol=0)  # a gradient of 1e-6 over a penalty of 1e-2


def test_the_scale_and_the_place_of_the_features_play_no_part():
    rows, truth = rows_and_classes()
    moved = rows * 2 ** torch.arange(7) - 100
    expected, found = regression(rows, truth, 4, 1e-2), regression(moved, truth, 4, 1e-2)
    torch.testing.assert_close(found(moved), expected(rows), atol=1e-3, rtol=0)


def test_a_feature_that_never_changes_has_no_weight():
    rows, truth = rows_and_classes()
    expected = regression(rows, truth, 4, 1e-2)
    found = regression(torch.cat([rows, torch.full((60, 1), 0.1)], dim=1), truth, 4, 1e-2)
    assert found.weight[:, 7].tolist() == [0, 0, 0, 0]
    assert found.deviation[7] == 1  # so that a change of it later is not blown up
    torch.testing.assert_close(found.weight[:, :7], expected.weight)


@pytest.mark.parametrize("n_rows", [1, 7, 60])
def test_chunks_of_rows_do_not_change_the_classifier(n_rows, monkeypatch):
    rows, truth = rows_and_classes()
    expected = regression(rows, truth, 4, 1e-2)
    monkeypatch.setattr(linear_probe, "ROWS", n_rows)
    torch.testing.assert_close(regression(rows, truth, 4, 1e-2).weight, expected.weight, atol=1e-4, rtol=0)


def test_a_feature_that_varies_by_rounding_alone_says_nothing():
    """Brought to deviation 1 it would turn the smallest change of an image into a large one."""
    rows, truth = rows_and_classes()
    still = torch.full((len(rows), 1), 0.1)
    still[::3] = torch.nextafter(still[::3], torch.ones(()))
    classifier = regression(torch.cat([rows, still], dim=1), truth, 4, 1e-2)
    moved = classifier(torch.cat([rows, still + 0.01], dim=1)) - classifier(torch.cat([rows, still], dim=1))
    assert moved.abs().max() < 1e-6


def test_a_classifier_that_is_stopped_before_its_minimum_says_so(monkeypatch, caplog):
    monkeypatch.setattr(linear_probe, "ROUNDS", 2)
    regression(*rows_and_classes(), 4, 1e-4)
    assert "penalty=0.0001 was stopped after 2 rounds" in caplog.text


def test_scores_are_linear_and_pass_their_gradient_to_the_vectors():
    weight, bias = torch.tensor([[1.0, -2], [0, 4]]).double(), torch.tensor([0.5, 0]).double()
    classifier = LinearClassifier(weight, bias, torch.tensor([1.0, 2]).double(), torch.tensor([2.0, 4]).double())
    image = torch.tensor([[5.0, 10.0], [1.0, 2.0]], requires_grad=True)
    assert classifier(image).tolist() == [[2 - 4 + 0.5, 8], [0.5, 0]]
    classifier(image)[:, 0].sum().backward()
    assert image.grad.tolist() == [[0.5, -0.5]] * 2
    assert classifier.weight.grad is None


def test_scores_that_are_equal_or_no_numbers_are_right_for_the_first_class_or_for_none():
    scores = torch.tensor([[1.0, 1, 0], [1, 1, 0], [torch.nan, 0, 0], [0, torch.inf, 0]])
    assert is_right(scores, torch.tensor([0, 1, 0, 1])).tolist() == [True, False, False, False]


def test_features_that_show_the_class_are_always_right():
    found = answer(of_one_colour_a_class(60, 6, seed=1), of_one_colour_a_class(40, 6, seed=2))
    assert found == dict(accuracy=1.0, train_accuracy=1.0, penalty=0.1, n_classes=6, n_train=60, n_val=40)


def test_labels_that_say_nothing_of_the_image_are_found_by_chance():
    found = answer(noise(300, 4, seed=1), noise(800, 4, seed=2), penalties=(1e-2,))
    assert found["accuracy"] == pytest.approx(1 / 4, abs=4 * math.sqrt(1 / 4 * 3 / 4 / 800))
    assert found["train_accuracy"] > 0.5  # learnt by heart


def test_the_penalty_is_that_of_the_most_right_images_held_out():
    train, penalties = noise(80, 3, seed=3), (1e-4, 1e-2, 1.0, 30.0)
    train.levels[:, 0, 0, 0] = np.array([60, 120, 180])[train.labels]  # one value of 48 tells the class
    rows = torch.from_numpy(train.levels).permute(0, 3, 1, 2).flatten(1) / 255
    truth = torch.tensor(train.labels)
    order = draws.uniform(5, 0, torch.arange(80), 1, "linear probe held out")[:, 0].argsort()
    held, kept = order[:24], order[24:]
    right = {
        penalty: int((regression(rows[kept], truth[kept], 3, penalty)(rows[held]).argmax(dim=1) == truth[held]).sum())
        for penalty in penalties
    }
    assert len(set(right.values())) > 1
    found = answer(train, train, penalties=penalties, held_out=0.3, seed=5)
    assert right[found["penalty"]] == max(right.values())
    assert found["penalty"] == max(penalty for penalty in penalties if right[penalty] == max(right.values()))


def test_one_penalty_needs_no_images_held_out(monkeypatch):
    asked = []
    monkeypatch.setattr(
        linear_probe, "regression", lambda rows, *given: asked.append(len(rows)) or regression(rows, *given)
    )
    answer(noise(50, 3, seed=4), noise(9, 3, seed=5), penalties=(1e-2,))
    assert asked == [50]
    answer(noise(50, 3, seed=4), noise(9, 3, seed=5), penalties=(1e-2, 1e-1))
    assert asked == [50, 40, 40, 50]


@pytest.mark.parametrize("changes", [dict(batch_size=1), dict(batch_size=7), dict(n_workers=1)])
def test_neither_batches_nor_workers_change_the_result(changes):
    train, val = noise(50, 5, seed=11), noise(30, 5, seed=12)
    assert answer(train, val, **changes) == answer(train, val)


def test_the_seed_draws_what_is_held_out_and_the_rest_follows():
    train, val = noise(60, 3, seed=6), noise(30, 3, seed=7)
    assert answer(train, val, seed=1) == answer(train, val, seed=1)
    chosen = {answer(train, val, penalties=(1e-4, 1e-2, 1.0), seed=seed)["penalty"] for seed in range(12)}
    assert len(chosen) > 1


def test_an_image_is_wrong_if_its_class_has_no_image_in_train_and_refused_if_it_never_can():
    train, val = of_one_colour_a_class(60, 6, seed=1), of_one_colour_a_class(40, 6, seed=2)
    lacking = train.at([i for i in range(60) if train.labels[i] != 5])
    with pytest.raises(ValueError, match=r"val\[5\] has the label 5, but no image of train has it"):
        answer(lacking, val)
    lacking.classes = tuple("abcdef")
    found = answer(lacking, val)
    assert found["accuracy"] == pytest.approx(1 - val.labels.count(5) / 40)
    assert found["n_classes"] == 5


def test_a_backbone_without_numbers_is_refused_by_the_first_image_of_which_it_has_none():
    pictures = noise(30, 3, seed=15)
    seventh = to_pixels(pictures[7].image, SIDE)

    def broken(pixels):
        image, patches, grid = pixels_as_they_are(pixels)
        return image.masked_fill((pixels == seventh).flatten(1).all(dim=1)[:, None], torch.nan), patches, grid

    with pytest.raises(NotFinite, match=r"NaN or infinite features of train\[7\], of which no accuracy follows"):
        LinearProbe(train=pictures, val=pictures, image_size=SIDE)(broken, "cpu")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(penalties=()), r"penalties=\(\), but it must have a number"),
        (dict(penalties=(1e-2, 0.0)), r"penalties=\(0\.01, 0\.0\), but it must be made of numbers above 0"),
        (dict(held_out=0.0), r"held_out=0\.0, but it must be from 0\.01 to 0\.9"),
        (dict(image_size=32, resize=24), "resize=24, but a square of image_size=32 is to be cut out"),
        (dict(n_train=31), "n_train=31, but train has 30 images"),
        (dict(n_train=1), "train has 1 image, but some are to be held out of it"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LinearProbe(**dict(train=noise(30, 3, seed=21), val=noise(5, 3, seed=22)) | changes)


def test_what_can_be_known_before_the_run_is_refused_before_it():
    def checked(val):
        LinearProbe(train=noise(30, 3, seed=21), val=val, image_size=SIDE).check(pixels_as_they_are)

    checked(noise(5, 3, seed=22))
    with pytest.raises(ValueError, match=r"val\[0\] has no label"):
        checked(noise(5, 3, seed=22).labelled(lambda y: None))


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


@pytest.mark.parametrize("file", ["folder_linear", "imagenet_linear"])
def test_the_protocols_of_folders_read_both_of_them(file, folders):
    few = [] if file == "folder_linear" else ["evaluate.LinearProbe.n_workers = 0"]
    settings = config.load([f"gin/protocols/{file}.gin"], [f"DATA = {str(folders)!r}", *few])
    protocol = settings.part("evaluation", "protocol")

    def mean_colour(pixels):
        image = F.adaptive_avg_pool2d(pixels, 1).flatten(1)
        return image, image[:, None], (1, 1)

    protocol.check(mean_colour)
    found = protocol(mean_colour, "cpu")
    assert (found["n_train"], found["n_val"], found["n_classes"]) == (12, 6, 3)
    assert found["accuracy"] == 1
