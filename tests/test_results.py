"""What evaluations found, by step: kept through kills, forgotten where a run goes back, asked for its best."""

from __future__ import annotations

import math

import pytest

from sslkit.results import Results


@pytest.fixture
def results(tmp_path):
    found = Results(tmp_path)
    for step, miou in ((0, 0.1), (4, 0.3), (8, 0.2), (12, 0.3)):
        found.add(step, {"dense/miou": miou, "dense/accuracy": 1 - miou})
    return found


def test_another_process_reads_what_was_added(results, tmp_path):
    assert Results(tmp_path).by_step == results.by_step
    assert Results(tmp_path).last == {"dense/miou": 0.3, "dense/accuracy": 0.7}


def test_a_new_run_has_found_nothing(tmp_path):
    assert Results(tmp_path).last == {}
    assert Results(tmp_path).best("dense/miou", [1, 2]) is None


@pytest.mark.parametrize("first, kept", [(0, []), (3, [0]), (4, [0, 4]), (5, [0, 4]), (12, [0, 4, 8, 12])])
def test_a_run_that_goes_on_forgets_what_came_later(results, tmp_path, first, kept):
    assert list(Results(tmp_path, first=first).by_step) == kept


def test_the_best_is_the_earliest_of_the_largest_among_those_asked_for(results):
    assert results.best("dense/miou", [0, 4, 8, 12]) == 4
    assert results.best("dense/miou", [12, 8]) == 12
    assert results.best("dense/accuracy", [8, 12]) == 8
    assert results.best("dense/miou", [5, 6]) is None
    assert results.best("knn/accuracy", [0, 4]) is None


@pytest.mark.parametrize("text", ["", '{"0": {"dense/mi', "[1, 2]", "null"])
def test_a_torn_or_strange_file_counts_as_none(tmp_path, text):
    (tmp_path / "evaluations.json").write_text(text)
    found = Results(tmp_path)
    assert found.by_step == {}
    found.add(2, {"dense/miou": 0.5})
    assert Results(tmp_path).by_step == {2: {"dense/miou": 0.5}}


@pytest.mark.parametrize(
    "text",
    ['{"0": 5}', '{"0": [1]}', '{"0": {"a": null}}', '{"0": {"a": "x"}}', '{"%s": {"a": 1}}' % ("9" * 5000), "[]"],
)
def test_what_is_no_number_of_a_step_is_left_out(text, tmp_path):
    (tmp_path / "evaluations.json").write_text(text)
    results = Results(tmp_path)
    assert results.last == {}
    assert results.best("a", [0]) is None
    results.add(0, {"a": 1.0})
    assert Results(tmp_path).last == {"a": 1.0}


def test_a_result_that_is_not_a_number_is_one_all_the_same(tmp_path):
    Results(tmp_path).add(3, {"dense/miou": math.nan})
    assert list(Results(tmp_path).last) == ["dense/miou"]  # else the run that keeps the best by it could not go on
