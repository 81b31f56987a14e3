"""Embeddings of vectors, which a student's predictor carries on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal, Self

from jaxtyping import Float
from torch import Tensor, nn

from sslkit.heads.base import Head
from sslkit.heads.chunks import through
from sslkit.parameters import Count, Name
from sslkit.registry import register

Norm = Literal["none", "plain", "affine"]


@register("heads")
class Projector(Head):
    """A shared MLP with one of several named output layers behind it, and for the student a predictor behind that.

    Every linear layer but the last is followed by BatchNorm and ReLU. A teacher has no predictors.

    Args:
        outputs: width of each output layer, by the name that terms call it.
        dim: width of the rows that come in; a method fills it in when it is left out.
        hidden: width inside the projector.
        n_layers: linear layers of the projector, its output layer included.
        end_norm: BatchNorm after the output layer: `"plain"` without scale and shift, `"affine"` with them.
        predictor_hidden: width inside the predictor, which has two layers; no predictor if left out.
        predictor_end_norm: the same of the predictor.
        rows_at_a_time: rows that pass together, for heads that see every position of an image: the numbers are the
            same, hidden layers take the memory of so many rows, and the head takes two to four times as long, the more
            BatchNorm it has. All rows at once if left out.

    Source: BYOL (arXiv:2006.07733), 2 layers, 4096 wide, and a predictor alike; SimSiam (arXiv:2011.10566), 3 layers,
    `end_norm="plain"` and a narrow predictor; MoCo v3 (arXiv:2104.02057), for ViTs `"plain"` at both ends. Deliberate
    difference: a linear layer before BatchNorm has no bias, which the norm would take off again.

    Example:
        >>> head = Projector({"image": 4}, dim=6, hidden=8, predictor_hidden=8)
        >>> import torch
        >>> head(torch.randn(3, 6), "image").shape
        torch.Size([3, 4])
    """

    scores: ClassVar[bool] = False

    def __init__(
        self,
        outputs: Mapping[Name, Count],
        *,
        dim: Count | None = None,
        hidden: Count = 4096,
        n_layers: Count = 2,
        end_norm: Norm = "none",
        predictor_hidden: Count | None = None,
        predictor_end_norm: Norm = "none",
        rows_at_a_time: Count | None = None,
    ):
        super().__init__()
        if not outputs:
            raise ValueError("outputs={}, but it must have at least one output layer")
        if predictor_hidden is None and predictor_end_norm != "none":
            raise ValueError(f"predictor_end_norm={predictor_end_norm!r}, but without predictor_hidden there is none")
        self.widths = dict(outputs)
        self.hidden, self.n_layers, self.end_norm = hidden, n_layers, end_norm
        self.predictor_hidden, self.predictor_end_norm = predictor_hidden, predictor_end_norm
        self.rows_at_a_time = rows_at_a_time
        if dim is not None:
            self.build(dim)

    def build(self, dim: int) -> None:
        widths = [dim, *[self.hidden] * (self.n_layers - 1)]
        self.trunk = nn.Sequential(*(_hidden(n_in, n_out) for n_in, n_out in pairwise(widths)))
        self.outputs = nn.ModuleDict({name: _end(widths[-1], n, self.end_norm) for name, n in self.widths.items()})
        self.predictors = nn.ModuleDict()
        if self.predictor_hidden is not None:
            for name, n in self.widths.items():
                inside = _hidden(n, self.predictor_hidden)
                self.predictors[name] = nn.Sequential(inside, _end(self.predictor_hidden, n, self.predictor_end_norm))

    def without_predictor(self) -> Self:
        self.predictors = nn.ModuleDict()
        return self

    def forward(self, rows: Float[Tensor, "n d"], output: str) -> Float[Tensor, "n c"]:
        embedding = through([self.trunk, self.outputs[output]], rows, self.rows_at_a_time)
        if output in self.predictors:  # by itself: its input is narrow, and passes up to its norms need not begin again
            embedding = through([self.predictors[output]], embedding, self.rows_at_a_time)
        return embedding


def _hidden(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU())


def _end(n_in: int, n_out: int, norm: Norm) -> nn.Module:
    if norm == "none":
        return nn.Linear(n_in, n_out)
    return nn.Sequential(nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out, affine=norm == "affine"))
