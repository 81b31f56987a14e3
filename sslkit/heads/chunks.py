"""Rows through the layers of a head, some at a time, so that memory does not grow with rows times hidden width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sslkit import batch_norm, distributed
from sslkit.batch_norm import BatchNorm, Moments
from sslkit.precision import wide

ByPlace = Mapping[int, tuple[Tensor, Tensor]]  # for BatchNorm layers by their place: something of a mean and a variance


def through(
    layers: Iterable[nn.Module], rows: Float[Tensor, "n d"], rows_at_a_time: int | None
) -> Float[Tensor, "n c"]:
    """Rows through layers: all together, or so many at a time, which gives the same numbers.

    A layer sees each row by itself and draws nothing, or it is a BatchNorm, whose statistics are those of all rows, and
    of all ranks if it is synchronised. Between forward and backward only the rows are held, and the backward begins
    with another forward. Every BatchNorm that measures costs each of them one more pass over the rows.
    """
    if rows_at_a_time is None or rows.is_meta:
        for layer in layers:
            rows = layer(rows)
        return rows
    single = list(_single(layers))
    parameters = dict.fromkeys(p for layer in single for p in layer.parameters())
    out: Tensor = _InChunks.apply(single, rows_at_a_time, rows, *parameters)
    return out


def _single(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from _single(layer)
        else:
            yield layer


class _InChunks(torch.autograd.Function):
    """Rows meet one another in the statistics of BatchNorm and nowhere else.

    Forwards, a pass for each BatchNorm in turn measures what comes into it. Backwards, a pass for each from the last to
    the first sums up what all rows make of its mean and its variance. Of N rows, a row z that came into it then has,
    besides what goes through its own output, the slope

        (dL/dmean + 2 (z - mean) dL/dvariance) / N
    """

    @staticmethod
    def forward(ctx: Any, layers: list[nn.Module], size: int, rows: Tensor, *parameters: Tensor) -> Tensor:
        ctx.layers, ctx.size, ctx.autocast = layers, size, _autocast(rows)
        ctx.counts, ctx.statistics = {}, {}
        ctx.save_for_backward(rows, *parameters)
        with ctx.autocast():
            for place, norm in enumerate(layers):
                if isinstance(norm, BatchNorm) and batch_norm.measures(norm):
                    parts = [Moments.of(_run(layers, chunk, ctx.statistics)[0]) for chunk in rows.split(size)]
                    moments = batch_norm.measured(norm, Moments.joined(parts))
                    ctx.counts[place], ctx.statistics[place] = moments.count, (moments.mean, moments.var)
            return torch.cat([_run(layers, chunk, ctx.statistics)[0] for chunk in rows.split(size)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, *parameters = ctx.saved_tensors
        of_rows, *of_parameters = ctx.needs_input_grad[2:]
        trained = [p for p, needed in zip(parameters, of_parameters, strict=True) if needed]
        chunks = list(zip(rows.detach().split(ctx.size), gradient.split(ctx.size), strict=True))
        shares: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.enable_grad(), ctx.autocast():
            for place in reversed(ctx.statistics):
                mean, var = (x.detach().requires_grad_() for x in ctx.statistics[place])
                moved = {**ctx.statistics, place: (mean, var)}
                slopes = torch.zeros(2, *mean.shape, dtype=mean.dtype, device=mean.device)
                for chunk, slope in chunks:
                    slopes += torch.stack(_slopes(ctx.layers, chunk, slope, moved, shares, [mean, var]))
                if batch_norm.is_synchronised(ctx.layers[place]):
                    slopes = distributed.total(slopes)
                for_mean, for_var = slopes / ctx.counts[place].clamp(min=1)
                shares[place] = for_mean, 2 * for_var
            for_rows = torch.empty_like(rows) if of_rows else None
            sums = [torch.zeros_like(p) for p in trained]
            for at, (chunk, slope) in enumerate(chunks):
                asked = [chunk.requires_grad_(), *trained] if of_rows else trained
                found = _slopes(ctx.layers, chunk, slope, ctx.statistics, shares, asked)
                if for_rows is not None:
                    for_rows[at * ctx.size : (at + 1) * ctx.size] = found[0]
                for total, part in zip(sums, found[len(asked) - len(trained) :], strict=True):
                    total += part
        each = iter(sums)
        return None, None, for_rows, *(next(each) if needed else None for needed in of_parameters)


def _run(layers: Sequence[nn.Module], rows: Tensor, statistics: ByPlace) -> tuple[Tensor, dict[int, Tensor]]:
    """What comes into the first BatchNorm that is not measured yet, or out of the last layer; and into the measured."""
    came = {}
    for place, layer in enumerate(layers):
        if place in statistics:
            came[place] = wide(rows)
            rows = _normalised(layer, came[place], *statistics[place]).to(rows.dtype)
        elif isinstance(layer, BatchNorm) and batch_norm.measures(layer):
            break
        else:
            rows = layer(rows)
    return rows, came


def _normalised(norm: nn.Module, rows: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    assert isinstance(norm, BatchNorm)
    rows, scale = rows - mean, torch.rsqrt(var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    return rows * scale if norm.bias is None else torch.addcmul(norm.bias, rows, scale)


def _slopes(
    layers: Sequence[nn.Module],
    rows: Tensor,
    slope: Tensor,
    statistics: ByPlace,
    shares: ByPlace,
    wanted: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """What some rows make of `wanted`: by their output, and by their shares in the statistics of later layers."""
    out, came = _run(layers, rows, statistics)
    made, slopes = [out], [slope]
    for place, (for_mean, for_var) in shares.items():
        if came[place].requires_grad:
            made.append(came[place])
            slopes.append(for_mean + for_var * (came[place].detach() - statistics[place][0]))
    return torch.autograd.grad(made, wanted, slopes)


def _autocast(rows: Tensor) -> Callable[[], AbstractContextManager[object]]:
    """The mixed precision that holds now, to be entered again."""
    kind = rows.device.type
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    # torch 2.9 takes a kept cast of a weight that was made without gradient for one with it
    return partial(torch.autocast, kind, dtype=dtype, enabled=enabled, cache_enabled=False)
