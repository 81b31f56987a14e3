"""What all aligners share."""

from __future__ import annotations

from typing import ClassVar, Literal

from sslkit.component import Component
from sslkit.types import Pairs, Step

Reads = Literal["images", "patches", "regions"]


class Aligner(Component):
    """Decides which row is compared with which, and how much each pair counts. Stateless, and copies nothing."""

    reads: ClassVar[Reads] = "images"  # which of the student's rows it compares, for those who draw or describe it
    targets: ClassVar[Reads | None] = None  # which of the teacher's; None: what it reads, or what its search looks for
    search: str | None = None  # of the method, whose matches it uses

    def forward(self, step: Step) -> Pairs:
        raise NotImplementedError
