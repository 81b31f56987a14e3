"""How gradients move the student: parameter groups, scheduled rates, clipping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import timm.optim
import torch
from torch import nn

from sslkit import distributed
from sslkit.errors import ConfigError
from sslkit.heads.prototypes import WeightNorm
from sslkit.method import Method
from sslkit.parameters import Positive, Within, refuse
from sslkit.registry import joint
from sslkit.schedules import Cosine, Scheduled, Time, at

Rate = Annotated[Scheduled, Within(least=0)]

# those that do with the parts of sharded parameters what they do with whole ones, and whose state has the same parts
TAKING_SHARDS = (
    *("adam", "adamw", "nadam", "nadamw", "adamax", "radam", "adabelief", "adan", "adopt", "laprop"),
    *("sgd", "sgdw", "momentum", "nesterov", "rmsprop", "adagrad", "lars", "nlars"),
)


@joint
class Optimizer:
    """Any of timm's optimisers over two groups, of which only the first has weight decay.

    Args:
        name: for `timm.optim`, such as `"adamw"`, `"sgd"`, `"lars"`.
        lr, weight_decay: numbers or schedules, set before every step.
        options: further arguments of the optimiser, such as `{"betas": (0.9, 0.999)}`.
        clip: largest gradient norm; none if left out.
        clip_scope: the norm is of `"all"` gradients together, or of each `"tensor"` on its own, as the authors of DINO,
            CrIBo and AdaSim clip.
        decay: `"weights"`: matrices, but not magnitudes of prototypes nor what the backbone excludes (position and
            class tokens); `"matrices"`: every tensor of two or more dimensions, as those authors do.
    """

    def __init__(
        self,
        *,
        name: str = "adamw",
        lr: Rate | None = None,
        weight_decay: Rate = 0.04,
        options: Mapping[str, Any] | None = None,
        clip: Positive | None = None,
        clip_scope: Literal["all", "tensor"] = "all",
        decay: Literal["weights", "matrices"] = "weights",
    ):
        known = [str(each) for each in timm.optim.list_optimizers()]
        if name not in known:
            raise ValueError(f"name={name!r} is not an optimiser of timm; it has: {', '.join(known)}")
        self.name, self.options, self.decay = name, dict(options or {}), decay
        self.lr = Cosine(1e-3, 0.0) if lr is None else lr
        self.weight_decay, self.clip, self.clip_scope = weight_decay, clip, clip_scope

    def build(self, method: Method) -> None:
        """Make the groups and the optimiser for a method's student.

        Raises:
            ConfigError: the optimiser does not take the options, or sharded parameters.
        """
        decayed, plain = groups(method, self.decay)
        self.parameters = [*decayed, *plain]
        if self.name not in TAKING_SHARDS and any(distributed.is_sharded(p) for p in self.parameters):
            raise ConfigError(
                f"Optimizer.name={self.name!r} is not known to give the same with shards (train.shard = True) as "
                f"without; these are: {', '.join(sorted(TAKING_SHARDS))}"
            )
        parts = [{"params": decayed}, {"params": plain}]
        try:
            self.inner = timm.optim.create_optimizer_v2(parts, opt=self.name, lr=0.0, weight_decay=0.0, **self.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Optimizer.name={self.name!r} does not take options={self.options}: {error}") from error

    def set_time(self, time: Time) -> None:
        """Set the learning rate of both groups and the weight decay of the first.

        Raises:
            ValueError: a schedule comes to a negative number.
        """
        lr, weight_decay = at(self.lr, time), at(self.weight_decay, time)
        refuse("lr", lr, Rate)
        refuse("weight_decay", weight_decay, Rate)
        for i, group in enumerate(self.inner.param_groups):
            group["lr"] = lr
            group["weight_decay"] = weight_decay if i == 0 else 0.0

    def clip_gradients(self) -> torch.Tensor:
        """Clip as configured; the norm of all gradients before comes back."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = distributed.norms(gradients)
        norm: torch.Tensor = torch.linalg.vector_norm(norms)
        if self.clip is not None and gradients:
            factors = (self.clip / ((norm if self.clip_scope == "all" else norms) + 1e-6)).clamp(max=1)
            parts = [distributed.local(gradient) for gradient in gradients]
            torch._foreach_mul_(parts, factors if factors.ndim == 0 else factors.unbind())
        return norm


def groups(method: Method, decay: Literal["weights", "matrices"]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The student's trained parameters with and without weight decay."""
    student = method.student
    spared = set()
    if decay == "weights":
        spared = {id(m.weight_g) for m in student.modules() if isinstance(m, WeightNorm)}
        model = getattr(student.backbone, "model", student.backbone)
        excluded: set[str] = getattr(model, "no_weight_decay", set)()
        spared |= {id(p) for name, p in model.named_parameters() if name in excluded}
    trained = [p for p in student.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in spared]
    chosen = {id(p) for p in decayed}
    return decayed, [p for p in trained if id(p) not in chosen]
