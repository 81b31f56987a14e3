"""The optimiser that methods are given: scheduled rates."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sslkit.optimizer import Optimizer
from sslkit.schedules import Linear, Time


def optimizer_of(**given):
    optimizer = Optimizer(**given)
    optimizer.inner = SimpleNamespace(param_groups=[{}, {}])
    return optimizer


def test_only_the_first_group_decays():
    optimizer = optimizer_of(lr=Linear(1.0, 0.0), weight_decay=0.5)
    optimizer.set_time(Time(1, 3))
    assert optimizer.inner.param_groups == [{"lr": 0.5, "weight_decay": 0.5}, {"lr": 0.5, "weight_decay": 0.0}]


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_rate_that_becomes_negative_is_refused(name):
    optimizer = optimizer_of(**{name: Linear(1.0, -1.0)})
    optimizer.set_time(Time(1, 3))
    with pytest.raises(ValueError, match=f"{name}=-1.0, but it must be at least 0"):
        optimizer.set_time(Time(2, 3))
