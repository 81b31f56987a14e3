"""What all aligners share."""

from __future__ import annotations

from sslkit.component import Component
from sslkit.types import Pairs, Step


class Aligner(Component):
    """Decides which row is compared with which, and how much each pair counts. Stateless, and copies nothing."""

    def forward(self, step: Step) -> Pairs:
        raise NotImplementedError
