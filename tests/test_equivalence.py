"""Every shipped method: two ranks come to what one does, and two batches a step to one of twice the size.

In float64, to 1e-9, over a few steps of small networks; except where the method says by name what keeps them apart.
"""

from __future__ import annotations

import pytest

from experiments.equivalence.compare import (
    EVERYWHERE,
    N_IMAGES,
    Case,
    cases,
    course,
    every,
    losses_apart,
    state_apart,
    weights_apart,
)
from experiments.equivalence.run import table
from sslkit.scopes import rank_local
from tests.conftest import ROOT
from tests.ranks import on_ranks

pytestmark = pytest.mark.slow
EXACT = 1e-9
CASES = {case.name: case for case in cases()}
NOTED = {note: [case.name for case in CASES.values() if case.note == note] for note in {c.note for c in CASES.values()}}
APART = [case.file for case in CASES.values() if case.note == "over all ranks"]  # as they are shipped
TOGETHER = [name for name in CASES if name not in APART]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(every, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone():
    return every()


def test_every_method_file_is_compared():
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "gin").rglob("*.gin")}
    assert set(NOTED[""]) == {file for file in files if not file.startswith(("gin/base/", "gin/protocols/"))}


@pytest.mark.parametrize("name", TOGETHER)
def test_two_ranks_come_to_the_losses_and_the_end_of_one(ranks, alone, name):
    assert alone[name].rank_local == []
    for rank in ranks:
        assert losses_apart(rank[name], alone[name]) < EXACT
        assert state_apart(rank[name], alone[name]) < EXACT
        assert rank[name].partners == alone[name].partners


@pytest.mark.parametrize("name", APART)
def test_what_keeps_ranks_apart_is_named_and_does(ranks, alone, name):
    assert alone[name].rank_local != []
    assert losses_apart(ranks[0][name], alone[name]) > 1e-3
    assert weights_apart(ranks[0][name], alone[name]) > 1e-6


@pytest.mark.parametrize("switch", EVERYWHERE)
def test_each_switch_of_the_published_cribo_is_what_one_name_says(switch):
    others = {name: value for name, value in EVERYWHERE.items() if name != switch}
    (named,) = rank_local(Case("gin/recipes/cribo_coco_vits16.gin", others).settings().part("train", "method"))
    said = "drop path or dropout in student.backbone" if switch == "backbones.Timm.drop_path" else switch
    assert named.startswith(said)


@pytest.mark.parametrize("name", CASES)
def test_ranks_end_alike_whatever_keeps_them_from_one(ranks, name):
    assert state_apart(ranks[0][name], ranks[1][name]) == 0
    assert losses_apart(ranks[0][name], ranks[1][name]) == 0


@pytest.mark.parametrize("name", NOTED["image by image"])
def test_two_batches_a_step_come_to_the_losses_and_weights_of_one_where_nothing_is_named(alone, name):
    assert alone[name].batch_scoped == []
    twice = course(CASES[name], accumulate=2)
    assert losses_apart(twice, alone[name]) < EXACT
    assert state_apart(twice, alone[name]) < EXACT
    assert twice.partners == alone[name].partners


def test_regions_are_spread_unevenly_and_partners_move(ranks):
    here, there = (rank["gin/cribo.gin"].regions for rank in ranks)
    assert here != there
    for name in NOTED["partners at once"]:
        tables = ranks[0][name].partners
        assert tables[0] == list(range(N_IMAGES))
        assert tables[1] != tables[0]


def test_the_table_names_what_methods_name(alone):
    def names(made):
        return [[line.split(" | ")[column] for column in (0, 3, 6)] for line in made.splitlines()[2:]]

    assert names((ROOT / "experiments/equivalence/table.md").read_text()) == names(table(alone, alone, alone))
