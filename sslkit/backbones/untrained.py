"""A network before training, as it is fair to evaluate it."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sslkit.batch_norm import BatchNorm

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def with_statistics(network: M, pixels: Float[Tensor, "b 3 h w"]) -> M:
    """The network itself if it has no BatchNorm, else a copy whose statistics are those of the given images.

    A random network evaluated with the statistics that BatchNorm starts with (mean 0, variance 1) is worse than it need
    be, which flatters whatever is compared with it.
    """
    if not any(isinstance(m, BatchNorm) for m in network.modules()):
        return network
    network = copy.deepcopy(network)
    before = [(m, m.training, m.momentum) for m in network.modules() if isinstance(m, BatchNorm)]
    for module, _, _ in before:
        module.reset_running_stats()
        module.momentum = None  # a plain average
        module.train()
    network(pixels)
    for module, mode, momentum in before:
        module.train(mode)
        module.momentum = momentum
    return network
