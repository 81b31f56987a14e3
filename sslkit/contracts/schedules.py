"""What schedules keep to."""

from __future__ import annotations

import copy

import torch

from sslkit.contracts.component import ComponentContract
from sslkit.schedules import Schedule, Time


class ScheduleContract(ComponentContract[Schedule]):
    """A finite number that the time alone decides."""

    role = "schedules"

    def make(self) -> Schedule:
        """A schedule for runs of any length."""
        raise NotImplementedError

    def test_it_is_a_finite_number_at_each_moment_and_a_function_of_the_time_alone(self) -> None:
        schedule = self.component()
        moments = [Time(step, 12, 3, 64) for step in range(14)]
        forwards = [schedule(t) for t in moments]
        backwards = [schedule(t) for t in reversed(moments)]
        assert forwards == backwards[::-1]
        assert torch.tensor(forwards).isfinite().all()

    def test_it_has_a_value_before_any_run_is_known(self) -> None:
        assert isinstance(self.component()(Time()), float)

    def test_asking_changes_nothing(self) -> None:
        schedule = self.component()
        before = copy.deepcopy(vars(schedule))
        schedule(Time(5, 12, 3))
        assert vars(schedule) == before
