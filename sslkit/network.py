"""A backbone with its heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sslkit.backbones import Backbone
from sslkit.heads import Head
from sslkit.types import Features, View


class Network(nn.Module):
    """A backbone and its heads; every head names its output layers."""

    def __init__(self, backbone: Backbone, heads: Sequence[Head]):
        super().__init__()
        self.backbone = backbone
        self.heads = cast(Sequence[Head], nn.ModuleList(heads))
        names = [name for head in heads for name in head.names]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two heads of the method have an output named {name!r}: rename one")
        self.head_of = {name: i for i, head in enumerate(heads) for name in head.names}

    def forward(
        self,
        views: Sequence[View],
        index: Int[Tensor, " b"],
        *,
        masked: bool = False,
        partner: Int[Tensor, " b"] | None = None,
    ) -> Features:
        """One pass of the backbone for each resolution, views of the same size together.

        Args:
            index: image of each item in the data set.
            masked: hide what the views' masks say; views without one pass by themselves then.
            partner: image that views of source 1 show, where that is another one.
        """
        masks = [v.mask if masked else None for v in views]
        kinds = [
            (v.pixels.shape[-2:], None if mask is None else mask.shape[-1])
            for v, mask in zip(views, masks, strict=True)
        ]
        images: dict[int, Tensor] = {}
        patches: dict[int, Tensor] = {}
        grids: dict[int, tuple[int, int]] = {}
        for kind in dict.fromkeys(kinds):
            chosen = [v for v, k in enumerate(kinds) if k == kind]
            hidden = [mask for v in chosen if (mask := masks[v]) is not None]
            pixels = torch.cat([views[v].pixels for v in chosen])
            image, patch, grid = self.backbone(pixels, torch.cat(hidden)) if hidden else self.backbone(pixels)
            for v, x, y in zip(chosen, image.chunk(len(chosen)), patch.chunk(len(chosen)), strict=True):
                images[v], patches[v], grids[v] = x, y, grid
        order = range(len(views))
        return Features(
            images=tuple(images[v] for v in order),
            patches=tuple(patches[v] for v in order),
            grids=tuple(grids[v] for v in order),
            index=index,
            sources=tuple(v.source for v in views),
            partner=partner,
        )

    def project(self, rows: Float[Tensor, "n d"], output: str) -> Float[Tensor, "n c"]:
        """Rows through the head that has the output layer.

        Raises:
            ValueError: no head has it.
        """
        logits: Tensor = self._head(output)(rows, output)
        return logits

    def width(self, output: str) -> int:
        """Of the rows that `project` makes."""
        return self._head(output).widths[output]

    def _head(self, output: str) -> Head:
        if output not in self.head_of:
            raise ValueError(
                f"head={output!r} is not an output of the method's heads; they have: {', '.join(self.head_of)}"
            )
        return self.heads[self.head_of[output]]

    def output_layers(self) -> Iterator[nn.Parameter]:
        """Parameters of the last layer of every head."""
        for head in self.heads:
            yield from head.outputs.parameters()
