"""The same work on several ranks, each a process of its own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sslkit import distributed


def on_ranks(work, folder, n=2):
    """What `work()` comes to on each of `n` ranks; a function of a module, so that a new process finds it."""
    mp.spawn(_rank, args=(work, str(folder), n), nprocs=n)
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(n)]


def _rank(rank, work, folder, n):
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=n, timeout=timedelta(minutes=2))
    torch.save(work(), f"{folder}/{rank}.pt")
    distributed.wait()
    distributed.stop()
