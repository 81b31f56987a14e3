"""Small functions for what gin lacks: joining dicts and lists, arithmetic, and one object in several places.

What depends on the run itself (its length, its batch size over all ranks) is for schedules, which know it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sslkit.registry import helper


@helper
def merge(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One dict out of several, such as a base's terms and a hybrid's own.

    Raises:
        ValueError: two parts have the same key.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key in merged:
                raise ValueError(f"two parts have the key {key!r}")
            merged[key] = value
    return merged


@helper
def concatenate(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """One list out of several, such as a base's crops and more of them."""
    return [item for part in parts for item in part]


@helper
def product(factors: Sequence[float]) -> float:
    """The numbers multiplied; whole if all of them are."""
    return math.prod(factors)


@helper
def total(parts: Sequence[float]) -> float:
    """The numbers added; whole if all of them are."""
    return sum(parts)


@helper
def singleton(constructor: Any) -> Any:
    """One object for every place that asks for it by the same scope, where gin would make one for each.

    `@trunk/singleton()` with `trunk/singleton.constructor = @heads.Prototypes`, without parentheses.
    """
    return constructor
