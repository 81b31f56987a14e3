"""How long a run is, and what is refused because in so long a run nothing would come of it."""

from __future__ import annotations

from dataclasses import dataclass

from sslkit.augmenters import Augmenter
from sslkit.errors import ConfigError
from sslkit.loader import steps_per_epoch
from sslkit.method import Method, refuse_unlearnt
from sslkit.schedules import Time

LOOKS, EPOCHS = 200, 2000  # at a run


@dataclass(frozen=True)
class Plan:
    """How long a run is: optimiser steps, how many of them pass over the data once, images of each over all ranks."""

    n_steps: int
    per_epoch: int
    step_size: int

    def at(self, step: int) -> Time:
        return Time(step, self.n_steps, self.per_epoch, self.step_size)

    def moments(self) -> list[Time]:
        """Steps spread over the run, and the first and last of epochs, where what holds for epochs changes.

        To look at all would take long; of more than `EPOCHS` epochs not all ends are looked at.
        """
        spread = {round(i * (self.n_steps - 1) / LOOKS) for i in range(LOOKS + 1)}
        every = -(-self.n_steps // (self.per_epoch * EPOCHS))
        starts = set(range(0, self.n_steps, self.per_epoch * every))
        return [self.at(step) for step in sorted(spread | starts | {step - 1 for step in starts if step})]


def plan(
    method: Method,
    n_images: int,
    *,
    batch_size: int,
    accumulate: int,
    n_epochs: int | None,
    n_steps: int | None,
    n_ranks: int,
) -> Plan:
    """The length of a run on so many ranks.

    Raises:
        ConfigError: the data do not fill one step, or a term or an output layer would never be trained.
    """
    step_size = batch_size * n_ranks * accumulate
    per_epoch = steps_per_epoch(n_images, step_size)
    if (n_epochs is None) == (n_steps is None):
        raise ConfigError(f"n_epochs={n_epochs}, n_steps={n_steps}: give the length of the run in one of the two")
    n_steps = n_steps if n_steps is not None else int(n_epochs or 0) * per_epoch
    _refuse_idle(method, n_steps, per_epoch)
    return Plan(n_steps, per_epoch, step_size)


def refuse_sources(method: Method, augmenter: Augmenter) -> None:
    """Refuse views of a partner where none is drawn, and partners that no view shows.

    Raises:
        ConfigError: naming both.
    """
    n = augmenter.n_sources
    if n > 2:
        raise ConfigError(f"a view has source={n - 1}, but an item has an image (source=0) and its partner (source=1)")
    if n == 2 and method.partners is None:
        raise ConfigError("a view has source=1, the partner of an image, but the method draws none (Method.partners)")
    if method.partners is None:
        return
    if n == 1:
        raise ConfigError("the method draws partners (Method.partners), but no view shows one (Crop.source=1)")
    if method.partners.memory.view == "second" and augmenter.n_global < 2:
        raise ConfigError(f"view='second' is kept of each image, but there are {augmenter.n_global} global views")
    if augmenter.sources[0] != 0:
        raise ConfigError(
            "the first view has source=1, the partner, but it is the view by which an image is known "
            "(Method.partners): give source=1 to another one"
        )


def refuse_untrained(method: Method, length: Plan) -> None:
    """Refuse a run in which a step, of those looked at, has no term that counts: there would be no gradient.

    Nor may what the teacher's rows pass be trained by terms alone that never count.

    Raises:
        ConfigError: naming the step and the terms, or the output layer.
    """
    counting = set[str]()
    for time in length.moments():
        counts = {name for name, term in method.terms.items() if term.counts_at(time)}
        counting |= counts
        if not counts:
            raise ConfigError(
                f"no term counts at step {time.step} of {length.n_steps}, where all ({', '.join(method.terms)}) have "
                f"weight 0 or have not started: let one of them count from the start to the end"
            )
    terms = {name: term for name, term in method.terms.items() if name in counting}
    try:
        refuse_unlearnt(method.student.heads, terms, method.searches)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _refuse_idle(method: Method, n_steps: int, per_epoch: int) -> None:
    """Refuse terms and partners that the run ends before, and output layers that it never trains."""
    for name, term in method.terms.items():
        starts = term.first_step(n_steps, per_epoch)
        if starts >= n_steps:
            raise ConfigError(
                f"term {name!r} would start with step {starts} (start_epoch={term.start_epoch}, "
                f"start_step={term.start_step}, start_fraction={term.start_fraction}, {per_epoch} steps an epoch), "
                f"but the run has {n_steps} steps: take more, or let it start earlier"
            )
    if method.partners is not None and method.partners.start_epoch * per_epoch >= n_steps:
        raise ConfigError(
            f"partners would be drawn from start_epoch={method.partners.start_epoch} on (the memory's "
            f"window={method.partners.memory.window} if left out), but the run has {n_steps} steps, {per_epoch} an "
            f"epoch: take more, or let them start earlier"
        )
    if method.freeze_outputs_epochs * per_epoch >= n_steps:
        raise ConfigError(
            f"freeze_outputs_epochs={method.freeze_outputs_epochs} of {per_epoch} steps, but the run has {n_steps}: "
            f"take more, or freeze fewer epochs"
        )
