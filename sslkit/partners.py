"""Which other image supplies the second source of each training item, drawn once per epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sslkit import distributed, draws
from sslkit.component import Component
from sslkit.matchers import Chooser
from sslkit.memories import PerImage
from sslkit.parameters import Count
from sslkit.registry import joint
from sslkit.types import Outcome, Queries


@joint
class Partners(Component):
    """A partner for every image of the data set, or the image itself, chosen among its neighbours of the last epochs.

    Views whose crop has `source=1` show the partner. Partners of an epoch are drawn before it is loaded, from what the
    teacher saw in the epochs before, and do not change within it.

    Args:
        memory: holds the latest vector of every image and the neighbours that each had.
        matcher: chooses among them.
        start_epoch: before it every image is its own partner; the first epoch for which the memory's window is full, if
            left out.

    Source: AdaSim (arXiv:2303.13606).
    """

    memory: PerImage
    matcher: Chooser
    table: Int[Tensor, " n"]
    label: Int[Tensor, " n"]

    def __init__(self, *, memory: PerImage, matcher: Chooser, start_epoch: Count | None = None):
        super().__init__()
        if memory.n_neighbours < 2:
            raise ValueError("memory.n_neighbours=1, but then an image that leads its neighbours has no other one")
        first = memory.warmup_epochs + 1
        if start_epoch is not None and start_epoch < first:
            raise ValueError(
                f"start_epoch={start_epoch}, but neighbours of the first warmup_epochs={memory.warmup_epochs} do not "
                f"count, so epoch {first} is the first that has any"
            )
        self.memory, self.matcher = memory, matcher
        self.start_epoch = memory.warmup_epochs + memory.window if start_epoch is None else start_epoch
        self.epoch = -1  # whose partners the table holds
        self.report: dict[str, float] = {}

    def make_room(self, n_images: int, folder: Path | None) -> None:
        """Make the tables for a data set of that size; finished epochs are kept in the folder, if one is given."""
        self.memory.make_room(n_images, folder)
        own = torch.arange(n_images)
        self.register_buffer("table", own)
        self.register_buffer("label", torch.full_like(own, -1))  # seen so far, to watch how far partners agree

    @torch.no_grad()
    def draw(self, epoch: int, *, seed: int, needed: int) -> Int[Tensor, " n"]:
        """The partner of every image in that epoch; the epoch before is finished by that.

        Args:
            needed: the oldest epoch that a kept checkpoint may go on from; the history reaches back from there.
        """
        if epoch == self.epoch:  # a run goes on in the middle of it
            distributed.on_main(lambda: self.memory.refuse_missing(epoch))  # now, not when the epoch ends
        else:
            if epoch > 0:
                self.memory.finish(epoch - 1, needed=needed)
            found = distributed.on_main(lambda: self._choose(epoch, seed))
            table, self.report = (self.table.cpu(), {}) if found is None else found
            self.table.copy_(table)
            self.epoch = epoch
            distributed.broadcast(self.table)
        return self.table.cpu()

    def _choose(self, epoch: int, seed: int) -> tuple[Int[Tensor, " n"], dict[str, float]]:
        own = torch.arange(len(self.table))
        if epoch <= self.memory.warmup_epochs:
            return own, {}
        candidates = self.memory.candidates(epoch)
        leads = candidates.index[:, 0] == own
        other = candidates.index[:, :2].gather(1, leads.long()[:, None])[:, 0]
        table = own
        if epoch >= self.start_epoch:
            chance = draws.uniform(seed, epoch, own, 1, "partner")[:, 0]
            table = self.matcher.choose(candidates.index, candidates.score, own, chance)
        moved = table != own
        return table, {
            "partners/self_first": leads.double().mean().item(),
            "partners/bootstrapped": moved.double().mean().item(),
            **self._agreement("partners/neighbour_label", own, other),
            **self._agreement("partners/partner_label", own[moved], table[moved]),
        }

    def _agreement(self, name: str, here: Int[Tensor, " m"], there: Int[Tensor, " m"]) -> dict[str, float]:
        """Share of equal labels among those known; nothing where none is."""
        label = self.label.cpu()
        keep = there >= 0
        a, b = label[here[keep]], label[there[keep]]
        known = (a >= 0) & (b >= 0)
        return {name: (a == b)[known].double().mean().item()} if known.any() else {}

    @torch.no_grad()
    def update(self, outcomes: list[Outcome]) -> None:
        steps = [outcome.step for outcome in outcomes]
        self.memory.push(Queries.joined([Queries.of_images(step.batch, step.teacher) for step in steps]))
        labels = [step.batch.label for step in steps]
        known = [label for label in labels if label is not None]
        if len(known) == len(steps):
            images = distributed.gather(torch.cat([step.batch.index for step in steps]))
            self.label[images] = distributed.gather(torch.cat(known))

    def get_extra_state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "report": self.report}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.epoch, self.report = state["epoch"], state["report"]
