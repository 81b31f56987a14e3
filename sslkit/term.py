"""One summand of an objective."""

from __future__ import annotations

from sslkit.aligners import Aligner
from sslkit.component import Component
from sslkit.losses import Loss
from sslkit.parameters import Natural, Share
from sslkit.registry import joint
from sslkit.schedules import Scheduled, Time, at


@joint
class Term(Component):
    """One loss with its pairs, its head and its weight.

    Args:
        head: output layer that both sides of a pair pass; None compares the backbone's rows as they are.
        target_head: output layer of the teacher that targets pass instead, so that rows of another kind or width have a
            head of their own and predict what this one makes.
        weight: factor of the loss in the objective; at 0 the term costs nothing, and nothing knows of it.
        start_epoch, start_step, start_fraction: before the latest of them (the last is a share of the run) the term is
            0 and costs nothing.
    """

    def __init__(
        self,
        *,
        aligner: Aligner,
        loss: Loss,
        head: str | None,
        target_head: str | None = None,
        weight: Scheduled = 1.0,
        start_epoch: Natural = 0,
        start_step: Natural = 0,
        start_fraction: Share = 0.0,
    ):
        super().__init__()
        self.aligner, self.loss, self.head = aligner, loss, head
        self.target_head = head if target_head is None else target_head
        self.start_epoch, self.start_step, self.start_fraction = start_epoch, start_step, start_fraction
        self.given_weight = weight
        self.is_on = self.counts_at(Time())  # no run is known yet
        self.schedule("weight", weight)

    def set_time(self, time: Time) -> None:
        super().set_time(time)
        self.is_on = self.counts_at(time)

    def counts_at(self, time: Time) -> bool:
        """Whether it has begun, with a weight other than 0."""
        has_begun = time.step >= self.first_step(time.n_steps, time.steps_per_epoch)
        return has_begun and at(self.given_weight, time) != 0

    def first_step(self, n_steps: int, per_epoch: int) -> int:
        """The step from which on the term counts, in a run of that length."""
        return max(self.start_epoch * per_epoch, self.start_step, round(self.start_fraction * n_steps))
