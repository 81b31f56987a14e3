"""Patches hidden from timm's ViTs, by hooks on the parts that these have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Hook = Callable[[nn.Module, Any, Any], Any]


class AllPatches(nn.Module):
    """Stands where rotary ViTs may drop patches: the patches, and None for those that are left."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        return tokens, None


@contextmanager
def hooked(module: nn.Module, hook: Hook) -> Iterator[None]:
    """What the module returns passes through the hook."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def replacing(mask: Bool[Tensor, "b n"], token: Float[Tensor, " d"]) -> Hook:
    """For the patch embedding: the token in the place of every hidden patch."""

    def hook(_module: nn.Module, _given: Any, patches: Tensor) -> Tensor:  # (b, n, d) or (b, h, w, d)
        return torch.where(mask.view(*patches.shape[:-1], 1), token.to(patches.dtype), patches)

    return hook


def keeping(kept: Int[Tensor, "b k"], n_prefix: int) -> Hook:
    """For where patches may be dropped, behind their positions: only some go on."""

    def hook(_module: nn.Module, _given: Any, out: Any) -> Any:
        tokens: Tensor = out[0] if isinstance(out, tuple) else out
        index = kept[..., None].expand(-1, -1, tokens.shape[2])
        some = torch.cat([tokens[:, :n_prefix], tokens[:, n_prefix:].gather(1, index)], dim=1)
        return (some, kept) if isinstance(out, tuple) else some

    return hook


def kept(mask: Bool[Tensor, "b n"]) -> Int[Tensor, "b k"]:
    """The patches that are not hidden, in their order.

    Raises:
        ValueError: images keep different numbers of patches.
    """
    least = most = mask.shape[1]  # without values it cannot be known
    if not mask.is_meta:
        least, most = torch.stack((~mask).sum(dim=1).aminmax()).tolist()
    if least != most:
        raise ValueError(
            f"with mask='drop' images that pass together must keep the same number of patches, but {least} to {most} "
            f"are kept: hide the same number in each (maskings.Random), or set Timm.mask = 'token'"
        )
    return mask.int().argsort(dim=1, stable=True)[:, :least]


def at_their_places(patches: Float[Tensor, "b k d"], kept: Int[Tensor, "b k"], n: int) -> Float[Tensor, "b n d"]:
    """All `n` patches of the grid, zeros for those that were not kept."""
    b, _, d = patches.shape
    return patches.new_zeros(b, n, d).scatter(1, kept[..., None].expand(-1, -1, d), patches)
