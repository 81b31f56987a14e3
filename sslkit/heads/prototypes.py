"""Scores of vectors against learned prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sslkit.heads.base import Head
from sslkit.heads.chunks import through
from sslkit.parameters import Count, Name, Within
from sslkit.registry import register


class WeightNorm(nn.Module):
    """A linear layer without bias whose rows are `magnitude * direction / |direction|`.

    `weight_g` (out, 1) and `weight_v` (out, in) bear the names of the authors' checkpoints.
    """

    def __init__(self, dim: int, n_out: int, *, learn_magnitude: bool):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(n_out, 1), requires_grad=learn_magnitude)
        self.weight_v = nn.Parameter(nn.init.trunc_normal_(torch.empty(n_out, dim), std=0.02))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=-1))


@register("heads")
class Prototypes(Head):
    """A shared MLP, l2-normalised, scored against the prototypes of one of several named output layers.

    Args:
        outputs: number of prototypes of each output layer, by the name that terms call it; or the name of another,
            whose prototypes it shares. Each is centred by itself all the same.
        dim: width of the rows that come in; a method fills it in when it is left out.
        hidden, bottleneck: widths inside the MLP and at its end.
        n_layers: linear layers of the MLP.
        batch_norm: BatchNorm after every hidden linear layer.
        learn_magnitude: train the length of each prototype; otherwise it stays 1 (`norm_last_layer` of the authors).
        rows_at_a_time: rows that pass the MLP together, as of `Projector`; all at once if left out.

    Source: DINO (arXiv:2104.14294); two output layers on one trunk as in CrIBo (arXiv:2310.07855), shared prototypes as
    in iBOT (arXiv:2111.07832).

    Example:
        >>> head = Prototypes({"image": 8, "region": 4}, dim=6, hidden=16, bottleneck=5)
        >>> head(torch.randn(3, 6), "region").shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        outputs: Mapping[Name, Annotated[int, Within(least=2)] | str],
        *,
        dim: Count | None = None,
        hidden: Count = 2048,
        bottleneck: Count = 256,
        n_layers: Count = 3,
        batch_norm: bool = False,
        learn_magnitude: bool = False,
        rows_at_a_time: Count | None = None,
    ):
        super().__init__()
        if not outputs:
            raise ValueError("outputs={}, but it must have at least one output layer")
        self.hidden, self.bottleneck, self.n_layers, self.batch_norm = hidden, bottleneck, n_layers, batch_norm
        self.learn_magnitude, self.rows_at_a_time = learn_magnitude, rows_at_a_time
        self.owners = _owners(outputs)
        self.n_prototypes = {name: n for name, n in outputs.items() if not isinstance(n, str)}
        self.widths = {name: self.n_prototypes[owner] for name, owner in self.owners.items()}
        if dim is not None:
            self.build(dim)

    def build(self, dim: int) -> None:
        own = {
            name: WeightNorm(self.bottleneck, n, learn_magnitude=self.learn_magnitude)
            for name, n in self.n_prototypes.items()
        }
        self.outputs = nn.ModuleDict({name: own[owner] for name, owner in self.owners.items()})
        widths = [dim, *[self.hidden] * (self.n_layers - 1), self.bottleneck]
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            layers.append(_linear(n_in, n_out))
            if i + 1 < self.n_layers:
                layers += [nn.BatchNorm1d(n_out)] if self.batch_norm else []
                layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers)

    def forward(self, rows: Float[Tensor, "n d"], output: str) -> Float[Tensor, "n c"]:
        scores: Tensor = self.outputs[output](F.normalize(through([self.mlp], rows, self.rows_at_a_time), dim=-1))
        return scores


def _owners(outputs: Mapping[str, int | str]) -> dict[str, str]:
    """Whose prototypes each output layer has.

    Raises:
        ValueError: those of one that has none of its own.
    """
    own = [name for name, n in outputs.items() if not isinstance(n, str)]
    owners = {name: n if isinstance(n, str) else name for name, n in outputs.items()}
    for name, owner in owners.items():
        if owner not in own:
            raise ValueError(
                f"outputs={dict(outputs)}, but {name!r} can only share prototypes that another has of its own; "
                f"there are those of: {', '.join(own) or 'none'}"
            )
    return owners


def _linear(n_in: int, n_out: int) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
