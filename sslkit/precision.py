"""Which numbers a network computes in."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from sslkit import distributed
from sslkit.parameters import refuse

Precision = Literal["auto", "float32", "bfloat16", "float16"]
log = logging.getLogger("sslkit")


def autocast(device: torch.device, precision: Precision) -> tuple[AbstractContextManager[object], torch.amp.GradScaler]:
    """A context for the forward pass, to be entered anew each step, and the loss scaler that goes with it.

    `"auto"` is bfloat16 on an accelerator and float32 on the CPU. Where bfloat16 has no native support the run falls
    back to float32 and says so once.

    Raises:
        ValueError: there is no such precision.
    """
    refuse("precision", precision, Precision)
    if precision == "auto":
        precision = "float32" if device.type == "cpu" else "bfloat16"
    if (
        device.type == "cuda"
        and precision == "bfloat16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        log.warning("bfloat16 has no native support on %s: training in float32", torch.cuda.get_device_name(device))
        precision = "float32"
    if device.type == "cpu" and precision in ("bfloat16", "float16"):
        log.warning("precision=%r is slower than float32 on a CPU: training in float32", precision)
        precision = "float32"
    scaler = Scaler(device.type, enabled=precision == "float16")
    if precision == "float32":
        return nullcontext(), scaler
    return torch.autocast(device.type, dtype=getattr(torch, precision)), scaler


class Scaler(torch.amp.GradScaler):
    """torch's loss scaler, for sharded gradients as well: one that is not finite in any rank's part is so on all."""

    def _unscale_grads_(
        self, optimizer: Any, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        scaled = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(distributed.is_sharded(p) for p in scaled):
            optimizer = SimpleNamespace(param_groups=[{"params": [_part(p) for p in scaled]}])
            found = super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
            return {device: distributed.total(bad) for device, bad in found.items()}
        return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)


def _part(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter and its gradient."""
    part = distributed.local(parameter.detach())
    part.grad = None if parameter.grad is None else distributed.local(parameter.grad)
    return part


def full(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision off, for sums and comparisons that need all digits."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def wide(x: Tensor) -> Tensor:
    """Float64 as it is, all else in float32."""
    return x if x.dtype == torch.float64 else x.float()
