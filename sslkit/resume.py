"""What a checkpoint holds of a run, and how all of it is put back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sslkit import batch_norm, checkpoint, distributed, sharding
from sslkit.errors import CheckpointError
from sslkit.method import Method
from sslkit.optimizer import Optimizer


@dataclass(frozen=True)
class Resumable:
    """The parts of a run that a step changes, and what has to be the same when it goes on.

    Not among them: the place in the data and the generators of every rank, which are functions of the seed and the step
    (`loader.Sampler`, `draws.start_generators`), and schedules, which are functions of the step.

    Args:
        identity: images, images of a step, steps.
    """

    method: Method
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    identity: dict[str, int]

    def state(self) -> dict[str, Any]:
        """Everything as tensors and plain values; all ranks ask together, and rank 0 has all of it."""
        own = batch_norm.own_statistics(self.method) if distributed.world_size() > 1 else {}
        return {
            "method": sharding.whole(self.method.state_dict()),
            "optimizer": sharding.whole(self.optimizer.inner.state_dict()),
            "scaler": self.scaler.state_dict(),
            "ranks": distributed.of_all(own) if own else [],
            "identity": self.identity,
        }

    def restore(self, run_dir: Path) -> int:
        """Put back the newest checkpoint that rank 0 can read; the steps done come back, 0 if there is none.

        Raises:
            CheckpointError: it is of a run with other images, another length, another method or number of ranks, or
                another rank cannot read it.
        """
        found = distributed.on_main(lambda: checkpoint.latest(run_dir))
        step = distributed.of_main(found[0] if found is not None else None)
        if step is None:
            return 0
        return distributed.together(lambda: self._put_back(run_dir, step, found[1] if found is not None else None))

    def _put_back(self, run_dir: Path, step: int, state: dict[str, Any] | None) -> int:
        if state is None:
            checkpoint.wait_for(run_dir, step)
            state = checkpoint.of_step(run_dir, step)
        if state.get("identity") != self.identity:
            raise CheckpointError(
                f"{run_dir} holds a run of {state.get('identity')}, which cannot go on as one of {self.identity}: "
                f"repeat its data, number of processes and length, or give another --out"
            )
        try:
            self.method.load_state_dict(sharding.spread(state["method"], self.method.state_dict()))
            inner = self.optimizer.inner
            inner.load_state_dict(sharding.spread(state["optimizer"], sharding.places(inner)))
            self.scaler.load_state_dict(state["scaler"])
            if len(state["ranks"]) not in (0, distributed.world_size()):
                raise ValueError(
                    f"BatchNorm of {len(state['ranks'])} ranks, and now there are {distributed.world_size()}"
                )
            if state["ranks"]:
                self.method.load_state_dict(state["ranks"][distributed.rank()], strict=False)
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"the checkpoint of step {step} in {run_dir} is of another method: {reason}"
            ) from error
        return step
