"""Aligners of patches against slow loops over views, images and patches."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from sslkit.aligners import ImageToPatch, PatchToImage, PatchToMatch, PatchToRegion
from sslkit.contracts.inputs import meaning, step_of


def key(here, there, owner):
    return tuple(here.tolist()), tuple(there.tolist()), int(owner)


def normalised(found):
    total = sum(found.values())
    return {pair: weight / total for pair, weight in found.items() if weight}


def tokens(step, view):
    """Every patch of a student view: (image, place, row)."""
    return [(b, n, row) for b, image in enumerate(step.student.patches[view]) for n, row in enumerate(image)]


def region_number(step, image, cluster):
    """Where a region of an image stands among those of one view."""
    regions, n = step.regions, len(step.regions)
    return int(((regions.teacher.item[:n] == image) & (regions.cluster == cluster)).nonzero()[0, 0])


@pytest.mark.parametrize("n_global, n_local", [(2, 0), (2, 2), (3, 1)])
def test_every_patch_predicts_the_image_vector_of_each_other_view(n_global, n_local):
    step = step_of(n_global=n_global, n_local=n_local)
    slow = defaultdict(float)
    for s in range(n_global + n_local):
        for t in range(n_global):
            if s != t:
                for b, _, row in tokens(step, s):
                    slow[key(row, step.teacher.images[t][b], step.batch.index[b])] += 1
    assert meaning(PatchToImage()(step)) == pytest.approx(normalised(slow))


def test_the_control_pairs_patches_with_the_image_vector_of_their_own_view():
    step = step_of(n_local=1)
    slow = {
        key(row, step.teacher.images[v][b], step.batch.index[b]): 1.0 for v in (0, 1) for b, _, row in tokens(step, v)
    }
    assert meaning(PatchToImage(views="same")(step)) == pytest.approx(normalised(slow))


def test_the_other_direction_has_the_same_pairs_of_the_other_networks():
    step = step_of()
    mirrored = replace(step, student=step.teacher, teacher=step.student)
    there = {(b, a, owner): w for (a, b, owner), w in meaning(PatchToImage()(mirrored)).items()}
    assert meaning(ImageToPatch()(step)) == pytest.approx(there)


@pytest.mark.parametrize("sources, expected", [("same", {(0, 1)}), ("different", {(0, 2), (1, 2)})])
def test_views_of_other_sources_are_paired_only_if_asked(sources, expected):
    step = step_of(n_global=3, sources=(0, 0, 1))
    for aligner in (PatchToImage(sources=sources), ImageToPatch(sources=sources)):
        pairs = aligner(step)
        views = zip(pairs.prediction.view[pairs.i].tolist(), pairs.target.view[pairs.j].tolist(), strict=True)
        assert {tuple(sorted(pair)) for pair in views} == expected


def test_swapping_the_views_swaps_the_pairs():
    step = step_of()
    student, teacher = (
        replace(x, images=x.images[::-1], patches=x.patches[::-1]) for x in (step.student, step.teacher)
    )
    there = replace(step, student=student, teacher=teacher)
    for aligner in (PatchToImage(), ImageToPatch()):
        assert meaning(aligner(there)) == pytest.approx(meaning(aligner(step)))


@pytest.mark.parametrize("aligner", [PatchToImage, ImageToPatch, PatchToRegion])
def test_positions_that_are_drawn_are_distinct_and_follow_image_and_epoch(aligner):
    def chosen(step):
        pairs = aligner(n_positions=3)(step)
        side, at = (pairs.target, pairs.j) if aligner is ImageToPatch else (pairs.prediction, pairs.i)
        counts = torch.bincount(at, minlength=len(side)).view(2, 3, 4)
        return counts > 0

    step = step_of(valid=torch.ones(3, 4, dtype=torch.bool))
    there = chosen(step)
    assert there.sum(dim=2).unique().tolist() == [3]
    assert torch.equal(chosen(step), there)
    epochs = [chosen(replace(step, batch=replace(step.batch, epoch=epoch))) for epoch in range(30)]
    share = torch.stack(epochs).float().mean(dim=0)
    assert (share > 0.4).all()  # each position of each image and view is drawn in 3 of 4 epochs
    assert (share < 1).all()


def test_more_positions_than_a_view_has_are_refused():
    for aligner in (PatchToImage(n_positions=5), ImageToPatch(n_positions=5), PatchToRegion(n_positions=5)):
        with pytest.raises(ValueError, match="n_positions=5, but a view has only 4 patches"):
            aligner(step_of())


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_every_patch_predicts_its_region_in_the_other_view(static, seed):
    step = step_of(seed=seed, static=static)
    regions = step.regions
    n, slow = len(regions), defaultdict(float)
    for here, there in ((0, 1), (1, 0)):
        for b, place, row in tokens(step, here):
            cluster = int(regions.assignment[here, b, place].argmax())
            if regions.valid[b, cluster]:
                number = region_number(step, b, cluster)
                target = regions.teacher.rows[there * n + number]
                slow[key(row, target, step.batch.index[b])] += float(regions.assignment[here, b, place, cluster])
    assert meaning(PatchToRegion()(step)) == pytest.approx(normalised(slow))


def test_regions_weigh_the_same_whatever_their_size():
    step = step_of()
    pairs = PatchToRegion()(step)
    used = torch.zeros(len(pairs.target)).index_add(0, pairs.j, pairs.weight)
    assert used.tolist() == pytest.approx([1 / len(pairs.target)] * len(pairs.target))


def test_regions_are_those_of_the_views_that_show_the_image():
    step = step_of(n_global=3, sources=(0, 1, 0))
    pairs = PatchToRegion()(step)
    i, j = pairs.i[pairs.weight > 0], pairs.j[pairs.weight > 0]
    assert set(pairs.prediction.view[i].tolist()) == set(pairs.target.view[j].tolist()) == {0, 2}
    assert (pairs.prediction.view[i] != pairs.target.view[j]).all()
    assert torch.equal(pairs.prediction.item[i], pairs.target.item[j])


@pytest.mark.parametrize("static", [True, False])
def test_every_patch_predicts_what_its_region_found_in_the_other_view(static):
    step = step_of(static=static)
    regions, matches = step.regions, step.matches["objects"]
    slow = defaultdict(float)
    for here, there in ((0, 1), (1, 0)):
        for b, place, row in tokens(step, here):
            cluster = int(regions.assignment[here, b, place].argmax())
            if regions.valid[b, cluster]:
                number = region_number(step, b, cluster)
                share = regions.assignment[here, b, place, cluster] * matches.weight[there, number]
                slow[key(row, matches.rows[there, number], matches.ids[there, number])] += float(share)
    assert meaning(PatchToMatch("objects")(step)) == pytest.approx(normalised(slow))


def test_every_patch_predicts_what_its_image_found_in_the_other_view():
    step = step_of()
    trusted = torch.tensor([[1.0, 0, 1], [0, 1, 0.5]])
    matches = replace(step.matches["images"], weight=trusted)
    slow = defaultdict(float)
    for here, there in ((0, 1), (1, 0)):
        for b, _, row in tokens(step, here):
            slow[key(row, matches.rows[there, b], matches.ids[there, b])] += float(trusted[there, b])
    step = replace(step, matches={"images": matches})
    assert meaning(PatchToMatch("images")(step)) == pytest.approx(normalised(slow))


def test_patches_weigh_nothing_where_no_match_is_trusted():
    step = step_of(accepted=torch.zeros(2, 12))
    assert PatchToMatch("objects")(step).weight.eq(0).all()


@pytest.mark.parametrize("aligner", [PatchToMatch("objects"), PatchToRegion()], ids=["match", "region"])
def test_patches_weigh_nothing_where_there_is_no_region(aligner):
    step = step_of(valid=torch.zeros(3, 4, dtype=torch.bool))
    assert len(step.regions) == 0
    assert aligner(step).weight.eq(0).all()


def test_patches_of_small_views_predict_what_their_image_found():
    step = step_of(n_local=2)
    pairs = PatchToMatch("images")(step)
    views = zip(pairs.prediction.view[pairs.i].tolist(), pairs.target.view[pairs.j].tolist(), strict=True)
    assert set(views) == {(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)}


def test_a_match_is_met_by_as_many_patches_as_asked_for():
    pairs = PatchToMatch("images", n_positions=3)(step_of())
    assert torch.bincount(pairs.i[pairs.weight > 0], minlength=24).view(2, 3, 4).gt(0).sum(dim=2).unique().tolist() == [
        3
    ]


def test_a_search_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="search='nobody' is not a search of the method; it has: objects, images"):
        PatchToMatch("nobody")(step_of())


def test_patches_of_regions_need_a_clusterer():
    with pytest.raises(ValueError, match="PatchToRegion needs regions, but the method has no clusterer"):
        PatchToRegion()(replace(step_of(), regions=None))
