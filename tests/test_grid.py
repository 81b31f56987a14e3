"""Clusterers, matchers, aligners and losses with one another: each combination runs, or is refused with the reason."""

from __future__ import annotations

import itertools

import pytest

from experiments.hybrids.grid import Combination, attempt, covering, everything

ON_REGIONS = ("RegionAcrossViews", "RegionAcrossImages", "PatchToRegion")
GRID = [each for each in everything() if each.clusterer != "none" or each.aligner not in ON_REGIONS]
PAIRS = covering(GRID)


def test_every_two_parts_of_different_roles_meet():
    def meetings(some):
        return {pair for each in some for pair in itertools.combinations(each._asdict().items(), 2)}

    assert meetings(PAIRS) == meetings(GRID)
    assert len(PAIRS) < len(GRID) / 10


@pytest.mark.parametrize("each", PAIRS, ids="-".join)
def test_a_combination_takes_two_steps(each):
    assert attempt(each) is None


@pytest.mark.parametrize("aligner", ON_REGIONS)
def test_an_aligner_of_regions_is_refused_without_a_clusterer(aligner):
    reason = attempt(Combination("none", "Cycle", aligner, "Distillation"))
    assert reason == f"term 'term': {aligner} needs regions, but the method has no clusterer (Method.clusterer)"
