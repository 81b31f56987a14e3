"""What heads keep to."""

from __future__ import annotations

import torch

from sslkit.batch_norm import BatchNorm
from sslkit.contracts.component import ComponentContract
from sslkit.contracts.inputs import DIM, normal
from sslkit.heads import Head


class HeadContract(ComponentContract[Head]):
    """Scores of rows through each of its named outputs, with a gradient to all that is trained."""

    role = "heads"

    def make(self) -> Head:
        """A head with two outputs; for rows of which width, it is told by `build`."""
        raise NotImplementedError

    def component(self) -> Head:
        head = super().component()
        head.build(DIM)
        return head

    def test_it_scores_rows_for_each_of_its_outputs(self) -> None:
        head = self.component()
        for output in head.names:
            scores = head(normal(3, DIM), output)
            assert scores.shape == (3, head.widths[output])
            assert scores.isfinite().all()

    def test_the_gradient_reaches_the_rows_and_the_parameters(self) -> None:
        head, rows = self.component(), normal(3, DIM).requires_grad_()
        for output in head.names:
            (head(rows, output) ** 2).sum().backward()
        assert rows.grad is not None
        assert (rows.grad.abs().sum(dim=1) > 0).all()
        assert all(p.grad is not None for p in head.parameters() if p.requires_grad)

    def test_rows_meet_in_batch_norm_alone_unless_its_scope_says_so(self) -> None:
        head, rows = self.component().train(), normal(6, DIM)
        has_norm = any(isinstance(module, BatchNorm) for module in head.modules())
        for output in head.names:
            parts = torch.cat([head(half, output) for half in rows.split(3)])
            is_same = torch.allclose(parts, head(rows, output), rtol=1e-4, atol=1e-6)
            assert is_same == (head.scope is None and not has_norm)

    def test_it_draws_in_training_only_if_it_says_so(self) -> None:
        head, rows, made = self.component().train(), normal(6, DIM), []
        for seed in (0, 1):
            torch.manual_seed(seed)
            made.append(head(rows, head.names[0]))
        assert torch.equal(*made) == (not head.draws)

    def test_it_can_be_built_for_another_width(self) -> None:
        head = self.component()
        head.build(9)
        assert head(normal(2, 9), head.names[0]).shape[0] == 2

    def test_its_last_layers_are_where_a_method_freezes_them(self) -> None:
        head = self.component()
        assert set(head.outputs) == set(head.names)

    def test_it_can_be_tried_out_before_there_is_data(self) -> None:
        with torch.device("meta"):
            head = self.component()
            for output in head.names:
                assert head(torch.ones(3, DIM), output).shape[0] == 3
