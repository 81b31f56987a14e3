"""The most similar entry, when it is similar enough."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.matchers.chooser import Chooser, others
from sslkit.parameters import Within
from sslkit.registry import register


@register("matchers")
class Threshold(Chooser):
    """The nearest entry in the query's own plane, kept when its similarity is at least `least`.

    As a partner it is the best candidate other than the image itself, if its score is at least that.

    Args:
        least: cosine similarity.

    Example:
        >>> index, score = torch.tensor([[0, 7], [7, 1]]), torch.tensor([[0.95, 0.75], [0.85, 0.84]])
        >>> Threshold(least=0.8).choose(index, score, own=torch.arange(2), chance=torch.zeros(2))
        tensor([0, 7])
    """

    def __init__(self, *, least: Annotated[float, Within(-1, 1)]):
        super().__init__()
        self.least = least

    def choose(
        self,
        index: Int[Tensor, "n k"],
        score: Float[Tensor, "n k"],
        own: Int[Tensor, " n"],
        chance: Float[Tensor, " n"],
    ) -> Int[Tensor, " n"]:
        index, score = others(index, score, own)
        return torch.where(score[:, 0] >= self.least, index[:, 0], own)
