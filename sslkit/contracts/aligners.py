"""What aligners keep to."""

from __future__ import annotations

import pytest
import torch

from sslkit.aligners import Aligner
from sslkit.contracts.component import ComponentContract
from sslkit.contracts.inputs import blank, meaning, step_of, taken


class AlignerContract(ComponentContract[Aligner]):
    """Pairs of the rows that a step has, of total weight 1, whatever the order of the images."""

    role = "aligners"

    def make(self) -> Aligner:
        """An aligner for two global views; the step has regions, and matches of a search named "objects"."""
        raise NotImplementedError

    @pytest.mark.parametrize("static", [True, False])
    def test_the_rows_it_speaks_of_exist(self, static: bool) -> None:
        pairs = self.component()(step_of(static=static))
        assert len(pairs.i) == len(pairs.j) == len(pairs.weight) > 0
        assert pairs.i.min() >= 0
        assert pairs.i.max() < len(pairs.prediction)
        assert pairs.j.min() >= 0
        assert pairs.j.max() < len(pairs.target)

    @pytest.mark.parametrize("static", [True, False])
    def test_weights_are_never_negative_and_sum_to_one(self, static: bool) -> None:
        weight = self.component()(step_of(static=static)).weight
        assert (weight >= 0).all()
        assert weight.sum().item() == pytest.approx(1)

    def test_static_rows_change_nothing(self) -> None:
        aligner = self.component()
        there = meaning(aligner(step_of(static=False)))
        assert meaning(aligner(step_of(static=True))) == pytest.approx(there)

    def test_permuting_the_images_permutes_the_pairs(self) -> None:
        aligner, step = self.component(), step_of()
        there = meaning(aligner(taken(step, torch.tensor([2, 0, 1]))))
        assert there == pytest.approx(meaning(aligner(step)))

    def test_halves_of_a_batch_have_the_pairs_of_the_whole_unless_its_scope_says_that_images_meet(self) -> None:
        aligner, step = self.component(), step_of(b=4)
        halves = [meaning(aligner(taken(step, half))) for half in torch.arange(4).split(2)]
        mean = {pair: weight / 2 for half in halves for pair, weight in half.items()}
        assert aligner.scope is not None or mean == pytest.approx(meaning(aligner(step)))

    def test_predictions_are_the_students_and_targets_have_no_gradient(self) -> None:
        step = step_of()
        pairs = self.component()(step)
        assert pairs.prediction.rows.requires_grad
        assert not pairs.target.rows.requires_grad
        assert not pairs.weight.requires_grad

    def test_it_compares_the_rows_that_it_says_it_reads_and_copies_none(self) -> None:
        step, aligner = step_of(), self.component()
        prediction = aligner(step).prediction.rows
        assert step.regions is not None
        own = {"images": step.student.image, "patches": step.student.patch, "regions": step.regions.student}
        assert prediction is own[aligner.reads].rows  # a copy would pass a head twice

    def test_it_holds_no_state(self) -> None:
        assert self.component().state_dict() == {}

    def test_it_can_be_tried_out_before_there_is_data(self) -> None:
        step = blank(step_of(static=True))
        with torch.device("meta"):
            pairs = self.component()(step)
        assert len(pairs.i) == len(pairs.j) == len(pairs.weight) > 0
