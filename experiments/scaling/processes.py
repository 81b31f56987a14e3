"""The same work in one process or several, which are the ranks of a group."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sslkit import distributed

T = TypeVar("T")


def on_ranks(n: int, work: Callable[..., T], *args: Any, start: str = "fork") -> list[T]:
    """What `work(*args, folder)` comes to on each of `n` ranks, of one thread; one forked need not load torch."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, args=(n, work, args, folder), nprocs=n, start_method=start)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(n)]


def _rank(rank: int, n: int, work: Callable[..., Any], args: tuple[Any, ...], folder: str) -> None:
    torch.set_num_threads(1)
    if n > 1:
        meet = f"file://{folder}/meet"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=n, timeout=timedelta(minutes=5))
    torch.save(work(*args, folder), f"{folder}/{rank}.pt")
    distributed.wait()
    distributed.stop()
