"""What ranks say to one another. With one process every function is the identity and nothing has to be set up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sslkit import rendezvous
from sslkit.errors import ConfigError, RankLost, Refused

T = TypeVar("T")
Scope = Literal["rank", "all"]  # whether something takes in this rank alone, or all of them


LONGEST_S = 365 * 86400.0  # that a rank waits; far beyond it there is no such length of time
_alone = False  # while rank 0 does what the others wait for


def is_on() -> bool:
    """Whether this process is in a group and not about something that rank 0 does alone."""
    return not _alone and dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number in the group; 0 alone."""
    return dist.get_rank() if is_on() else 0


def world_size() -> int:
    """Processes in the group; 1 alone."""
    return dist.get_world_size() if is_on() else 1


def local_rank() -> int:
    """This process's number on its machine."""
    return rendezvous.here().local_rank


def is_main() -> bool:
    """Whether this process speaks for its run: it is rank 0, also before and after it is in a group."""
    return rendezvous.here().rank == 0


def wait() -> None:
    """Until every rank is here, however long one of them takes (an evaluation, a picture)."""
    if is_on():
        dist.barrier(_patient_group())


@cache
def _patient_group() -> dist.ProcessGroup:
    """A group whose members wait for a day; the usual one gives up after half an hour, as a rank may have died."""
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    assert isinstance(group, dist.ProcessGroup)
    return group


@cache
def _usual_group() -> dist.ProcessGroup:
    """A group for plain values whose members wait as long as for any exchange of a step."""
    group = dist.new_group(backend="gloo", timeout=_patience)
    assert isinstance(group, dist.ProcessGroup)
    return group


_patience = timedelta(seconds=1800)  # what `start` was told


def start(device: torch.device, run_dir: Path, *, patience_s: float = 1800) -> None:
    """Join the group that the environment describes (`sslkit.rendezvous`); alone, do nothing.

    Args:
        run_dir: shared by all ranks; they find one another through it.
        patience_s: how long a rank waits for the others in one exchange.

    Raises:
        ConfigError: the ranks do not find one another.
    """
    place = rendezvous.here()
    if is_on() or place.size == 1:
        return
    has_cuda = device.type == "cuda" and torch.cuda.is_available()  # else the run refuses the device, together
    if has_cuda:
        torch.cuda.set_device(cuda_of(place.local_rank))
    options: dict[str, Any] = {}
    if place.meeting:
        options = {"store": rendezvous.meet(place, run_dir), "rank": place.rank, "world_size": place.size}
    global _patience
    _patience = timedelta(seconds=min(patience_s, LONGEST_S))
    dist.init_process_group("nccl" if has_cuda else "gloo", timeout=_patience, **options)
    _usual_group()  # now, as a rank that hangs later could not join
    rendezvous.met(place, run_dir)


def cuda_of(local_rank: int) -> torch.device:
    """The accelerator of a rank: its own among those of the machine, or the only one that Slurm lets it see."""
    return torch.device("cuda", local_rank % torch.cuda.device_count())


@contextmanager
def losses_named() -> Iterator[None]:
    """Say it when an exchange fails because another rank has died or hangs.

    Raises:
        RankLost: instead of what the library of the exchange says.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's are plain ones, those of NCCL derive from it
        reason = " ".join(str(error).split())
        if not is_on() or (not isinstance(error, dist.DistError) and not any(sign in reason for sign in _LOST)):
            raise
        raise RankLost(
            f"rank {rank()} of {world_size()} has lost another one, which died or hangs and may say why itself; the "
            f"same command goes on from the newest checkpoint"
        ) from error


_LOST = ("gloo/transport", "Connection closed by peer", "Timed out waiting", "Connection reset", "Broken pipe")


def on_main(call: Callable[[], T]) -> T | None:
    """What rank 0 finds when it alone does something that may be refused; None on the others.

    Nobody would answer what it says to the others meanwhile, so it has none until it returns: a layer that takes in the
    rows of all ranks takes in its own.

    Raises:
        Exception: what rank 0 raised, there; `Refused` on the others, so that all of them leave.
    """
    if not is_on():
        return call()
    global _alone
    found, error = None, None
    if rank() == 0:
        _alone = True
        try:
            found = call()
        except Exception as raised:
            error = raised
        finally:
            _alone = False
    said = [0 if error is None else 2 if isinstance(error, ConfigError) else 1]
    dist.broadcast_object_list(said, group=_patient_group())
    if error is not None:
        raise error
    if said[0]:
        raise Refused(said[0])
    return found


def together(call: Callable[[], T]) -> T:
    """What every rank finds for itself; if one of them cannot, none goes on.

    Raises:
        Exception: what this rank raised; `Refused` where only others did.
    """
    if not is_on():
        return call()
    found, error = None, None
    try:
        found = call()
    except Exception as raised:
        error = raised
    codes = of_each(0 if error is None else 2 if isinstance(error, ConfigError) else 1)
    if error is not None:
        raise error
    if any(codes):
        raise Refused(max(codes))
    return found  # type: ignore[return-value]  # as it raised nothing


def of_each(value: T) -> list[T]:
    """A plain value of every rank, in rank order, on every rank."""
    if not is_on():
        return [value]
    said: list[Any] = [None] * world_size()
    dist.all_gather_object(said, value, _usual_group())
    return said


def of_main(value: T) -> T:
    """A plain value as rank 0 has it."""
    said = [value]
    if is_on():
        dist.broadcast_object_list(said, group=_usual_group())
    return said[0]


def stop() -> None:
    """Leave the group, if there is one."""
    if is_on():
        dist.destroy_process_group()
        _patient_group.cache_clear()
        _usual_group.cache_clear()


def total(x: Tensor) -> Tensor:
    """Sum over ranks, without gradient."""
    if world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def each(x: Tensor) -> list[Tensor]:
    """The tensor of every rank, in rank order; it has the same shape on all of them. Without gradient."""
    if world_size() == 1:
        return [x]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return parts


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks in rank order; every rank may have its own number of them. Without gradient."""
    return x if _is_alone_with(x) else _joined(x.detach(), _sizes(x))


def gather_with_gradient(x: Tensor) -> Tensor:
    """The same; the gradient of a rank's rows is the sum of what all ranks make of them.

    So the mean over ranks of the losses has, for its gradient, the mean over ranks of the parameters' gradients. Every
    rank has to go backwards through it, also one whose loss is zero.
    """
    gathered: Tensor = x if _is_alone_with(x) else _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sizes = _sizes(x)
        first = sum(sizes[: rank()])
        ctx.own = slice(first, first + len(x))
        return _joined(x, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient.contiguous())[ctx.own]


def _is_alone_with(x: Tensor) -> bool:
    return world_size() == 1 or x.is_meta  # one rank rehearses, without the others


def _sizes(x: Tensor) -> list[int]:
    """How many rows each rank has."""
    counts = torch.zeros(world_size(), dtype=torch.long, device=x.device)
    counts[rank()] = x.shape[0]
    sizes: list[int] = total(counts).tolist()
    return sizes


def _joined(x: Tensor, sizes: list[int]) -> Tensor:
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: x.shape[0]] = x
    return torch.cat([part[:n] for part, n in zip(each(padded), sizes, strict=True)])


def of_all(value: T) -> list[T]:
    """A plain value or a dict of tensors of every rank, in rank order, on rank 0; an empty list on the others."""
    if world_size() == 1:
        return [value]
    found: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, found, group=_usual_group())
    return found or []


def broadcast(x: Tensor) -> None:
    """Make a tensor what it is on rank 0, in place."""
    if world_size() > 1:
        dist.broadcast(x, 0)


def is_sharded(x: Tensor) -> bool:
    """Whether each rank holds only a part of a tensor."""
    return isinstance(x, DTensor)


@torch.no_grad()
def local(x: Tensor) -> Tensor:
    """The part of a tensor that this rank holds: all of it, in place, if it is not sharded."""
    return x.to_local() if isinstance(x, DTensor) else x


def norms(tensors: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """The norm of each tensor, and of all its parts together if it is sharded."""
    if not tensors:
        return torch.zeros(0)
    own = torch.stack(torch._foreach_norm([local(x) for x in tensors]))
    sharded = [is_sharded(x) for x in tensors]
    if not any(sharded):
        return own
    return torch.where(torch.tensor(sharded, device=own.device), total(own**2).sqrt(), own)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks; a rank without one counts as zero; none anywhere stays none.

    Those of sharded parameters are means already.
    """
    parameters = [p for p in parameters if not is_sharded(p)]
    if world_size() == 1 or not parameters:
        return
    has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    shared = [p for p, n in zip(parameters, total(has).tolist(), strict=True) if n]
    if not shared:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in shared])
    dist.all_reduce(flat)
    for p, mean in zip(shared, (flat / world_size()).split([p.numel() for p in shared]), strict=True):
        p.grad = mean.view_as(p)


def agree(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0; sharded ones are parts of that already."""
    for x in (*module.parameters(), *module.buffers()):
        if not is_sharded(x):
            broadcast(x.detach())
