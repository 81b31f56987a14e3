"""Backbones that are spread over ranks: of their parameters, gradients and optimiser state each rank holds a part.

Heads, centres, memories and statistics of BatchNorm stay whole on every rank.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sslkit import distributed
from sslkit.backbones.blocks import blocks
from sslkit.method import Method
from sslkit.types import Outcome

M = TypeVar("M", bound=nn.Module)
_FORMS: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()  # sharded backbones as they were, without numbers


def shard(method: Method) -> None:
    """Spread the backbones of student and teacher over the ranks, in place; alone, do nothing.

    Each rank ends with its part of what rank 0 had. A layer is put together when it is about to run, and taken apart
    again behind it (torch's `fully_shard`, arXiv:2304.11277). Names of parameters stay the same, but the parameters are
    new ones: make the optimiser afterwards. From now on a backbone runs on all ranks together or not at all.
    """
    if distributed.world_size() == 1:
        return
    mesh = init_device_mesh(next(method.parameters()).device.type, (distributed.world_size(),))
    for backbone in (method.student.backbone, method.teacher.backbone):
        distributed.agree(backbone)
        _FORMS[backbone] = _filled(backbone, {id(x): _blank(x) for x in _tensors(backbone)})
        for layer in (*blocks(backbone), backbone):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)  # else the teacher, which has no backward, stays
            name = re.escape(type(layer).__name__)  # torch warns of views among its features: nobody writes into them
            warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \({name}\) returned a view")


def total(method: Method, outcome: Outcome) -> Tensor:
    """The loss of a batch, whose gradient passes the backbone wherever that of any rank does; alone, just the loss.

    Ranks with shards have to go backwards through the same layers, each of which is an exchange. What this rank's loss
    does not depend on, but another's does, gets a gradient of zero.
    """
    loss = outcome.total
    if method.student.backbone not in _FORMS:
        return loss
    features = [x for x in (*outcome.step.student.images, *outcome.step.student.patches) if x.requires_grad]
    reached = _reached(loss, features)
    counts = distributed.total(torch.tensor(reached, dtype=torch.float32, device=loss.device)).tolist()
    left_out = [x for x, here, n in zip(features, reached, counts, strict=True) if n and not here]
    joined: Tensor = _Beside.apply(loss, *left_out) if left_out else loss
    return joined


def unsharded(module: M) -> M:
    """The module itself if nothing in it is sharded, else one like it with whole copies of the backbones that are.

    Everything else is shared with the module. All ranks have to ask together, and each gets the copies, so that rank 0
    may evaluate them or draw pictures with them alone.
    """
    if module in _FORMS:
        return _whole_copy(module)
    parts = {name: None if part is None else unsharded(part) for name, part in module._modules.items()}
    if all(part is module._modules[name] for name, part in parts.items()):
        return module
    module = copy.copy(module)
    module._modules = parts
    return module


@torch.no_grad()
def whole(state: Any) -> Any:
    """A state, such as a checkpoint holds, with what is sharded put together in host memory of rank 0.

    Others have None in its place, but have to ask as well. What is not sharded comes back as it is.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if distributed.rank() == 0 else None
    if isinstance(state, dict):
        made = copy.copy(state)  # of its own kind, and with what torch notes on it
        made.update({name: whole(value) for name, value in state.items()})
        return made
    return type(state)(map(whole, state)) if isinstance(state, list | tuple) else state


def spread(state: Any, like: Any) -> Any:
    """The opposite: a whole state, which every rank holds, with the parts of this rank where `like` is sharded.

    Args:
        like: a state of the same form, or one of `places`. Where it has a single parameter for many values, those of
            the parameter's shape are spread as it is.
    """
    if isinstance(state, dict) and isinstance(like, dict | DTensor):
        made = copy.copy(state)
        of_each = like if isinstance(like, dict) else dict.fromkeys(state, like)
        made.update({name: spread(value, of_each[name]) for name, value in state.items() if name in of_each})
        return made
    if isinstance(state, Tensor) and isinstance(like, DTensor) and state.shape == like.shape:
        return distribute_tensor(state.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return state


def places(optimizer: torch.optim.Optimizer) -> dict[str, dict[int, nn.Parameter]]:
    """The parameter that each entry of an optimiser's state belongs to, by the number that a checkpoint has for it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {"state": dict(enumerate(parameters))}


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _filled(form: M, tensors: dict[int, Tensor]) -> M:
    """A copy of a module with other tensors in the place of its own, which are named by their ids."""
    made = copy.deepcopy(form, dict[int, Any](tensors))
    return made


def _blank(x: Tensor) -> Tensor:
    nothing = torch.empty_like(x, device="meta")
    return nn.Parameter(nothing, x.requires_grad) if isinstance(x, nn.Parameter) else nothing


@torch.no_grad()
def _whole_copy(backbone: M) -> M:
    form = _FORMS[backbone]
    assert isinstance(form, nn.Module)
    tensors = {}
    for x, blank in zip(_tensors(backbone), _tensors(form), strict=True):
        full = x.full_tensor() if isinstance(x, DTensor) else x.detach().clone()
        tensors[id(blank)] = nn.Parameter(full, x.requires_grad) if isinstance(blank, nn.Parameter) else full
    made: M = _filled(form, tensors)  # type: ignore[assignment]
    for part, whole_part in zip(backbone.modules(), made.modules(), strict=True):
        whole_part.training = part.training
    return made


def _reached(loss: Tensor, features: Sequence[Tensor]) -> list[bool]:
    """Which of the features a loss depends on."""
    ends = {x.grad_fn for x in features}
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [] if node in ends else [before for before, _ in node.next_functions]
    return [x.grad_fn in seen for x in features]


class _Beside(torch.autograd.Function):
    """A loss as it is, and a gradient of zero for tensors that it does not depend on."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(*others)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(torch.zeros_like(x) for x in ctx.saved_tensors)
