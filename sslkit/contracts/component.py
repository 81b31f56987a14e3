"""What a component of any role keeps to."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytest
import torch
from torch import nn

from sslkit.component import Component
from sslkit.registry import components
from sslkit.schedules import Time

C = TypeVar("C")


class ComponentContract(Generic[C]):
    """Base of the contracts. A subclass writes `make`; the tests ask for `component()`."""

    role: ClassVar[str]  # as in the registry
    folder: Path  # empty at the start of each test, for components that read files

    @pytest.fixture(autouse=True)
    def in_a_folder_of_its_own(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self) -> C:
        """A small component, built anew at each call with the same arguments."""
        raise NotImplementedError

    def component(self) -> C:
        """What `make` makes, ready for use, the same at every call."""
        torch.manual_seed(0)
        return self.make()

    def test_it_is_registered_in_its_role(self) -> None:
        cls = type(self.component())
        assert components(self.role).get(cls.__name__) is cls

    def test_its_first_line_says_what_comes_out(self) -> None:
        first = (type(self.component()).__doc__ or "").split("\n\n")[0].strip()
        assert first.endswith((".", ":")), first

    def test_it_annotates_its_parameters_and_takes_no_others(self) -> None:
        parameters = inspect.signature(type(self.component())).parameters.values()
        assert [p.name for p in parameters if p.annotation is inspect.Parameter.empty] == []
        assert [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)] == []  # would swallow typos

    def test_every_parameter_has_a_default_of_its_own_that_no_call_can_change(self) -> None:
        for p in inspect.signature(type(self.component())).parameters.values():
            assert not isinstance(p.default, (list, dict, set, torch.Tensor, nn.Module)), p.name

    def test_it_can_be_pickled(self) -> None:
        made: Any = self.component()
        again = pickle.loads(pickle.dumps(made))
        assert type(again) is type(made)
        if isinstance(made, nn.Module):
            assert_same_state(made.state_dict(), again.state_dict())

    def test_it_can_be_copied(self) -> None:
        made: Any = self.component()
        again = copy.deepcopy(made)
        assert again is not made
        if isinstance(made, nn.Module):
            assert_same_state(made.state_dict(), again.state_dict())
            places = {x.data_ptr() for x in made.state_dict().values() if isinstance(x, torch.Tensor)}
            copied = {x.data_ptr() for x in again.state_dict().values() if isinstance(x, torch.Tensor)}
            assert not (places & copied) - {0}

    def test_setting_the_time_changes_no_saved_state(self) -> None:
        made = self.component()
        if isinstance(made, Component):
            before = state_of(made)
            made.set_time(Time(3, 10, 2))
            assert_same_state(before, made.state_dict())


def state_of(module: nn.Module) -> dict[str, Any]:
    """What a checkpoint would hold now."""
    return copy.deepcopy(module.state_dict())


def assert_same_state(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> None:
    assert before.keys() == after.keys()
    for name, x in before.items():
        if isinstance(x, Mapping):
            assert_same_state(x, after[name])
        else:
            assert torch.equal(x, after[name]) if isinstance(x, torch.Tensor) else x == after[name], name
