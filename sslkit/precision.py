"""Which numbers a network computes in."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

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
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    if precision == "float32":
        return nullcontext(), scaler
    return torch.autocast(device.type, dtype=getattr(torch, precision)), scaler


def full(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision off, for sums and comparisons that need all digits."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def wide(x: Tensor) -> Tensor:
    """Float64 as it is, all else in float32."""
    return x if x.dtype == torch.float64 else x.float()
