"""Patches hidden in blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from sslkit.maskings.base import Masking, patches_per_side
from sslkit.parameters import Count, Positive, Share, refuse_unordered
from sslkit.registry import register


@register("maskings")
class Blocks(Masking):
    """With probability p, rectangles that together hide a share of the view drawn from a range; else nothing.

    A rectangle takes a share of the view between `smallest`, or what is left to hide if that is less, and what is left,
    and is put anywhere over a patch that is still seen. The last is cut where the number is reached.

    Args:
        patch_size: pixels of a side of the backbone's patches.
        share: range of the share of hidden patches.
        p: probability that anything is hidden.
        aspect: range of a rectangle's height / width, log-uniform.
        smallest: share of the view.

    Source: BEiT (arXiv:2106.08254) as in iBOT (arXiv:2111.07832), whose settings for two global views are the defaults.
    Deliberate differences: exactly round(share * n) patches are hidden, where the authors' program stops short once ten
    rectangles in a row do not fit; no rectangle is drawn in vain; one as high or as wide as the view is allowed.

    Example:
        >>> Blocks(patch_size=16, share=(0.5, 0.5), p=1.0)(64, np.random.default_rng(0)).reshape(4, 4).sum()
        np.int64(8)
    """

    def __init__(
        self,
        patch_size: Count = 16,
        share: Sequence[Share] = (0.1, 0.5),
        p: Share = 0.5,
        *,
        aspect: Sequence[Positive] = (0.3, 1 / 0.3),
        smallest: Share = 0.08,
    ):
        refuse_unordered(share=share, aspect=aspect)
        self.patch_size, self.share, self.p, self.smallest = patch_size, tuple(share), p, smallest
        self.aspect = tuple(aspect)

    def __call__(self, size: int, rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
        side = patches_per_side(size, self.patch_size)
        hidden = np.zeros((side, side), dtype=bool)
        chance, share = rng.random(2).tolist()
        if chance >= self.p:
            return hidden.ravel()
        low, high = self.share
        left = round((low + (high - low) * share) * side**2)
        while left > 0:
            block = hidden[self._block(hidden, left, rng)]
            seen = np.argwhere(~block)[:left]
            block[tuple(seen.T)] = True
            left -= len(seen)
        return hidden.ravel()

    def _block(self, hidden: Bool[np.ndarray, "h w"], left: int, rng: np.random.Generator) -> tuple[slice, slice]:
        """Rows and columns of a rectangle over a patch that is still seen."""
        side = len(hidden)
        area, aspect, over, *place = rng.random(5).tolist()
        least = min(self.smallest * side**2, left)
        area = least + (left - least) * area
        flat, steep = map(math.log, self.aspect)
        ratio = math.exp(flat + (steep - flat) * aspect)
        seen = np.flatnonzero(~hidden)
        patch = divmod(int(seen[int(over * len(seen))]), side)
        spans = []
        for at, length, where in zip(patch, (math.sqrt(area * ratio), math.sqrt(area / ratio)), place, strict=True):
            length = min(max(1, round(length)), side)
            first, last = max(0, at - length + 1), min(at, side - length)
            start = first + int(where * (last - first + 1))
            spans.append(slice(start, start + length))
        return spans[0], spans[1]
