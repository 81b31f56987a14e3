"""What a protocol file binds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sslkit.registry import entry


@entry()
def evaluation(*, protocol: Callable[..., dict[str, Any]]) -> None:
    """`evaluation.protocol = @evaluate.DenseRetrieval()`: what `sslkit evaluate` calls with a run's backbone."""
