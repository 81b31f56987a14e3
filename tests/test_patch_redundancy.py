import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sslkit import config
from sslkit.backbones.weights import IMAGENET
from sslkit.datasets import Scenes
from sslkit.errors import NotFinite
from sslkit.evaluate import PatchRedundancy
from sslkit.evaluate.ridge import PENALTIES, Sums, fitted, solved, squared_error
from sslkit.types import Sample

SIDE = 2
COSINES = [f"{prefix}cosine_{of}" for prefix in ("", "centred_") for of in ("within", "between", "to_mean")]


class Numbered:
    """Images whose two first channels spell a number, by which `looked_up` finds their features."""

    def __init__(self, numbers, labels):
        self.numbers, self.labels = list(numbers), list(labels)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, i):
        high, low = divmod(self.numbers[i], 256)
        return Sample(Image.new("RGB", (SIDE, SIDE), (high, low, 0)), i, label=self.labels[i])

    def at(self, order):
        return Numbered([self.numbers[i] for i in order], [self.labels[i] for i in order])


def looked_up(patches, images=None, grid=None):
    """A backbone that answers with row `number` of tables; the image vector is the mean patch unless given."""
    mean, std = (torch.tensor(IMAGENET[name])[:, None, None] for name in ("mean", "std"))

    def backbone(pixels):
        high, low, _ = ((pixels * std + mean)[..., 0, 0] * 255).round().long().unbind(dim=1)
        here = patches[256 * high + low]
        image = here.mean(dim=1) if images is None else images[256 * high + low]
        return image, here, grid or (1, here.shape[1])

    return backbone


def answer(train, val, labels=None, *, images=None, grid=None, **changes):
    """The numbers for tables of patches (images, patches, width), the first for training."""
    n, m = len(train), len(val)
    labels = labels or ([i % 2 for i in range(n)], [i % 2 for i in range(m)])
    sets = Numbered(range(n), labels[0]), Numbered(range(n, n + m), labels[1])
    orders = [changes.pop(f"{name}_order", range(len(x))) for name, x in zip(("train", "val"), sets, strict=True)]
    chosen = [x.at(order) for x, order in zip(sets, orders, strict=True)]
    protocol = PatchRedundancy(train=chosen[0], val=chosen[1], **dict(image_size=SIDE) | changes)
    return protocol(looked_up(torch.cat([train, val]), images, grid), "cpu")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def assert_same(found, expected, *, but=()):
    for name in expected.keys() - set(but):
        assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name
    assert found.keys() == expected.keys()


def of_three_classes(n, seed):
    """Patches that tell their label now and then."""
    labels = [i % 3 for i in range(n)]
    return noise(n, 9, 5, seed=seed) + 0.8 * F.one_hot(torch.tensor(labels), 5)[:, None], labels


# Cosines and ranks


def test_one_patch_everywhere_has_cosine_one_and_beside_the_mean_nothing_is_left():
    same = noise(5).expand(4, 3, 5)
    found = answer(same, same)
    assert [found[name] for name in COSINES] == pytest.approx([1, 1, 1, 0, 0, 0], abs=1e-12)
    assert [found[f"rank_{of}"] for of in ("within", "between", "all")] == [0, 0, 0]


def test_patches_that_are_alike_inside_an_image_use_one_direction_and_images_one_each():
    val = torch.eye(6)[:, None].expand(6, 4, 6)
    found = answer(torch.cat([val, -val]), val)  # of mean zero
    assert [found[name] for name in COSINES] == pytest.approx([1, 0, 1] * 2, abs=1e-12)
    assert found["rank_within"] == pytest.approx(1)
    assert found["rank_between"] == pytest.approx(4)
    assert found["rank_all"] == pytest.approx(6)


@pytest.mark.parametrize("n", [2, 5])
def test_orthogonal_patches_share_nothing_but_their_mean(n):
    same = torch.eye(n).expand(4, n, n)
    found = answer(same, same)
    assert found["cosine_within"] == pytest.approx(0, abs=1e-12)
    assert found["cosine_to_mean"] == pytest.approx(1 / math.sqrt(n))
    assert found["cosine_between"] == pytest.approx(1 / n)  # each meets itself in the other image
    assert found["centred_cosine_within"] == pytest.approx(-1 / (n - 1))
    assert (found["rank_within"], found["rank_all"]) == pytest.approx((n - 1, n - 1))


def by_loops(val):
    """Cosines of all pairs and the ranks, one by one."""
    unit = F.normalize(val, dim=-1)
    within, between, to_mean, ranks = [], [], [], []
    for i, patches in enumerate(unit):
        pairs = [float(a @ b) for p, a in enumerate(patches) for q, b in enumerate(patches) if p != q]
        within.append(sum(pairs) / len(pairs))
        between += [float(a @ b) for j, others in enumerate(unit) if j != i for a in patches for b in others]
        to_mean += [float(F.cosine_similarity(p, val[i].mean(dim=0), dim=0)) for p in val[i]]
        ranks.append(rank(val[i]))
    mean = [sum(x) / len(x) for x in (within, between, to_mean)]
    return [*mean, sum(ranks) / len(ranks), rank(val.flatten(0, 1))]


def rank(rows):
    share = torch.linalg.svdvals(rows)
    return float(torch.exp(-torch.xlogy(share / share.sum(), share / share.sum()).sum()))


@pytest.mark.parametrize("n, d", [(2, 3), (3, 7), (6, 2)])
def test_cosines_and_ranks_equal_loops_over_pairs(n, d):
    train, val = noise(9, n, d), noise(7, n, d, seed=1)
    found = answer(train, val)
    raw = by_loops(val.double())
    centred = by_loops(val.double() - train.double().mean(dim=(0, 1)))
    expected = [*raw[:3], *centred]
    assert [found[name] for name in (*COSINES, "rank_within", "rank_all")] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n_images, n_patches, of_one_image", [(12, 4, 1), (2, 4, 2), (3, 5, 2)])
def test_ranks_of_different_images_take_as_few_patches_of_each_as_they_can(n_images, n_patches, of_one_image):
    val = torch.eye(n_images)[:, None].expand(-1, n_patches, -1)
    found = answer(torch.cat([val, -val]), val)
    counts = torch.tensor(
        [min(of_one_image, n_patches - of_one_image * i) for i in range(-(-n_patches // of_one_image))]
    )
    expected = rank(torch.diag(counts.double().sqrt()))
    assert found["rank_between"] == pytest.approx(expected)


# What a patch tells


def with_the_label_at(place, n_patches, n_classes, labels):
    """Patches that are zero but for one that is one-hot."""
    patches = torch.zeros(len(labels), n_patches, n_classes)
    patches[:, place] = F.one_hot(torch.tensor(labels), n_classes).float()
    return patches


def test_a_label_at_one_position_is_told_there_and_by_chance_elsewhere():
    train, val = [i % 4 for i in range(40)], [i % 4 for i in range(12)]
    found = answer(*(with_the_label_at(2, 6, 4, y) for y in (train, val)), (train, val), grid=(2, 3))
    assert found["accuracy_by_position"] == [0.25, 0.25, 1, 0.25, 0.25, 0.25]
    assert found["accuracy_patch"] == pytest.approx((1 + 5 / 4) / 6)
    assert found["accuracy_vote"] == 0.25  # five say the same
    assert found["accuracy_image"] == 1
    assert found["grid"] == [2, 3]
    assert (found["n_classes"], found["dim"], found["n_train"], found["n_val"]) == (4, 4, 40, 12)


def test_votes_follow_the_most_positions():
    train, val = [i % 4 for i in range(40)], [i % 4 for i in range(12)]
    tables = []
    for labels in (train, val):
        table = with_the_label_at(0, 4, 4, labels)
        table[:, 2] = table[:, 0]  # two that know, and two that say the same of all
        table[:, 3] = table[:, 0]
        tables.append(table)
    assert answer(*tables, (train, val))["accuracy_vote"] == 1


def test_image_vectors_have_a_regression_of_their_own():
    labels = [i % 3 for i in range(24)]
    blind = torch.ones(48, 2, 5)
    found = answer(blind[:24], blind[24:], (labels, labels), images=torch.eye(3)[torch.tensor([*labels, *labels])])
    assert found["accuracy_image"] == 1
    assert found["accuracy_patch"] == found["accuracy_vote"] == pytest.approx(1 / 3)


def test_labels_that_say_nothing_of_the_image_are_found_by_chance():
    labels = [torch.randint(0, 4, (600,), generator=torch.Generator().manual_seed(s)).tolist() for s in (0, 1)]
    found = answer(noise(600, 3, 4), noise(600, 3, 4, seed=1), labels)
    for name in ("accuracy_patch", "accuracy_vote", "accuracy_image"):
        assert found[name] == pytest.approx(1 / 4, abs=4 * math.sqrt(1 / 4 * 3 / 4 / 600))


def rows_and_labels(n, d, seed):
    rows = noise(n, 3, d, seed=seed).double()
    return rows, torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed)) * 10


def stacked(rows, labels, penalty):
    """The regression by least squares over rows and, below them, the penalty as rows."""
    x, y = rows.flatten(0, 1), F.one_hot(labels.repeat_interleave(rows.shape[1]) // 10, 3).double()
    left, right = x - x.mean(dim=0), y - y.mean(dim=0)
    d = x.shape[1]
    root = math.sqrt(penalty * len(x) * left.square().mean())
    weight = torch.linalg.lstsq(
        torch.cat([left, root * torch.eye(d).double()]), torch.cat([right, torch.zeros(d, 3).double()])
    ).solution
    return torch.cat([weight, (y.mean(dim=0) - x.mean(dim=0) @ weight)[None]])


def error(weight, rows, labels):
    y = F.one_hot(labels.repeat_interleave(rows.shape[1]) // 10, 3).double()
    return (F.pad(rows.flatten(0, 1), (0, 1), value=1.0) @ weight - y).square().sum()


def test_the_regression_from_sums_is_the_one_from_rows():
    classes = torch.tensor([0, 10, 20])
    fit, other = rows_and_labels(30, 4, 0), rows_and_labels(20, 4, 1)
    for penalty in PENALTIES:
        weight = solved(Sums.of(*fit), classes, penalty)
        torch.testing.assert_close(weight, stacked(*fit, penalty), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(squared_error(weight, Sums.of(*other), classes), error(weight, *other))


@pytest.mark.parametrize("told, expected", [(0.0, 100), (0.5, 10), (1.0, 1)])
def test_the_penalty_is_the_best_on_the_part_held_out_and_then_all_rows_are_fitted_to(told, expected):
    (rows, labels), (others, of_others) = rows_and_labels(8, 6, 4), rows_and_labels(30, 6, 54)
    rows[..., 0] += told * labels[:, None] / 10
    others[..., 0] += told * of_others[:, None] / 10
    held_out = others, of_others
    found = fitted(Sums.of(rows, labels), Sums.of(*held_out))
    best = min(PENALTIES, key=lambda penalty: float(error(stacked(rows, labels, penalty), *held_out)))
    assert found.penalty == best == expected
    assert found.classes.tolist() == [0, 10, 20]
    both = torch.cat([rows, held_out[0]]), torch.cat([labels, held_out[1]])
    torch.testing.assert_close(found.weight, stacked(*both, best), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.mean, both[0].mean(dim=(0, 1)))


# What must not matter


@pytest.fixture(scope="module")
def tables():
    (train, known), (val, asked) = of_three_classes(61, 0), of_three_classes(40, 1)
    return train, val, (known, asked)


@pytest.fixture(scope="module")
def expected(tables):
    found = answer(*tables)
    assert 0.4 < found["accuracy_patch"] < found["accuracy_vote"] < 1
    return found


@pytest.mark.parametrize("changes", [dict(batch_size=1), dict(batch_size=7), dict(n_workers=1)])
def test_neither_batches_nor_workers_change_the_result(changes, tables, expected):
    assert_same(answer(*tables, **changes), expected)


def test_the_order_of_images_changes_nothing_but_what_is_drawn_by_their_places(tables, expected):
    order = np.random.default_rng(0).permutation(40)
    assert_same(answer(*tables, val_order=order), expected, but=["rank_between"])
    held_out = [name for name in expected if name.startswith(("accuracy", "penalty"))]
    order = np.random.default_rng(0).permutation(61)
    assert_same(answer(*tables, train_order=order), expected, but=held_out)


def test_the_names_of_classes_change_nothing(tables, expected):
    renamed = tuple([20 - 9 * y for y in labels] for labels in tables[2])
    assert_same(answer(*tables[:2], renamed), expected)


def test_the_scale_of_features_changes_nothing(tables, expected):
    train, val, labels = tables
    assert_same(answer(1e4 * train, 1e4 * val, labels), expected)


def test_half_precision_is_measured_in_full(tables):
    train, val = (x.half() for x in tables[:2])
    assert_same(answer(train, val), answer(train.float(), val.float()))


# What is refused


def test_an_image_is_wrong_if_no_training_image_has_its_class_and_refused_if_none_can():
    labels = [i % 2 for i in range(20)], [0, 1, 2, 1]
    tables = [with_the_label_at(0, 2, 3, y) for y in labels]
    with pytest.raises(ValueError, match=r"val\[2\] has the label 2, but no image of train has it"):
        answer(*tables, labels)
    found = answer(*tables, labels, n_train=18)
    assert found["accuracy_by_position"][0] == found["accuracy_image"] == 0.75
    assert found["n_classes"] == 2


def test_features_that_are_not_finite_are_refused():
    val = noise(4, 2, 3)
    val[2, 1, 0] = math.nan
    with pytest.raises(NotFinite, match=r"NaN or infinite features of val\[2\]"):
        answer(noise(4, 2, 3), val, batch_size=2)


def test_one_patch_makes_no_pair():
    with pytest.raises(ValueError, match=r"image_size=2, but then the backbone makes 1 patch"):
        answer(noise(4, 1, 3), noise(4, 1, 3))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(image_size=0), "image_size=0"),
        (dict(image_size=32, resize=24), "resize=24, but a square of image_size=32 is to be cut out"),
        (dict(n_train=1), "train has 1 image to use"),
        (dict(n_val=1), "val has 1 image to use"),
        (dict(n_val=6), "n_val=6, but val has 5 images"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    sets = dict(train=Numbered(range(9), range(9)), val=Numbered(range(5), range(5)))
    with pytest.raises(ValueError, match=message):
        PatchRedundancy(**sets | changes)


def cells(pixels):
    """A patch for each square of 16 pixels."""
    assert pixels.shape[2] % 16 == 0, "16 pixels must divide the image"
    x = F.avg_pool2d(pixels, 16)
    return x.mean(dim=(2, 3)), x.flatten(2).mT, tuple(x.shape[2:])


def test_what_can_be_known_before_the_run_is_refused_before_it():
    def check(**changes):
        one = dict(size=32, objects=(1, 1), n_images=4)
        sets = dict(train=Scenes(**one), val=Scenes(**one, split="val"))
        PatchRedundancy(**sets | dict(image_size=32) | changes).check(cells)

    check()
    with pytest.raises(ValueError, match=r"image_size=24 does not suit the backbone: 16 pixels must divide"):
        check(image_size=24)
    with pytest.raises(ValueError, match=r"image_size=16, but then the backbone makes 1 patch"):
        check(image_size=16)
    with pytest.raises(ValueError, match=r"val\[0\] has no label"):
        check(val=Scenes(n_images=4, size=32, objects=(2, 2)))
    with pytest.raises(ValueError, match=r"the label 5 is .* but train has 5 classes"):
        check(train=Scenes(n_images=4, size=32, objects=(1, 1), n_classes=5))


# Protocols


def test_the_protocol_of_objects_asks_the_scenes_that_runs_are_evaluated_on():
    asked = config.load(["gin/protocols/objects_patch_redundancy.gin"]).part("evaluation", "protocol")
    evaluated = config.load(["gin/byol.gin"]).part("train", "evaluations")["knn"]
    for here, there in ((asked.train, evaluated.train), (asked.val, evaluated.val)):
        assert len(here) == len(there)
        assert np.array_equal(here[3].image, there[3].image)


def test_the_protocol_of_imagenet_reads_folders_of_classes(tmp_path):
    for split, n in (("train", 4), ("val", 2)):
        for colour, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                levels = np.full((20, 30, 3), 20, np.uint8)
                levels[..., colour] = 200 + i
                Image.fromarray(levels).save(tmp_path / split / name / f"{i}.png")
    settings = config.load(
        ["gin/protocols/imagenet_patch_redundancy.gin"],
        [f"DATA = {str(tmp_path)!r}", "evaluate.PatchRedundancy.n_workers = 0"],
    )
    protocol = settings.part("evaluation", "protocol")
    protocol.check(cells)
    found = protocol(cells, "cpu")
    assert found["grid"] == [14, 14]
    assert found["accuracy_patch"] == found["accuracy_vote"] == found["accuracy_image"] == 1
    assert found["cosine_within"] == pytest.approx(1)
