"""What evaluation protocols keep to."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.contracts.component import ComponentContract, assert_same_state, state_of
from sslkit.contracts.inputs import DIM


class Squares(nn.Module):
    """A backbone for any image of 32 x 32 pixels or more: one vector per square of 16, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 16, stride=16)
        self.norm = nn.BatchNorm2d(DIM)
        self.dim = DIM

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        x: Tensor = self.norm(self.patch(pixels))
        return x.mean(dim=(2, 3)), x.flatten(2).mT, (x.shape[2], x.shape[3])


class EvaluationContract(ComponentContract[Any]):
    """Numbers for a backbone that stays as it was; a run does not differ by being evaluated."""

    role = "evaluate"

    def make(self) -> Any:
        """A protocol over a few images of 32 pixels or more, for a backbone of width 5 with patches of 16 pixels."""
        raise NotImplementedError

    def backbone(self) -> nn.Module:
        torch.manual_seed(1)
        return Squares()

    def test_its_answer_is_numbers_by_name_that_json_can_hold(self) -> None:
        answer = self.component()(self.backbone(), "cpu")
        assert answer
        assert all(isinstance(name, str) for name in answer)
        assert json.loads(json.dumps(answer)) == answer

    def test_asked_again_it_answers_the_same(self) -> None:
        protocol, backbone = self.component(), self.backbone()
        first = protocol(backbone, "cpu")
        torch.manual_seed(7)
        assert protocol(backbone, "cpu") == first

    def test_the_backbone_stays_as_it_was(self) -> None:
        for training in (True, False):
            backbone = self.backbone().train(training)
            before = state_of(backbone)
            self.component()(backbone, "cpu")
            assert_same_state(before, backbone.state_dict())
            assert all(module.training == training for module in backbone.modules())
            assert all(p.requires_grad and p.grad is None for p in backbone.parameters())

    def test_the_generator_of_torch_stays_where_it_was(self) -> None:
        protocol, backbone = self.component(), self.backbone()
        before = torch.get_rng_state()
        protocol(backbone, "cpu")
        assert torch.equal(torch.get_rng_state(), before)
