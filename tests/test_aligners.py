"""Aligners against slow loops over views, images and regions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sslkit.aligners import ImageAcrossViews, MaskedPatches, RegionAcrossImages, RegionAcrossViews
from sslkit.contracts.inputs import meaning, step_of
from sslkit.losses import Distillation


def swapped(step):
    """The same step with views 0 and 1 in each other's place."""
    regions, matches = step.regions, step.matches["objects"]
    n = len(regions)

    def rows(x):
        return replace(x, rows=torch.cat([x.rows[n:], x.rows[:n]]))

    def features(x):
        return replace(x, images=(x.images[1], x.images[0], *x.images[2:]))

    return replace(
        step,
        student=features(step.student),
        teacher=features(step.teacher),
        regions=replace(regions, student=rows(regions.student), teacher=rows(regions.teacher)),
        matches={
            "objects": replace(
                matches, weight=matches.weight.flip(0), rows=matches.rows.flip(0), ids=matches.ids.flip(0)
            )
        },
    )


def as_meaning(slow):
    """What `meaning` says of pairs, of a slow loop's list of (prediction row, target row, owner, weight)."""
    found = {}
    for p, t, owner, w in slow:
        if w:
            key = tuple(p.tolist()), tuple(t.tolist()), int(owner)
            found[key] = found.get(key, 0) + float(w)
    return found


def loss_of(aligner, step):
    pairs = aligner(step)
    return Distillation()(pairs.prediction.rows, pairs.target.rows, pairs)


@pytest.mark.parametrize("n_global, n_local", [(2, 0), (2, 3), (3, 0), (3, 2), (1, 2)])
def test_every_view_predicts_every_other_global_view_of_its_image(n_global, n_local):
    step = step_of(n_global=n_global, n_local=n_local)
    slow = []
    for s, student in enumerate(step.student.images):
        for t, teacher in enumerate(step.teacher.images):
            if s != t:
                slow += [(student[b], teacher[b], step.student.index[b]) for b in range(3)]
    expected = as_meaning([(*pair, 1 / len(slow)) for pair in slow])
    assert meaning(ImageAcrossViews()(step)) == pytest.approx(expected)


@pytest.mark.parametrize("sources", ["any", "same", "different"])
@pytest.mark.parametrize("shown", [(0, 1), (0, 0, 1), (0, 1, 0, 0), (0, 1, 2)])
def test_only_views_of_the_sources_asked_for_are_paired(sources, shown):
    n_global = min(3, len(shown))
    step = step_of(n_global=n_global, n_local=len(shown) - n_global, sources=shown)
    slow = []
    for s, student in enumerate(step.student.images):
        for t, teacher in enumerate(step.teacher.images):
            if s != t and {"any": True, "same": shown[s] == shown[t], "different": shown[s] != shown[t]}[sources]:
                slow += [(student[b], teacher[b], step.student.index[b]) for b in range(3)]
    aligner = ImageAcrossViews(sources=sources)
    if slow:
        expected = as_meaning([(*pair, 1 / len(slow)) for pair in slow])
        assert meaning(aligner(step)) == pytest.approx(expected)
    else:
        with pytest.raises(ValueError, match=f"sources='{sources}' leaves no pair"):
            aligner(step)


@pytest.mark.parametrize("n_global", [2, 3])
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("scope", ["rank", "all"])
def test_every_region_predicts_itself_in_every_other_view(n_global, static, scope):
    step = step_of(n_global=n_global, static=static)
    regions = step.regions
    n, slow = len(regions), []
    for s in range(n_global):
        for t in range(n_global):
            for r in range(n):
                if s != t and regions.valid[regions.student.item[r], regions.cluster[r]]:
                    here, there = regions.student.rows[s * n + r], regions.teacher.rows[t * n + r]
                    slow.append((here, there, regions.teacher.ids[r]))
    expected = as_meaning([(*pair, 1 / len(slow)) for pair in slow])
    assert meaning(RegionAcrossViews(scope=scope)(step)) == pytest.approx(expected)


def across_images(step, normalise):
    regions, matches = step.regions, step.matches["objects"]
    n = len(regions)
    counts = [sum(float(w) for w in matches.weight[p]) for p in (0, 1)]
    slow = []
    for p in (0, 1):
        for r in range(n):
            w = float(matches.weight[p, r])
            if normalise == "direction" and counts[p]:
                w = w / counts[p] / 2
            elif normalise == "pooled" and sum(counts):
                w = w / sum(counts)
            elif normalise == "first_direction":
                w = w / counts[0] / 2 if counts[0] else 0
            slow.append((regions.student.rows[(1 - p) * n + r], matches.rows[p, r], matches.ids[p, r], w))
    return as_meaning(slow)


@pytest.mark.parametrize("normalise", ["direction", "pooled", "first_direction"])
@pytest.mark.parametrize("scope", ["rank", "all"])
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("nothing_in", [(), (0,), (1,), (0, 1)])
def test_a_match_of_one_view_is_the_target_of_the_region_in_the_other(normalise, scope, static, nothing_in):
    accepted = torch.randint(3, (2, 12), generator=torch.Generator().manual_seed(2)) / 2
    accepted[list(nothing_in)] = 0
    step = step_of(accepted=accepted, static=static)
    aligner = RegionAcrossImages("objects", normalise=normalise, scope=scope)
    assert meaning(aligner(step)) == pytest.approx(across_images(step, normalise))


@pytest.mark.parametrize("normalise, total", [("direction", 1.0), ("pooled", 1.0), ("first_direction", 0.625)])
def test_weights_sum_to_one_unless_both_directions_have_the_first_ones_denominator(normalise, total):
    accepted = torch.zeros(2, 12)
    accepted[0, :4], accepted[1, :1] = 1, 1
    step = step_of(accepted=accepted, valid=torch.ones(3, 4).bool())
    pairs = RegionAcrossImages("objects", normalise=normalise)(step)
    assert pairs.weight.sum().item() == pytest.approx(total)


ALIGNERS = [
    ImageAcrossViews(),
    RegionAcrossViews(),
    RegionAcrossImages("objects"),
    RegionAcrossImages("objects", normalise="pooled"),
]


@pytest.mark.parametrize("aligner", ALIGNERS)
def test_swapping_the_views_leaves_the_loss_unchanged(aligner):
    step = step_of(n_local=2)
    torch.testing.assert_close(loss_of(aligner, swapped(step)), loss_of(aligner, step), rtol=1e-6, atol=0)


def test_swapping_the_views_changes_the_loss_with_the_first_directions_denominator():
    accepted = torch.zeros(2, 12)
    accepted[0, :4], accepted[1, :1] = 1, 1
    step = step_of(accepted=accepted, valid=torch.ones(3, 4).bool())
    aligner = RegionAcrossImages("objects", normalise="first_direction")
    assert not torch.allclose(loss_of(aligner, swapped(step)), loss_of(aligner, step), rtol=1e-2)


def test_swapping_the_views_swaps_the_directions():
    step = step_of()
    here, there = (RegionAcrossImages("objects")(s) for s in (step, swapped(step)))
    assert meaning(here) == pytest.approx(meaning(there))
    n = len(step.regions)
    torch.testing.assert_close(here.weight[:n], there.weight[n:])
    torch.testing.assert_close(here.target.rows[:n], there.target.rows[n:])


def hiding(step, masks):
    """The same step with these masks on its views."""
    views = tuple(replace(view, mask=mask) for view, mask in zip(step.batch.views, masks, strict=True))
    return replace(step, batch=replace(step.batch, views=views))


def some_masks(n_views, seed=0):
    """Masks of three images of four patches; the first image hides nothing in the second view."""
    masks = torch.rand(n_views, 3, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    masks[:, 1] = torch.tensor([False, True, True, False])
    masks[1, 0] = False
    return list(masks)


def masked_patches(step, normalise):
    slow, n_masked, n_all = [], 0, 0
    for view, student, teacher in zip(
        step.batch.global_views, step.student.patches, step.teacher.patches, strict=False
    ):
        for image in range(3):
            hidden = [n for n in range(4) if view.mask is not None and view.mask[image, n]]
            n_masked, n_all = n_masked + bool(hidden), n_all + 1
            owner = step.student.index[image]
            slow += [(student[image, n], teacher[image, n], owner, 1 / len(hidden)) for n in hidden]
    n_images = n_masked if normalise == "masked" else n_all
    return as_meaning([(*pair, weight / n_images) for *pair, weight in slow])


@pytest.mark.parametrize("normalise", ["masked", "all"])
@pytest.mark.parametrize("scope", ["rank", "all"])
@pytest.mark.parametrize("n_global, n_local", [(2, 0), (2, 3), (3, 1)])
def test_every_hidden_patch_of_a_global_view_predicts_itself(normalise, scope, n_global, n_local):
    step = step_of(n_global=n_global, n_local=n_local)
    step = hiding(step, some_masks(n_global + n_local))
    aligner = MaskedPatches(normalise=normalise, scope=scope)
    assert meaning(aligner(step)) == pytest.approx(masked_patches(step, normalise))


@pytest.mark.parametrize("normalise, total", [("masked", 1.0), ("all", 5 / 6)])
def test_images_of_which_nothing_is_hidden_count_only_over_all(normalise, total):
    masks = [torch.ones(3, 4).bool(), torch.tensor([[False] * 4, [True] * 4, [False, True, False, False]])]
    weight = MaskedPatches(normalise=normalise)(hiding(step_of(), masks)).weight
    assert weight.sum().item() == pytest.approx(total)
    of_images = weight.view(2, 3, 4).sum(dim=2)
    torch.testing.assert_close(of_images, torch.tensor([[1.0, 1, 1], [0, 1, 1]]) * total / 5)


def test_a_global_view_of_a_kind_that_hides_nothing_has_no_weight():
    first, _ = some_masks(2)
    step = hiding(step_of(), [first, None])
    assert meaning(MaskedPatches()(step)) == pytest.approx(masked_patches(step, "masked"))


def test_pairs_of_hidden_patches_have_the_same_shape_whatever_is_hidden():
    shapes = {MaskedPatches()(hiding(step_of(), some_masks(2, seed))).i.shape for seed in range(3)}
    assert shapes == {(2 * 3 * 4,)}


def test_where_nothing_is_hidden_all_weights_of_patches_are_zero():
    for normalise in ("masked", "all"):
        weight = MaskedPatches(normalise=normalise)(hiding(step_of(), torch.zeros(2, 3, 4).bool())).weight
        assert (weight == 0).all()


def test_without_a_mask_on_a_global_view_the_error_names_what_makes_masks():
    step = step_of(n_local=1)
    with pytest.raises(ValueError, match=r"no global view has a mask.*augmenters.Crop.masking"):
        MaskedPatches()(hiding(step, [None, None, step.batch.views[2].mask]))


@pytest.fixture
def beside(monkeypatch):
    """Makes this process the first of two ranks, of which the other adds the sums it is given, in turn."""

    def rank_whose_neighbour_says(*sums):
        said = iter(sums)
        monkeypatch.setattr("sslkit.distributed.world_size", lambda: 2)
        monkeypatch.setattr("sslkit.distributed.total", lambda x: x + next(said))

    return rank_whose_neighbour_says


def test_over_all_ranks_a_region_weighs_one_over_the_mean_number_of_regions(beside):
    step = step_of(valid=torch.ones(3, 4).bool())
    beside(2 * 4.0)  # the other rank has 4 regions, this one 12; both directions count
    weight = RegionAcrossViews(scope="all")(step).weight
    torch.testing.assert_close(weight, torch.full((24,), 1 / 16))


def test_over_all_ranks_each_direction_has_its_own_mean_number_of_matches(beside):
    accepted = torch.zeros(2, 12)
    accepted[0, :4], accepted[1, :1] = 1, 1
    step = step_of(accepted=accepted, valid=torch.ones(3, 4).bool())
    beside(8.0, 0.0)
    weight = RegionAcrossImages("objects", scope="all")(step).weight
    torch.testing.assert_close(weight[:4], torch.full((4,), 1 / 12))  # mean of 4 and 8, twice
    torch.testing.assert_close(weight[12], torch.tensor(1.0))  # mean of 1 and 0, twice


def test_over_all_ranks_an_image_weighs_one_over_the_mean_number_of_those_that_hide_something(beside):
    step = hiding(step_of(), some_masks(2))
    beside(3.0)  # the other rank has 3 of them, this one 5
    of_images = MaskedPatches(scope="all")(step).weight.view(2, 3, 4).sum(dim=2)
    torch.testing.assert_close(of_images, torch.tensor([[1.0, 1, 1], [0, 1, 1]]) / 4)


def test_a_rank_looks_at_itself_only_when_it_is_told_to(beside):
    step = step_of(valid=torch.ones(3, 4).bool())
    beside()  # asking the other rank would fail
    torch.testing.assert_close(RegionAcrossViews(scope="rank")(step).weight, torch.full((24,), 1 / 24))
    RegionAcrossImages("objects", scope="rank")(step)
    MaskedPatches(scope="rank")(step)
    MaskedPatches(normalise="all")(step)


@pytest.mark.parametrize("aligner", ALIGNERS[1:])
def test_where_no_region_is_valid_all_weights_are_zero(aligner):
    for static in (True, False):
        pairs = aligner(step_of(valid=torch.zeros(3, 4).bool(), static=static))
        assert pairs.weight.isfinite().all()
        assert pairs.weight.sum() == 0


@pytest.mark.parametrize("aligner", ALIGNERS[1:])
def test_without_regions_the_error_names_the_missing_clusterer(aligner):
    with pytest.raises(ValueError, match=r"needs regions, but the method has no clusterer \(Method.clusterer\)"):
        aligner(replace(step_of(), regions=None))


def test_an_unknown_search_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="search='object' is not a search of the method; it has: objects"):
        RegionAcrossImages("object")(step_of())


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: ImageAcrossViews(sources="none"), "sources='none'"),
        (lambda: RegionAcrossViews(scope="node"), "scope='node'"),
        (lambda: RegionAcrossImages("objects", scope="node"), "scope='node'"),
        (lambda: RegionAcrossImages("objects", normalise="mean"), "normalise='mean'"),
        (lambda: MaskedPatches(normalise="mean"), "normalise='mean'"),
        (lambda: MaskedPatches(scope="node"), "scope='node'"),
    ],
)
def test_a_switch_that_does_not_exist_is_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_three_views_are_refused_across_images_because_a_match_has_no_single_other_view():
    with pytest.raises(ValueError, match="regions are seen in 3 views"):
        RegionAcrossImages("objects")(step_of(n_global=3))
