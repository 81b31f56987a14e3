"""The loop, in the order in which things happen. No branch belongs to a method."""

from __future__ import annotations

import logging
import time as clock
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sslkit import checkpoint, distributed, draws
from sslkit.augmenters import Augmenter
from sslkit.backbones import Backbone
from sslkit.backbones.untrained import with_statistics
from sslkit.errors import CheckpointError, ConfigError, NotFinite
from sslkit.evaluate import Evaluation
from sslkit.loader import Images, Sampler, Views, batches, usual_workers
from sslkit.log import Log
from sslkit.method import Method
from sslkit.monitors import gallery
from sslkit.monitors.health import health
from sslkit.optimizer import Optimizer
from sslkit.parameters import Count, Natural, Seed, parameters, refuse
from sslkit.partners import Partners
from sslkit.plan import plan, refuse_sources, refuse_untrained
from sslkit.precision import Precision, autocast
from sslkit.registry import entry
from sslkit.schedules import Time
from sslkit.types import Batch, Outcome

log = logging.getLogger("sslkit")


@entry(
    given=["run_dir"],
    free=["device", "n_workers", "log_every", "save_every", "keep", "pictures", "evaluations", "evaluate_every"],
)
def train(
    *,
    run_dir: Path,
    method: Method,
    data: Images,
    augmenter: Augmenter,
    optimizer: Optimizer,
    batch_size: Count,
    n_epochs: Count | None = None,
    n_steps: Count | None = None,
    accumulate: Count = 1,
    seed: Seed = 0,
    device: str = "auto",
    precision: Precision = "auto",
    n_workers: Natural | None = None,
    log_every: Count = 50,
    save_every: Count = 1000,
    keep: Count = 2,
    evaluations: Mapping[str, Evaluation] | None = None,
    evaluate_every: Count | None = None,
    pictures: bool = True,
) -> dict[str, float]:
    """Take optimiser steps until the end, from the newest checkpoint in `run_dir` if there is one.

    Killed at any moment and called again with the same arguments, it ends with the same weights: what a step draws
    depends on the seed and the step alone, and everything else is in the checkpoint.

    Args:
        batch_size: images per rank and batch; a step takes `accumulate` of them.
        n_epochs, n_steps: the length of the run, in one of the two.
        device: `"auto"` takes an accelerator if there is one.
        n_workers: loader processes; one for each processor but one if left out.
        log_every, save_every, evaluate_every: steps between records, checkpoints and evaluations. Evaluations run
            before the first and after the last step in any case.
        keep: checkpoints kept.
        evaluations: protocols run on the teacher's backbone, by the name that stands in the log.
        pictures: draw clusters, matches, partners, features, receptive fields and curves at the end.

    Returns:
        The last result of every evaluation, such as `{"dense/miou": 0.31}`.

    Raises:
        NotFinite: a loss or its gradient is not finite.
        CheckpointError: no checkpoint of the run can be read, or it is of another run.
        ConfigError: the arguments do not fit one another or the data; no step has been taken then.
    """
    _refuse_out_of_range(locals())
    where = device_of(device)
    length = plan(method, len(data), batch_size=batch_size, accumulate=accumulate, n_epochs=n_epochs, n_steps=n_steps)
    n_steps, per_epoch, step_size = length.n_steps, length.per_epoch, length.step_size
    refuse_untrained(method, length)
    refuse_sources(method, augmenter)
    method.make_room(len(data), run_dir)
    method.to(where).train()
    distributed.agree(method)
    optimizer.build(method)
    cast, scaler = autocast(where, precision)
    evaluations = evaluations or {}
    identity = {"n_images": len(data), "step_size": step_size, "n_steps": n_steps}
    first, results = _restore(run_dir, method, optimizer, scaler, identity)

    def save(step: int) -> None:
        state = {
            "method": method.state_dict(),
            "optimizer": optimizer.inner.state_dict(),
            "scaler": scaler.state_dict(),
            "results": results,
            "identity": identity,
        }
        if distributed.rank() == 0:
            checkpoint.save(run_dir, step, state, keep=keep)

    with Log(run_dir, first=first, n_steps=n_steps, is_main=distributed.rank() == 0) as book:
        if first:
            book.say(f"going on from step {first} of {n_steps}")
        if first == 0 and evaluations:
            shown = Views(data, augmenter, seed, augmenter.n_global).first(batch_size).global_views[0].pixels.to(where)
            untrained = with_statistics(method.teacher.backbone, shown)
            results = _evaluate(evaluations, untrained, where, book, 0, "random backbone")
        sampler = Sampler(
            len(data),
            batch_size,
            seed=seed,
            first=first * accumulate,
            n_batches=n_steps * accumulate,
            accumulate=accumulate,
        )
        stream = batches(
            data,
            augmenter,
            sampler,
            n_workers=usual_workers() if n_workers is None else n_workers,
            pin=where.type == "cuda",
            partners=None if method.partners is None else partial(_partners, method.partners, run_dir, seed, per_epoch),
        )
        watch = _Watch(step_size)
        for step in range(first, n_steps):
            time = length.at(step)
            torch.manual_seed(draws.step_seed(seed, step, distributed.rank()))
            method.set_time(time)
            optimizer.set_time(time)
            taken = (watch.next_of(stream).to(where) for _ in range(accumulate))
            outcomes, norm = gradients(method, optimizer, taken, accumulate, cast, scaler)
            _refuse_not_finite(outcomes, norm, scaler, step, run_dir, method)
            scaler.step(optimizer.inner)
            scaler.update()
            done = step + 1
            if done % log_every == 0 or done == n_steps or step == first:  # before `update`: what the step itself saw
                record = _record(time, method, optimizer, outcomes, norm.item()) | watch.read(done - first)
                book.write(done, record)
                book.progress(done, record)
            method.update(outcomes)
            book.tick()
            if done == n_steps or (evaluate_every is not None and done % evaluate_every == 0):
                trained = method.teacher.backbone
                results = _evaluate(evaluations, trained, where, book, done, f"after {done} steps") or results
            if done % save_every == 0 or done == n_steps:
                save(done)
    if pictures and distributed.rank() == 0:
        gallery.draw(run_dir, method, data, augmenter)
    return results


def gradients(
    method: Method,
    optimizer: Optimizer,
    batches: Iterable[Batch],
    accumulate: int,
    cast: AbstractContextManager[object],
    scaler: torch.amp.GradScaler,
) -> tuple[list[Outcome], torch.Tensor]:
    """Leave the gradients of one step in the parameters: the mean over `accumulate` batches and all ranks, clipped.

    What each batch came to and the norm before clipping come back.
    """
    optimizer.inner.zero_grad(set_to_none=True)
    outcomes = []
    for batch in batches:
        with cast:
            outcome = method(batch)
        scaler.scale(outcome.total / accumulate).backward()
        outcomes.append(outcome)
    distributed.average_gradients(optimizer.parameters)
    scaler.unscale_(optimizer.inner)
    method.drop_frozen_gradients()
    return outcomes, optimizer.clip_gradients()


def _refuse_out_of_range(given: Mapping[str, Any]) -> None:
    """Refuse arguments of `train` that their annotations do not allow."""
    for name, parameter in parameters(train).items():
        try:
            refuse(name, given[name], parameter.hint)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _restore(
    run_dir: Path, method: Method, optimizer: Optimizer, scaler: torch.amp.GradScaler, identity: dict[str, int]
) -> tuple[int, dict[str, float]]:
    """Steps done and results so far, everything else put where it was; nothing if there is no checkpoint.

    Raises:
        CheckpointError: the run had other images, another number of ranks or another length.
    """
    found = checkpoint.latest(run_dir)
    if found is None:
        return 0, {}
    step, state = found
    if state.get("identity") != identity:
        raise CheckpointError(
            f"{run_dir} holds a run of {state.get('identity')}, which cannot go on as one of {identity}: "
            f"repeat its data, number of processes and length, or give another --out"
        )
    try:
        method.load_state_dict(state["method"])
        optimizer.inner.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"the checkpoint of step {step} in {run_dir} is of another method: {reason}") from error
    return step, state["results"]


def device_of(name: str) -> torch.device:
    """The device that is asked for.

    Raises:
        ConfigError: it is not there.
    """
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device={name!r} cannot be used: {str(error).splitlines()[0]}") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device={name!r}, but torch sees no CUDA device here")
        return device
    if torch.cuda.is_available():
        return torch.device("cuda", distributed.local_rank() % torch.cuda.device_count())
    return torch.device("cpu")


def _partners(partners: Partners, run_dir: Path, seed: int, per_epoch: int, epoch: int) -> torch.Tensor:
    """The partner of every image in an epoch; history is kept for every checkpoint that the run may go on from."""
    kept = checkpoint.steps(run_dir)
    return partners.draw(epoch, seed=seed, needed=kept[0] // per_epoch if kept else 0)


def _evaluate(
    evaluations: Mapping[str, Evaluation], backbone: Backbone, device: torch.device, book: Log, step: int, what: str
) -> dict[str, float]:
    """Results of all protocols on rank 0, told in a line each."""
    results: dict[str, float] = {}
    if distributed.rank() == 0:
        for name, protocol in evaluations.items():
            found = protocol(backbone, device)
            results |= {f"{name}/{key}": float(value) for key, value in found.items() if isinstance(value, float)}
            book.say(f"{name}, {what}: {protocol.headline} {found[protocol.headline]:.1%}")
        if results:
            book.write(step, results)
    distributed.wait()
    return results


def _refuse_not_finite(
    outcomes: list[Outcome],
    norm: torch.Tensor,
    scaler: torch.amp.GradScaler,
    step: int,
    run_dir: Path,
    method: Method,
) -> None:
    """Stop a run whose loss or gradient is not finite, keeping what is needed to see why; all ranks stop together.

    A loss scaler looks after the gradients itself: it leaves out the step and scales less.
    """
    bad = ~torch.isfinite(torch.stack([outcome.total.detach() for outcome in outcomes])).all()
    if not scaler.is_enabled():
        bad = bad | ~torch.isfinite(norm)
    if not distributed.total(bad.float()).item():  # the host waits for the device: nothing bad must reach the weights
        return
    path = run_dir / f"not_finite_step_{step}_rank_{distributed.rank()}.pt"
    losses = [{name: loss.item() for name, loss in outcome.losses.items()} for outcome in outcomes]
    replay = [_plain(outcome.step.batch) for outcome in outcomes]
    torch.save({"batches": replay, "losses": losses, "step": step, "method": method.state_dict()}, path)
    raise NotFinite(
        f"the loss or its gradient is not finite at step {step} ({losses[-1]}, gradient norm {norm.item():.3g}); the "
        f"batch and the state before it are in {path}. Usual causes: a learning rate that is too high, no clipping "
        f"(Optimizer.clip), float16 (train.precision)"
    )


def _plain(batch: Batch) -> dict[str, Any]:
    """A batch as tensors and numbers, which any torch can read."""
    views = [(v.pixels, v.box, v.flip, v.size, v.source, v.mask) for v in batch.views]
    named = {name: getattr(batch, name) for name in ("n_global", "index", "epoch", "seed", "partner", "label")}
    return {"views": views, **named}


def _record(time: Time, method: Method, optimizer: Optimizer, outcomes: list[Outcome], norm: float) -> dict[str, float]:
    """What the log says of a step."""
    losses = {
        f"loss/{name}": sum(float(o.losses[name].item()) for o in outcomes) / len(outcomes)
        for name in outcomes[0].losses
    }
    rates = {
        "lr": optimizer.inner.param_groups[0]["lr"],
        "weight_decay": optimizer.inner.param_groups[0]["weight_decay"],
    }
    return {
        "epoch": time.epoch,
        "loss/total": sum(losses.values()),
        **losses,
        **rates,
        "momentum": float(method.momentum),
        "gradient_norm": norm,
        **health(method, outcomes[-1]),
    }


class _Watch:
    """Speed since the last reading, and the share of it spent waiting for data."""

    def __init__(self, step_size: int):
        self.step_size, self.began, self.waited, self.at = step_size, clock.monotonic(), 0.0, 0

    def next_of(self, stream: Iterator[Batch]) -> Batch:
        """The next batch; the wait for it counts."""
        began = clock.monotonic()
        batch = next(stream)
        self.waited += clock.monotonic() - began
        return batch

    def read(self, step: int) -> dict[str, float]:
        passed = max(1e-9, clock.monotonic() - self.began)
        reading = {"images_per_s": (step - self.at) * self.step_size / passed, "data_wait": self.waited / passed}
        self.began, self.waited, self.at = clock.monotonic(), 0.0, step
        return reading
