"""What centerings keep to."""

from __future__ import annotations

import torch

from sslkit.centerings import Centering
from sslkit.contracts.component import ComponentContract, assert_same_state, state_of
from sslkit.contracts.inputs import blank, normal


class CenteringContract(ComponentContract[Centering]):
    """One offset per prototype, largest for those that are popular; only `move` writes."""

    role = "centerings"

    def make(self) -> Centering:
        """A centering; for how many prototypes, it is told by `build`."""
        raise NotImplementedError

    def component(self) -> Centering:
        centering = super().component()
        centering.build(6)
        return centering

    def test_it_takes_off_one_finite_number_per_prototype(self) -> None:
        offset = self.component()(normal(5, 6), torch.ones(5))
        assert offset.shape == (6,)
        assert offset.isfinite().all()
        assert not offset.requires_grad

    def test_asking_writes_nothing_and_moving_writes_only_what_is_saved(self) -> None:
        centering = self.component()
        logits, weight = normal(5, 6), torch.ones(5)
        before = state_of(centering)
        centering(logits, weight)
        assert_same_state(before, centering.state_dict())
        centering.move(logits, weight)
        restored = self.component()
        restored.load_state_dict(state_of(centering))
        assert torch.equal(restored(logits, weight), centering(logits, weight))

    def test_the_order_of_the_rows_does_not_matter(self) -> None:
        here, there = self.component(), self.component()
        logits, weight = normal(5, 6), torch.tensor([1.0, 0, 1, 0.5, 1])
        here.move(logits, weight)
        there.move(logits.flip(0), weight.flip(0))
        torch.testing.assert_close(here(logits, weight), there(logits.flip(0), weight.flip(0)))

    def test_what_it_takes_off_depends_on_the_rows_of_the_step_only_if_its_scope_says_so(self) -> None:
        centering, weight = self.component(), torch.ones(5)
        here, there = centering(normal(5, 6), weight), centering(normal(5, 6, seed=1), weight)
        assert torch.equal(here, there) == (centering.scope is None)

    def test_popular_prototypes_are_not_made_more_popular(self) -> None:
        centering = self.component()
        logits, weight = 0.01 * normal(8, 6) + torch.tensor([0.3, 0, 0, 0, 0, 0]), torch.ones(8)
        centering.move(logits, weight)
        offset = centering(logits, weight)
        assert offset[0] >= offset[1:].max()

    def test_it_can_be_tried_out_before_there_is_data(self) -> None:
        logits = blank(normal(5, 6))
        with torch.device("meta"):
            assert self.component()(logits, torch.ones(5)).shape == (6,)
