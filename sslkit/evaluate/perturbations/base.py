"""What all perturbations share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit import draws
from sslkit.evaluate.base import Backbone

Classify = Callable[[Tensor], Tensor]  # levels (b, 3, h, w) to scores (b, c), with a gradient where one is asked for


@dataclass(frozen=True, eq=False)
class Shown:
    """Images as they are classified, before anything is done to them."""

    levels: Float[Tensor, "b 3 h w"]  # from 0 to 1
    truth: Int[Tensor, " b"]  # the true class by its place among the scores; their number where none is
    right: Bool[Tensor, " b"]  # which are classified rightly
    index: Int[Tensor, " b"]  # number of each image in its data set, which keys what is drawn for it
    seed: int

    def uniform(self, n: int, use: str) -> Float[Tensor, "b n"]:
        """`n` numbers in [0, 1) for each image."""
        return draws.uniform(self.seed, 0, self.index, n, use)


class Perturbation:
    """Images to images of the same size with levels from 0 to 1, of every kind at every strength.

    What becomes of an image follows from itself, its number and the seed; not from the others of its batch.
    """

    kinds: Sequence[str]
    strengths: Sequence[float]

    def __call__(self, shown: Shown, kind: str, strength: float, classify: Classify) -> Float[Tensor, "b 3 h w"]:
        raise NotImplementedError

    def check(self, backbone: Backbone, image_size: int) -> None:
        """Refuse with a ValueError, before the run, a backbone with which it cannot work."""
