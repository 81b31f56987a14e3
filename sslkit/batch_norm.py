"""BatchNorm that takes in the rows of all ranks, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Never

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sslkit import distributed
from sslkit.precision import wide

BatchNorm = nn.modules.batchnorm._BatchNorm  # what all of torch's and timm's are


@dataclass(frozen=True)
class Moments:
    """Of each channel: how many values it has, their mean, and the sum of their squared distances from that.

    So the moments of parts come together without a difference of large numbers.
    """

    count: Float[Tensor, ""]
    mean: Float[Tensor, " c"]
    scatter: Float[Tensor, " c"]

    @staticmethod
    def of(x: Float[Tensor, "n c *p"]) -> Moments:
        """Those of the second axis, without gradient; x may have no rows."""
        x, count = wide(x.detach()), x.numel() // x.shape[1]
        if count == 0:
            nothing = x.new_zeros(x.shape[1])
            return Moments(x.new_zeros(()), nothing, nothing)
        var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        return Moments(x.new_full((), count), mean, count * var)

    @staticmethod
    def joined(parts: Sequence[Moments]) -> Moments:
        """The moments of what several parts hold together."""
        count = torch.stack([part.count for part in parts])
        mean = torch.stack([part.mean for part in parts])
        scatter = torch.stack([part.scatter for part in parts])
        total, weight = count.sum(), count[:, None]  # sums and no products of matrices, which autocast would narrow
        middle = (weight / total.clamp(min=1) * mean).sum(dim=0)
        return Moments(total, middle, (scatter + weight * (mean - middle) ** 2).sum(dim=0))

    def over_ranks(self) -> Moments:
        """The moments of what all ranks hold together: the same on each of them, to the last bit."""
        own = torch.cat([self.count[None], self.mean, self.scatter])
        sizes = [1, len(self.mean), len(self.mean)]
        every = (part.split(sizes) for part in distributed.each(own))
        return Moments.joined([Moments(count[0], mean, scatter) for count, mean, scatter in every])

    @property
    def var(self) -> Float[Tensor, " c"]:
        """By which a layer divides; running statistics keep the unbiased one."""
        return self.scatter / self.count.clamp(min=1)


class SynchronisedBatchNorm(nn.SyncBatchNorm):
    """BatchNorm whose statistics in training are those of all ranks, of which each may bring its own number of rows.

    It differs from torch's in that it runs on the CPU too, with the same numbers, and takes a rank without rows under
    mixed precision. With one process, and in eval mode, it is plain BatchNorm to the last bit.

    What a rank's rows get is the gradient of the sum over ranks of the losses. Weight and bias get what this rank makes
    of it, which `distributed.average_gradients` averages as it does that of all parameters; so they all get that of the
    mean loss. Every rank has to go through forwards and backwards, also one without rows: each is one exchange.

    Raises:
        ValueError: there is a single row over all ranks; torch's kernel on an accelerator does not look.

    Example:
        >>> SynchronisedBatchNorm(3)(torch.randn(4, 3)).shape
        torch.Size([4, 3])
    """

    process_group = None

    def forward(self, x: Float[Tensor, "n c *p"]) -> Float[Tensor, "n c *p"]:
        if not self.training or distributed.world_size() == 1 or x.is_meta:  # one rank rehearses, without the others
            if self.training and x.numel() == x.shape[1]:
                refuse_one_row(x.shape[1])
            return BatchNorm.forward(self, x)
        if x.is_cuda:  # without rows, torch's kernel sends its part in x's own precision, and the others do not
            return super().forward(x if len(x) else wide(x)).to(x.dtype)
        return normalised(x, measured(self, Moments.of(x)), self.weight, self.bias, self.eps)


class SynchronisedBatchNormAct(SynchronisedBatchNorm):
    """The same for timm's layer, whose `drop` and `act` come behind the norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


_SYNCHRONISED: dict[type, type[SynchronisedBatchNorm]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm,
    nn.BatchNorm2d: SynchronisedBatchNorm,
    nn.BatchNorm3d: SynchronisedBatchNorm,
    nn.SyncBatchNorm: SynchronisedBatchNorm,
    BatchNormAct2d: SynchronisedBatchNormAct,
    SyncBatchNormAct: SynchronisedBatchNormAct,
}


def synchronise(network: nn.Module) -> None:
    """Let every BatchNorm of a network, in place, take in the rows of all ranks.

    A layer stays the same object with the same parameters, buffers, mode and hooks, and only changes its class; so its
    state has the same names, and layers that are shared stay so.

    Raises:
        ValueError: a kind of BatchNorm of which it is not known what else it does.
    """
    for name, module in network.named_modules():
        if isinstance(module, BatchNorm) and not isinstance(module, SynchronisedBatchNorm):
            if type(module) not in _SYNCHRONISED:
                raise ValueError(
                    f"batch_norm_scope='all', but {name} is a {type(module).__name__}, which cannot be synchronised: "
                    f"give batch_norm_scope='rank'"
                )
            module.__class__ = _SYNCHRONISED[type(module)]


def measures(norm: BatchNorm) -> bool:
    """Whether a layer normalises by what comes in, and not by its running statistics."""
    return norm.training or norm.running_mean is None


def measured(norm: BatchNorm, moments: Moments) -> Moments:
    """What a layer normalises by that measures rows of these moments on this rank; its running statistics move.

    Raises:
        ValueError: there is a single row, over all ranks if the layer is synchronised.
    """
    if is_synchronised(norm):
        moments = moments.over_ranks()
    n = int(moments.count)
    if n == 1:
        refuse_one_row(len(moments.mean))
    if norm.training and norm.track_running_stats:
        _track(norm, moments, n)
    return moments


def refuse_one_row(n_channels: int) -> Never:
    """Say what is wrong with a single row."""
    raise ValueError(
        f"BatchNorm of {n_channels} channels measures 1 row in training, but it needs more: take larger batches "
        f"(batch_size)"
    )


def is_synchronised(norm: BatchNorm) -> bool:
    """Whether what a layer measures now are the rows of all ranks."""
    return isinstance(norm, SynchronisedBatchNorm) and norm.training


def _track(norm: BatchNorm, moments: Moments, n: int) -> None:
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    if n > 0:
        share = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        norm.running_mean.mul_(1 - share).add_(moments.mean, alpha=share)
        norm.running_var.mul_(1 - share).add_(moments.scatter, alpha=share / (n - 1))


def normalised(
    x: Float[Tensor, "n c *p"],
    moments: Moments,
    weight: Float[Tensor, " c"] | None,
    bias: Float[Tensor, " c"] | None,
    eps: float,
) -> Float[Tensor, "n c *p"]:
    """Rows normalised by the moments of those of all ranks; the gradient knows that the moments are made of them."""
    y: Tensor = _Normalised.apply(x, weight, bias, moments.count, moments.mean, moments.var, eps)
    return y


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        count: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, weight, count, mean, var)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, count, mean, var = ctx.saved_tensors
        others, channels = [0, *range(2, x.ndim)], (-1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(var + ctx.eps)
        unit = (wide(x) - mean.view(channels)) * scale.view(channels)
        slope = wide(gradient)
        own = torch.stack([(slope * unit).sum(others), slope.sum(others)])
        for_weight, for_bias = own
        for_x = None
        if ctx.needs_input_grad[0]:
            along, level = distributed.total(own) / count.clamp(min=1)
            scale = scale if weight is None else scale * weight
            for_x = (slope - level.view(channels) - unit * along.view(channels)) * scale.view(channels)
            for_x = for_x.to(x.dtype)
        for_weight, for_bias = (
            g if need else None for g, need in zip((for_weight, for_bias), ctx.needs_input_grad[1:3], strict=True)
        )
        return for_x, for_weight, for_bias, None, None, None, None


def own_statistics(network: nn.Module) -> dict[str, Tensor]:
    """Running statistics of the layers that measure the rows of this rank alone, by name, in host memory."""
    return {
        f"{name}.{key}": buffer.detach().cpu()
        for name, module in network.named_modules()
        if isinstance(module, BatchNorm) and not isinstance(module, SynchronisedBatchNorm)
        for key, buffer in module.named_buffers(recurse=False)
    }
