"""Patches hidden one by one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from sslkit.maskings.base import Masking, patches_per_side
from sslkit.parameters import Count, Share
from sslkit.registry import register


@register("maskings")
class Random(Masking):
    """Exactly round(share * n) of the n patches of every view, each set of them equally likely.

    Args:
        patch_size: pixels of a side of the backbone's patches.

    Source: MSN (arXiv:2204.07141), MAE (arXiv:2111.06377).

    Example:
        >>> int(Random(patch_size=16, share=0.25)(64, np.random.default_rng(0)).sum())
        4
    """

    def __init__(self, patch_size: Count = 16, share: Share = 0.3):
        self.patch_size, self.share = patch_size, share

    def __call__(self, size: int, rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
        n = patches_per_side(size, self.patch_size) ** 2
        hidden = np.zeros(n, dtype=bool)
        hidden[rng.permutation(n)[: round(self.share * n)]] = True
        return hidden
