"""What all maskings share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool


class Masking:
    """The size of a square view to its mask, as the generator decides: True where a patch is hidden, row-major."""

    def __call__(self, size: int, rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
        raise NotImplementedError


def patches_per_side(size: int, patch_size: int) -> int:
    """Whole patches beside one another in a view of `size` pixels.

    Raises:
        ValueError: there is none.
    """
    if size < patch_size:
        raise ValueError(f"patch_size={patch_size}, but a view has only {size} pixels")
    return size // patch_size
