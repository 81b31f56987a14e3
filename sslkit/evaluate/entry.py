"""What a protocol file binds."""

from __future__ import annotations

from sslkit.evaluate.base import Evaluation
from sslkit.registry import entry


@entry()
def evaluation(*, protocol: Evaluation) -> None:
    """`evaluation.protocol = @evaluate.DenseRetrieval()`: what `sslkit evaluate` calls with a run's backbone."""
