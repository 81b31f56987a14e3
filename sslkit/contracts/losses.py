"""What losses keep to."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sslkit.contracts.component import ComponentContract, assert_same_state, state_of
from sslkit.contracts.inputs import blank, normal
from sslkit.losses import Loss
from sslkit.types import Pairs, Rows


class LossContract(ComponentContract[Loss]):
    """A weighted sum over pairs of score rows, whatever the order of the pairs or the numbers of the rows."""

    role = "losses"

    def make(self) -> Loss:
        """A loss for rows of 8 scores."""
        raise NotImplementedError

    def case(self) -> tuple[Tensor, Tensor, Pairs]:
        """Predictions, targets and pairs with weights of their own."""
        draw = torch.Generator().manual_seed(0)
        i, j = (torch.randint(6, (9,), generator=draw) for _ in range(2))
        rows = Rows.of(torch.zeros(6, 0))
        pairs = Pairs(rows, rows, i, j, torch.rand(9, generator=draw))
        return torch.randn(6, 8, generator=draw), torch.randn(6, 8, generator=draw), pairs

    def test_it_is_one_number(self) -> None:
        assert self.component()(*self.case()).shape == ()

    def test_pairs_of_weight_zero_are_ignored(self) -> None:
        loss = self.component()
        p, t = normal(6, 8), normal(6, 8, seed=1)
        pairs = Pairs.diagonal(6, weight=[1.0, 1, 1, 1, 0, 0])
        other = torch.cat([p[:4], normal(2, 8, seed=2)])
        torch.testing.assert_close(loss(p, t, pairs), loss(other, t, pairs))

    def test_all_weights_zero_make_it_zero_with_a_zero_gradient(self) -> None:
        p, t, pairs = self.case()
        p.requires_grad_()
        loss = self.component()(p, t, replace(pairs, weight=torch.zeros(9)))
        loss.backward()
        assert loss == 0
        assert p.grad is not None
        assert (p.grad == 0).all()

    def test_no_pairs_make_it_zero(self) -> None:
        nothing = torch.zeros(0, dtype=torch.long)
        nobody = Rows.of(torch.zeros(0, 0))
        pairs = Pairs(Rows.of(torch.zeros(6, 0)), nobody, nothing, nothing, torch.zeros(0))
        assert self.component()(normal(6, 8), torch.zeros(0, 8), pairs) == 0

    def test_no_rows_make_it_zero(self) -> None:
        p = torch.zeros(0, 8, requires_grad=True)
        loss = self.component()(p, torch.zeros(0, 8), Pairs.diagonal(0, weight=[]))
        loss.backward()
        assert loss == 0

    def test_permuting_the_pairs_changes_nothing(self) -> None:
        p, t, pairs = self.case()
        order = torch.tensor([3, 1, 8, 0, 2, 7, 5, 6, 4])
        shuffled = replace(pairs, i=pairs.i[order], j=pairs.j[order], weight=pairs.weight[order])
        loss = self.component()
        torch.testing.assert_close(loss(p, t, shuffled), loss(p, t, pairs))

    def test_renumbering_the_rows_changes_nothing(self) -> None:
        p, t, pairs = self.case()
        order = torch.tensor([4, 2, 0, 5, 1, 3])
        place = torch.argsort(order)
        i, j = place[pairs.i], place[pairs.j]
        renumbered = replace(pairs, prediction=pairs.prediction.at(order), target=pairs.target.at(order), i=i, j=j)
        loss = self.component()
        torch.testing.assert_close(loss(p[order], t[order], renumbered), loss(p, t, pairs))

    def test_halves_of_a_batch_come_to_the_loss_of_the_whole_unless_its_scope_says_that_images_meet(self) -> None:
        loss, p, t = self.component(), normal(8, 8), normal(8, 8, seed=1)
        halves = [loss(p[half], t[half], Pairs.diagonal(4)) for half in torch.arange(8).split(4)]
        is_mean = torch.allclose(torch.stack(halves).mean(), loss(p, t, Pairs.diagonal(8)), rtol=1e-5)
        assert is_mean == (loss.scope is None)

    def test_the_gradient_reaches_the_prediction_and_not_a_detached_target(self) -> None:
        p, t, pairs = self.case()
        p, t = p.requires_grad_(), t.requires_grad_()
        self.component()(p, t.detach(), pairs).backward()
        touched = torch.zeros(6).bool()
        touched[pairs.i] = True
        assert p.grad is not None
        assert p.grad[~touched].eq(0).all()
        assert p.grad[touched].ne(0).any()
        assert t.grad is None

    def test_nothing_is_written(self) -> None:
        loss = self.component()
        before = state_of(loss)
        loss(*self.case())
        assert_same_state(before, loss.state_dict())

    def test_it_can_be_tried_out_before_there_is_data(self) -> None:
        p, t, pairs = blank(self.case())
        with torch.device("meta"):
            loss = self.component()(p.requires_grad_(), t, pairs)
            loss.backward()
        assert loss.shape == ()
