import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from sslkit.evaluate import DenseRetrieval
from sslkit.evaluate.base import evaluating
from sslkit.evaluate.dense_retrieval import (
    choose,
    confusion,
    intersection_over_union,
    patch_labels,
    retrieve,
    upsample,
)
from sslkit.evaluate.search import nearest
from sslkit.types import Sample

VOID = 255


def random_rows(n, d, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("size, grid", [((8, 8), (2, 2)), ((12, 6), (4, 3)), ((5, 7), (5, 7)), ((9, 10), (1, 5))])
def test_patch_labels_are_the_histograms_that_a_loop_counts(size, grid):
    mask = torch.randint(0, 3, size, generator=torch.Generator().manual_seed(1))
    found = patch_labels(mask, grid, 3, VOID).view(*grid, 3)
    h, w = size[0] // grid[0], size[1] // grid[1]
    for row in range(grid[0]):
        for column in range(grid[1]):
            cell = mask[row * h : (row + 1) * h, column * w : (column + 1) * w]
            for c in range(3):
                assert found[row, column, c].item() == pytest.approx((cell == c).float().mean().item())


@pytest.mark.parametrize("size, grid", [((7, 5), (2, 2)), ((3, 2), (4, 5)), ((1, 1), (3, 3)), ((10, 11), (4, 3))])
def test_masks_that_the_grid_does_not_divide_still_label_every_patch(size, grid):
    mask = torch.randint(0, 3, size, generator=torch.Generator().manual_seed(2))
    found = patch_labels(mask, grid, 3, VOID)
    assert found.shape == (grid[0] * grid[1], 3)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))


def test_void_is_left_out_of_the_labels_unless_it_is_to_count_as_a_class():
    mask = torch.tensor([[1, VOID, VOID, VOID], [1, 2, VOID, VOID]])
    left_out = patch_labels(mask, (1, 2), 3, VOID)
    torch.testing.assert_close(left_out, torch.tensor([[0, 2 / 3, 1 / 3], [0, 0, 0]]))
    counted = patch_labels(mask, (1, 2), 3, VOID, void_as=0)
    torch.testing.assert_close(counted, torch.tensor([[1 / 4, 1 / 2, 1 / 4], [1, 0, 0]]))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_retrieval_equals_a_loop_over_queries_and_neighbours(k):
    queries, memory = random_rows(5, 4, seed=3), random_rows(7, 4, seed=4)
    labels = torch.rand(7, 3, generator=torch.Generator().manual_seed(5))
    found = retrieve(queries, memory, labels, k, 0.1)
    for query, soft in zip(queries, found, strict=True):
        similar = sorted(((float(query @ row), i) for i, row in enumerate(memory)), reverse=True)[:k]
        weights = [math.exp(s / 0.1) for s, _ in similar]
        for c in range(3):
            voted = sum(w * float(labels[i, c]) for w, (_, i) in zip(weights, similar, strict=True)) / sum(weights)
            assert soft[c].item() == pytest.approx(voted, rel=1e-5)


def test_retrieval_agrees_with_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    queries, memory = random_rows(50, 8, seed=6), random_rows(300, 8, seed=7)
    classes = torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(8))
    oracle = neighbors.KNeighborsClassifier(
        9, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.02)
    ).fit(memory.double().numpy(), classes.numpy())
    expected = torch.from_numpy(oracle.predict_proba(queries.double().numpy())).float()
    torch.testing.assert_close(
        retrieve(queries, memory, F.one_hot(classes, 4).float(), 9, 0.02), expected, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("query_chunk, memory_chunk", [(1, 1), (3, 5), (7, 4), (100, 2), (4, 100)])
def test_chunks_do_not_change_what_is_found(query_chunk, memory_chunk):
    queries, memory, labels = random_rows(11, 4, seed=9), random_rows(23, 4, seed=10), random_rows(23, 3, seed=11)
    whole = nearest(queries, memory, 6)
    parts = nearest(queries, memory, 6, chunk=memory_chunk)
    assert (whole[1] == parts[1]).all()
    torch.testing.assert_close(
        retrieve(queries, memory, labels, 6, 0.02, query_chunk=query_chunk, memory_chunk=memory_chunk),
        retrieve(queries, memory, labels, 6, 0.02),
    )


def test_upsampling_keeps_a_constant_map_and_reaches_odd_sizes():
    soft = torch.tensor([[0.25, 0.75]]).expand(6, 2)
    image = upsample(soft, (2, 3), (7, 11))
    assert image.shape == (2, 7, 11)
    torch.testing.assert_close(image[1], torch.full((7, 11), 0.75))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 9)])
def test_confusion_and_iou_equal_loops_over_pixels(size):
    draw = torch.Generator().manual_seed(12)
    truth, prediction = torch.randint(0, 4, size, generator=draw), torch.randint(0, 4, size, generator=draw)
    truth[torch.rand(size, generator=draw) < 0.2] = VOID
    expected = [[0] * 4 for _ in range(4)]
    for t, p in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if t != VOID:
            expected[t][p] += 1
    counts = confusion(prediction, truth, 4, VOID)
    assert counts.tolist() == expected
    for c, iou in enumerate(intersection_over_union(counts).tolist()):
        union = sum(expected[c]) + sum(row[c] for row in expected) - expected[c][c]
        assert math.isnan(iou) if union == 0 else iou == pytest.approx(expected[c][c] / union)


def test_iou_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = torch.Generator().manual_seed(13)
    truth, prediction = torch.randint(0, 5, (400,), generator=draw), torch.randint(0, 5, (400,), generator=draw)
    found = intersection_over_union(confusion(prediction, truth, 5, VOID))
    np.testing.assert_allclose(found, metrics.jaccard_score(truth, prediction, average=None))


def test_a_class_that_never_occurs_is_not_averaged_but_a_wrongly_predicted_one_is():
    truth, prediction = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 2, 1])
    iou = intersection_over_union(confusion(prediction, truth, 4, VOID))
    assert iou[2] == 0
    assert iou[3].isnan()
    assert iou.nanmean().item() == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_choosing_equals_a_loop_over_patches_and_classes():
    labels = patch_labels(torch.randint(0, 5, (12, 12), generator=torch.Generator().manual_seed(14)), (6, 6), 5, VOID)
    noise = torch.rand(36, generator=torch.Generator().manual_seed(15))
    scores = []
    for patch, chance in zip(labels, noise, strict=True):
        commonness = sum(int((labels[:, c] > 0).sum()) for c in range(5) if patch[c] > 0)
        scores.append(commonness * float(chance))
    expected = sorted(sorted(range(36), key=scores.__getitem__)[:7])
    assert choose(labels, 7, noise).tolist() == expected


def test_choosing_favours_rare_classes_and_never_takes_a_void_patch():
    labels = F.one_hot(torch.tensor([0] * 40 + [1] * 4), 2).float()
    labels[:5] = 0
    taken = torch.zeros(44)
    for seed in range(200):
        taken[choose(labels, 8, torch.rand(44, generator=torch.Generator().manual_seed(seed)))] += 1
    assert taken[:5].sum() == 0
    assert taken[40:].mean() > 3 * taken[5:40].mean()
    assert len(choose(labels, 100, torch.rand(44))) == 39


COLOURS = np.array([[20, 20, 20], [230, 30, 30], [30, 230, 30], [30, 30, 230]], dtype=np.uint8)


class Coloured:
    """Images whose pixels are the colour of their class, in blocks; the last 8 columns may be void."""

    def __init__(self, n, *, size=(32, 32), block=8, seed=0, void=False, classes=4):
        self.n, self.size, self.block, self.seed, self.void, self.classes = n, size, block, seed, void, classes
        self.read = []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read.append(i)
        h, w = self.size[i % len(self.size)] if isinstance(self.size, list) else self.size
        rng = np.random.default_rng([self.seed, i])
        blocks = rng.integers(0, self.classes, (-(-h // self.block), -(-w // self.block)))
        mask = np.kron(blocks, np.ones((self.block, self.block), dtype=np.int64))[:h, :w]
        image = Image.fromarray(COLOURS[mask])
        if self.void:
            mask = mask.copy()
            mask[:, -8:] = VOID
        return Sample(image=image, index=i, mask=torch.from_numpy(mask))


class MeanColour(nn.Module):
    """Patches are the mean of their pixels: enough to tell flat colours apart, and nothing more."""

    def __init__(self, patch=8):
        super().__init__()
        self.patch, self.norm, self.sizes = patch, nn.BatchNorm1d(3), []
        self.norm.requires_grad_(False)

    def forward(self, pixels):
        self.sizes.append(tuple(pixels.shape))
        cells = F.avg_pool2d(pixels, self.patch)
        patches = cells.flatten(2).mT
        self.norm(patches.flatten(0, 1))  # moves the running mean, were it in training mode
        return patches.mean(dim=1), patches, tuple(cells.shape[2:])


def protocol(**changes):
    settings = dict(train=Coloured(6), val=Coloured(3, seed=1), n_classes=4, n_neighbours=5, image_size=None)
    return DenseRetrieval(**settings | changes)


def test_features_that_tell_the_classes_apart_score_one():
    # temperature low and blocks equal to patches: only the interpolated borders can err
    result = protocol()(MeanColour(), "cpu")
    assert result["miou"] > 0.85
    assert result["n_memory"] == 6 * 16
    assert (result["n_train"], result["n_val"]) == (6, 3)
    whole = protocol(val=Coloured(3, seed=1, block=64))(MeanColour(), "cpu")
    assert whole["miou"] == 1
    assert whole["accuracy"] == 1
    assert len(whole["iou"]) == 4


def test_neither_batches_nor_workers_change_the_result():
    expected = protocol()(MeanColour(), "cpu")
    for changes in (dict(batch_size=1), dict(batch_size=4), dict(n_workers=1)):
        assert protocol(**changes)(MeanColour(), "cpu") == expected


def test_images_of_several_and_odd_sizes_are_batched_by_size_or_resized():
    sizes = [(32, 32), (32, 32), (40, 24), (17, 9)]
    backbone = MeanColour()
    native = protocol(train=Coloured(8, size=sizes), val=Coloured(4, size=sizes, seed=1), batch_size=8)(backbone, "cpu")
    assert backbone.sizes[:3] == [(2, 3, 32, 32), (1, 3, 40, 24), (1, 3, 17, 9)]
    assert native["n_memory"] == 2 * (16 + 16 + 15 + 2)
    backbone = MeanColour()
    resized = protocol(train=Coloured(8, size=sizes), val=Coloured(4, size=sizes, seed=1), image_size=32, batch_size=8)(
        backbone, "cpu"
    )
    assert backbone.sizes == [(8, 3, 32, 32), (4, 3, 32, 32)]
    assert resized["n_memory"] == 8 * 16


def test_void_patches_stay_out_of_the_memory_unless_they_count_as_class_zero():
    void = Coloured(6, void=True)
    assert protocol(train=void)(MeanColour(), "cpu")["n_memory"] == 6 * 12
    assert protocol(train=void, void_as_class_zero=True)(MeanColour(), "cpu")["n_memory"] == 6 * 16
    _, labels = protocol(train=void, void_as_class_zero=True).remember(MeanColour(), torch.device("cpu"))
    assert (labels.view(6, 4, 4, 4)[:, :, -1, 0] == 1).all()


def test_void_pixels_are_not_scored():
    class Smudged(Coloured):
        def __getitem__(self, i):
            sample = super().__getitem__(i)
            sample.image.paste(tuple(map(int, COLOURS[(int(sample.mask[0, 0]) + 1) % 4])), (24, 0, 32, 32))
            return sample

    shown = protocol(val=Smudged(3, seed=1, block=32))(MeanColour(), "cpu")["accuracy"]
    hidden = protocol(val=Smudged(3, seed=1, block=32, void=True))(MeanColour(), "cpu")["accuracy"]
    assert shown == 0.75
    assert hidden == 1


def test_a_bounded_memory_takes_as_many_patches_of_every_image_and_is_repeatable():
    bounded = protocol(memory_size=6 * 4 + 5)
    rows, labels = bounded.remember(MeanColour(), torch.device("cpu"))
    assert len(rows) == len(labels) == 6 * 4
    again = protocol(memory_size=6 * 4 + 5, batch_size=2).remember(MeanColour(), torch.device("cpu"))
    assert (rows == again[0]).all()
    other = protocol(memory_size=6 * 4 + 5, seed=1).remember(MeanColour(), torch.device("cpu"))
    assert (labels != other[1]).any()
    assert bounded(MeanColour(), "cpu")["n_memory"] == 24


def test_limits_draw_by_seed_and_a_smaller_draw_is_part_of_a_larger_one():
    def used(**changes):
        train = Coloured(20)
        protocol(train=train, n_val=1, **changes)(MeanColour(), "cpu")
        return train.read

    few, more = used(n_train=4), used(n_train=9)
    assert len(few) == 4
    assert set(few) < set(more)
    assert more == sorted(more) != list(range(9))
    assert used(n_train=9, seed=1) != more
    assert used() == list(range(20))


def test_the_backbone_is_evaluated_in_evaluation_mode_and_comes_back_as_it_was():
    backbone = MeanColour().train()
    backbone.norm.eval()
    inner = nn.Sequential(backbone, nn.Dropout())
    with evaluating(inner):
        assert not any(m.training for m in inner.modules())
    assert [m.training for m in inner.modules()] == [True, True, False, True]

    backbone.norm.train()
    protocol()(backbone, "cpu")
    assert (backbone.norm.running_mean == 0).all()
    assert backbone.training


def test_a_plain_callable_will_do_and_torchs_own_draws_are_left_alone():
    backbone = MeanColour().eval()
    state = torch.get_rng_state()
    assert protocol()(lambda pixels: backbone(pixels), "cpu") == protocol()(backbone, "cpu")
    assert (torch.get_rng_state() == state).all()


def test_the_memory_keeps_no_gradient():
    rows, _ = protocol().remember(nn.Sequential(MeanColour())[0].requires_grad_(), torch.device("cpu"))
    assert not rows.requires_grad


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(n_classes=1), "n_classes=1, but it must be at least 2"),
        (dict(n_neighbours=0), "n_neighbours=0"),
        (dict(temperature=0.0), r"temperature=0\.0"),
        (dict(image_size=0), "image_size=0"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(ignore_index=3), "ignore_index=3, but it is one of the n_classes=4"),
        (dict(memory_size=5), "memory_size=5, but it must hold a patch of each of 6 images"),
        (dict(n_train=7), "n_train=7, but train has 6 images"),
        (dict(val=Coloured(0)), "val has 0 images"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        protocol(**changes)


def test_samples_that_cannot_be_used_are_named():
    class Unmasked(Coloured):
        def __getitem__(self, i):
            return Sample(image=super().__getitem__(i).image, index=i)

    with pytest.raises(ValueError, match=r"val\[0\] has no mask"):
        protocol(val=Unmasked(2))(MeanColour(), "cpu")
    with pytest.raises(ValueError, match=r"the mask of train\[0\] has the label [23], but n_classes=2"):
        protocol(train=Coloured(1, seed=3), n_classes=2)(MeanColour(), "cpu")
    with pytest.raises(ValueError, match="n_neighbours=97, but the memory holds 96 patches"):
        protocol(n_neighbours=97)(MeanColour(), "cpu")
