"""The loop, in the order in which things happen. No branch belongs to a method."""

from __future__ import annotations

import contextlib
import logging
import time as clock
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from sslkit import checkpoint, compilation, distributed, draws, interruption, scopes, sharding
from sslkit.augmenters import Augmenter
from sslkit.backbones import Backbone
from sslkit.backbones.untrained import with_statistics
from sslkit.errors import ConfigError, Interrupted, NotFinite
from sslkit.evaluate import Evaluation
from sslkit.interruption import Asked
from sslkit.loader import Images, Sampler, Views, batches, usual_workers
from sslkit.log import Log
from sslkit.method import Method
from sslkit.monitors import gallery
from sslkit.monitors.health import health
from sslkit.optimizer import Optimizer
from sslkit.parameters import Count, Name, Natural, Positive, Seed, parameters, refuse
from sslkit.plan import plan, refuse_sources, refuse_untrained
from sslkit.precision import Precision, autocast
from sslkit.registry import entry
from sslkit.results import Results
from sslkit.resume import Resumable
from sslkit.saving import Saver
from sslkit.schedules import Time
from sslkit.types import Batch, Outcome

log = logging.getLogger("sslkit")
Ending = Literal["stop", "requeue", ""]


@entry(
    given=["run_dir"],
    free=[
        "device",
        "n_workers",
        "log_every",
        "save_every",
        "keep",
        "keep_every",
        "keep_best",
        "pictures",
        "evaluations",
        "evaluate_every",
        "shard",
        "patience_s",
    ],
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
    keep_every: Count | None = None,
    keep_best: str | None = None,
    evaluations: Mapping[Name, Evaluation] | None = None,
    evaluate_every: Count | None = None,
    pictures: bool = True,
    shard: bool = False,
    compile: bool = False,
    patience_s: Positive = 1800.0,
) -> dict[str, float]:
    """Take optimiser steps until the end, from the newest checkpoint in `run_dir` if there is one.

    Killed at any moment and called again with the same arguments, it ends with the same weights: what a step draws
    depends on the seed and the step alone, and everything else is in the checkpoint. Asked to stop by a signal
    (`sslkit.interruption`), it saves at the end of the step.

    Args:
        batch_size: images per rank and batch; a step takes `accumulate` of them.
        n_epochs, n_steps: the length of the run, in one of the two.
        device: `"auto"` takes an accelerator if there is one.
        n_workers: loader processes; one for each processor but one if left out.
        log_every, save_every, evaluate_every: steps between records, checkpoints and evaluations. Evaluations run
            before the first and after the last step in any case, and each behind a checkpoint of its step.
        keep: latest checkpoints kept.
        keep_every: kept beside them are those of every so many steps, as far as any was written then.
        keep_best: kept beside them is the checkpoint whose evaluation found the largest number of that name, such as
            `"dense/miou"`.
        evaluations: protocols run on the teacher's backbone, by the name that stands in the log.
        pictures: draw clusters, matches, partners, features, receptive fields and curves at the end.
        shard: spread the backbones over ranks (`sslkit.sharding`), where one is too large for an accelerator.
        compile: let torch compile the backbones (`sslkit.compilation`).
        patience_s: how long a rank waits for the others in one exchange before it stops; told to the group of ranks
            when they meet.

    Returns:
        The last result of every evaluation, such as `{"dense/miou": 0.31}`.

    Raises:
        NotFinite: a loss or its gradient is not finite.
        Interrupted: a signal has stopped the run; it is saved.
        CheckpointError: no checkpoint of the run can be read, or it is of another run.
        ConfigError: the arguments do not fit one another or the data; no step has been taken then.
        OSError: a file cannot be written; the checkpoints before it are whole.
    """
    _refuse_out_of_range(locals())
    where = device_of(device)
    length = plan(
        method,
        len(data),
        batch_size=batch_size,
        accumulate=accumulate,
        n_epochs=n_epochs,
        n_steps=n_steps,
        n_ranks=distributed.world_size(),
    )
    n_steps, per_epoch, step_size = length.n_steps, length.per_epoch, length.step_size
    refuse_untrained(method, length)
    refuse_sources(method, augmenter)
    method.make_room(len(data), run_dir)
    method.to(where).train()
    distributed.agree(method)
    if shard:
        sharding.shard(method)
    if compile:
        compilation.compile_backbones(method, where)
    optimizer.build(method)
    cast, scaler = autocast(where, precision)
    evaluations, is_main = evaluations or {}, distributed.rank() == 0
    _refuse_unknown_best(keep_best, evaluations)
    run = Resumable(method, optimizer, scaler, {"n_images": len(data), "step_size": step_size, "n_steps": n_steps})
    first = run.restore(run_dir)
    results = Results(run_dir, first=first)
    distributed.on_main(lambda: _refuse_no_best(keep_best, results.last) if results.last else None)

    def prune(done: int) -> None:
        best = results.best(keep_best, checkpoint.steps(run_dir)) if keep_best is not None else None
        checkpoint.prune(run_dir, done, keep=keep, every=keep_every, best=best)

    with (
        Log(run_dir, first=first, n_steps=n_steps, is_main=is_main) as book,
        Saver(run_dir, written=prune) as saver,
        interruption.watched() as asked,
    ):

        def save(done: int) -> None:
            state = run.state()
            if is_main:
                saver.save(done, state)

        def evaluate(done: int, backbone: Backbone) -> None:
            if done in results.by_step:
                return
            what = f"after {done} steps"
            if done == 0:
                shown = Views(data, augmenter, seed, augmenter.n_global).first(batch_size).global_views[0].pixels
                backbone, what = with_statistics(backbone, shown.to(where)), "random backbone"
            book.say(f"evaluating {', '.join(evaluations)} ({what})")
            with compilation.off(), book.evaluating():
                results.add(done, _evaluate(evaluations, backbone, where, book, done, what))
            _refuse_no_best(keep_best, results.last)

        def evaluate_if_due(done: int) -> None:
            """On rank 0; a signal that comes meanwhile leaves it to the next start, which finds it undone."""
            if evaluations and is_due(done):
                alone = partial(evaluate, done, sharding.unsharded(method.teacher.backbone))
                distributed.on_main(partial(asked.unless_asked, alone))

        def leave(done: int, how: str) -> None:
            if how:
                distributed.on_main(saver.wait)  # no rank may leave before: that would end the others
                signals = [number for of_rank in distributed.of_each(asked.signals) for number in of_rank]
                raise Interrupted(done, signals, requeue=how == "requeue")

        def is_due(done: int) -> bool:
            return done in (0, n_steps) or (evaluate_every is not None and done % evaluate_every == 0)

        def draw_partners(epoch: int) -> torch.Tensor:
            """Of every image; history is kept for all of the latest checkpoints, from which the run may go on."""
            resumable = checkpoint.steps(run_dir)[-keep:]
            needed = resumable[0] // per_epoch if resumable else 0
            assert method.partners is not None
            return method.partners.draw(epoch, seed=seed, needed=needed)

        for line in _apart(method, accumulate):
            book.say(line)
        if first:
            book.say(f"going on from step {first} of {n_steps}")
        evaluate_if_due(first)
        leave(first, _asked_of_all(asked, where))
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
            partners=None if method.partners is None else draw_partners,
        )
        watch = _Watch(step_size)
        with contextlib.closing(stream):
            for step in range(first, n_steps):
                time = length.at(step)
                draws.start_generators(seed, step, distributed.rank())
                method.set_time(time)
                optimizer.set_time(time)
                taken = (watch.next_of(stream).to(where) for _ in range(accumulate))
                outcomes, norm = gradients(method, optimizer, taken, accumulate, cast, scaler)
                is_last = _agreed(outcomes, norm, scaler, asked, step, run_dir, method)
                scaler.step(optimizer.inner)
                scaler.update()
                done = step + 1
                if done % log_every == 0 or done in (first + 1, n_steps):  # before `update`: what the step itself saw
                    record = _record(time, method, optimizer, outcomes, norm.item()) | watch.read(done - first)
                    book.write(done, record)
                    book.progress(done, record)
                method.update(outcomes)
                book.tick(done)
                if is_last or is_due(done) or done % save_every == 0:
                    save(done)
                leave(done, is_last)
                evaluate_if_due(done)
                if evaluations and is_due(done):
                    leave(done, _asked_of_all(asked, where))
        saver.wait()
        if is_main:
            prune(n_steps)
        if pictures:
            draw = partial(gallery.draw, run_dir, sharding.unsharded(method), data, augmenter)
            with compilation.off():
                distributed.on_main(partial(asked.unless_asked, draw))
            leave(n_steps, _asked_of_all(asked, where))
    return results.last


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
        scaler.scale(sharding.total(method, outcome) / accumulate).backward()
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


def _refuse_unknown_best(name: str | None, evaluations: Mapping[str, Evaluation]) -> None:
    """Refuse to keep the best by what no evaluation of the run finds."""
    if name is not None and name.partition("/")[0] not in evaluations:
        raise ConfigError(
            f"keep_best={name!r}, but the run's evaluations are {', '.join(evaluations) or 'none'}: write one of them "
            f"with one of its results, such as 'dense/miou'"
        )


def _refuse_no_best(name: str | None, found: Mapping[str, float]) -> None:
    if name is not None and name not in found:
        raise ConfigError(f"keep_best={name!r}, but what evaluations find is {', '.join(found)}")


def _apart(method: Method, accumulate: int) -> list[str]:
    """What makes this run differ from one with the same images in one batch on one rank."""
    said = []
    if distributed.world_size() > 1 and (local := scopes.rank_local(method)):
        said.append(f"{distributed.world_size()} ranks differ from one with all images by: {'; '.join(local)}")
    if accumulate > 1 and (batchwise := scopes.batch_scoped(method)):
        said.append(f"{accumulate} batches a step differ from one large batch by: {'; '.join(batchwise)}")
    return said


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
        return distributed.cuda_of(distributed.local_rank())
    return torch.device("cpu")


def _evaluate(
    evaluations: Mapping[str, Evaluation], backbone: Backbone, device: torch.device, book: Log, step: int, what: str
) -> dict[str, float]:
    """Results of all protocols, told in a line each; rank 0 asks for them alone."""
    results: dict[str, float] = {}
    for name, protocol in evaluations.items():
        found = protocol(backbone, device)
        results |= {f"{name}/{key}": float(value) for key, value in found.items() if isinstance(value, float)}
        book.say(f"{name}, {what}: {protocol.headline} {found[protocol.headline]:.1%}")
    book.write(step, results)
    return results


def _agreed(
    outcomes: list[Outcome],
    norm: torch.Tensor,
    scaler: torch.amp.GradScaler,
    asked: Asked,
    step: int,
    run_dir: Path,
    method: Method,
) -> Ending:
    """Whether this step is the last one because any rank was asked to stop; all ranks say the same.

    A loss or gradient that is not finite stops all of them before it reaches the weights, keeping what is needed to see
    why. A loss scaler looks after gradients itself: it leaves out the step and scales less.

    Raises:
        NotFinite: a loss or its gradient is not, on any rank.
    """
    bad = ~torch.isfinite(torch.stack([outcome.total.detach() for outcome in outcomes])).all()
    if not scaler.is_enabled():
        bad = bad | ~torch.isfinite(norm)
    said = torch.tensor([0.0, asked.to_stop, asked.to_requeue], device=bad.device)
    said[0] = bad
    is_bad, to_stop, to_requeue = distributed.total(said).tolist()  # where the host waits for the device
    if not is_bad:
        return _ending(to_stop, to_requeue)
    losses = [{name: loss.item() for name, loss in outcome.losses.items()} for outcome in outcomes]
    kept = _kept_for_replay(outcomes, losses, step, run_dir, method)
    raise NotFinite(
        f"the loss or its gradient is not finite at step {step} ({losses[-1]}, gradient norm {norm.item():.3g}); "
        f"{kept}. Usual causes: a learning rate that is too high, no clipping (Optimizer.clip), float16 "
        f"(train.precision)"
    )


def _asked_of_all(asked: Asked, device: torch.device) -> Ending:
    """Whether any rank was asked to stop; all ranks ask, and all say the same."""
    said = torch.tensor([float(asked.to_stop), float(asked.to_requeue)], device=device)
    return _ending(*distributed.total(said).tolist())


def _ending(to_stop: float, to_requeue: float) -> Ending:
    return "requeue" if to_requeue else "stop" if to_stop else ""


def _kept_for_replay(
    outcomes: list[Outcome], losses: list[dict[str, float]], step: int, run_dir: Path, method: Method
) -> str:
    """Keep the batches of each rank, and on rank 0 the state before them; where they are, or why they are not."""
    path = run_dir / f"not_finite_step_{step}_rank_{distributed.rank()}.pt"
    replay = {"batches": [_plain(outcome.step.batch) for outcome in outcomes], "losses": losses, "step": step}
    state = sharding.whole(method.state_dict())
    try:
        torch.save(replay | ({"method": state} if distributed.rank() == 0 else {}), path)
    except (OSError, RuntimeError) as error:  # torch's writer says nothing else of a full disk
        return f"the batch and the state before it could not be kept ({str(error).splitlines()[0]})"
    return f"the batch is in {path}, the state before it in that of rank 0"


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
