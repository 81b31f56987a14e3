"""What can be known to be wrong before any step is taken: settings that contradict one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image

from sslkit.config import Config
from sslkit.config.build import FAILED, Builder
from sslkit.config.source import Problem
from sslkit.config.tree import Argument, Missing, Node
from sslkit.errors import ConfigError
from sslkit.method import Method
from sslkit.parameters import range_of
from sslkit.registry import did_you_mean
from sslkit.schedules import Schedule, Time
from sslkit.train import Plan, plan
from sslkit.types import Batch, Key, View

MOMENTS = 200  # of a run at which a schedule is looked at


def contradictions(settings: Config) -> list[Problem]:
    """Everything about a configuration that does not fit together.

    Method and views are built on tensors without content and take one step, so every size, head, level and search that
    does not fit shows itself. What a configuration leaves open, or has wrong already, is passed over.
    """
    builder = Builder()
    problems: list[Problem] = []
    for entry in settings.tree.entries.values():
        if entry.known.name == "train":
            problems += _of_training(settings, entry, builder)
        else:
            builder.arguments(entry)
    return [*builder.problems, *problems]


def _of_training(settings: Config, train: Node, builder: Builder) -> list[Problem]:
    built = {name: _built(train, name, builder) for name in ("augmenter", "data", "evaluations", "optimizer")}
    with torch.device("meta"):
        method = _built(train, "method", builder)
    problems = [*_heads(train), *_searches(train)]
    length = None
    if method is not None and built["data"] is not None:
        length, found = _plan(settings, method, len(built["data"]))
        problems += found
    problems += _schedules(settings, length)
    if method is not None and built["augmenter"] is not None:
        views = _views(settings, built["augmenter"])
        problems += views if isinstance(views, list) else _step(settings, method, views, bool(problems))
        for name, protocol in (built["evaluations"] or {}).items():
            problems += _evaluation(train, name, protocol, method)
    return problems


def _built(train: Node, name: str, builder: Builder) -> Any:
    """A part of a run; None if it is open, wrong or refused."""
    argument = train.arguments[name]
    made = builder.value(argument.value, argument.origin)
    return None if made is FAILED else made


def _of_method(train: Node, name: str) -> Any:
    """A value of the method, not built; None where it is open."""
    method = train.arguments["method"].value
    value = method.arguments[name].value if isinstance(method, Node) else None
    return None if isinstance(value, Missing) else value


def _terms(train: Node) -> list[Node]:
    return [term for term in (_of_method(train, "terms") or {}).values() if isinstance(term, Node)]


def _heads(train: Node) -> Iterator[Problem]:
    with torch.device("meta"):
        heads = [Builder().value(head) for head in _of_method(train, "heads") or ()]
    if not heads or any(head is FAILED for head in heads):
        return
    has = [name for head in heads for name in head.names]
    for term in _terms(train):
        head = term.arguments["head"]
        if isinstance(head.value, str) and head.value not in has:
            yield _problem(head, f"no head has an output {head.value!r}", _one_of(head.value, has))


def _searches(train: Node) -> Iterator[Problem]:
    has = list(_of_method(train, "searches") or {})
    for term in _terms(train):
        aligner = term.arguments["aligner"].value
        search = aligner.arguments.get("search") if isinstance(aligner, Node) else None
        if search is not None and isinstance(search.value, str) and search.value not in has:
            yield _problem(search, f"the method has no search {search.value!r}", _one_of(search.value, has))


def _plan(settings: Config, method: Method, n_images: int) -> tuple[Plan | None, list[Problem]]:
    asked = {
        name: settings.argument("train", name).value for name in ("batch_size", "accumulate", "n_epochs", "n_steps")
    }
    if any(value is not None and not isinstance(value, int) for value in asked.values()):
        return None, []
    try:
        return plan(method, n_images, **asked), []
    except ConfigError as error:
        return None, [_speaking_of(settings, error)]


def _schedules(settings: Config, length: Plan | None) -> Iterator[Problem]:
    """Schedules that leave the range of what they schedule at some moment of the run."""
    n_steps, per_epoch = (length.n_steps, length.per_epoch) if length else (10_000, 100)
    steps = sorted({round(i * (n_steps - 1) / MOMENTS) for i in range(MOMENTS + 1)})
    for node in settings.tree.nodes():
        for name, argument in node.arguments.items():
            allowed = range_of(node.known.parameters[name].hint)
            schedule = Builder().value(argument.value) if isinstance(argument.value, Node) and allowed else None
            if allowed is None or not isinstance(schedule, Schedule):
                continue
            for step in steps:
                value = schedule(Time(step, n_steps, per_epoch))
                if value not in allowed:
                    yield _problem(argument, f"it is {value:g} at step {step}, but {name} must be {allowed}")
                    break


def _views(settings: Config, augmenter: Callable[..., list[View]]) -> list[Problem] | tuple[list[View], int]:
    try:
        return augmenter([Image.new("RGB", (64, 64))], Key(0, 0, 0)), augmenter.n_global  # type: ignore[attr-defined]
    except (ValueError, RuntimeError, IndexError) as error:
        return [_speaking_of(settings, error)]


def _step(settings: Config, method: Method, seen: tuple[list[View], int], is_wrong: bool) -> list[Problem]:
    """One step on tensors without content; only if nothing is wrong with the method that would show again here."""
    views, n_global = seen
    batch = Batch(
        views=tuple(View.stack([view, view]).to("meta") for view in views),
        n_global=n_global,
        index=torch.zeros(2, dtype=torch.long, device="meta"),
    )
    with torch.device("meta"):
        try:
            method.train().set_time(Time())
            method.look(batch) if is_wrong else method(batch).total.backward()
        except (ValueError, RuntimeError, TypeError, AssertionError, LookupError, AttributeError) as error:
            sizes = ", ".join(f"{v.pixels.shape[-1]} px" for v in views)
            return [_speaking_of(settings, ValueError(f"a step does not work on views of {sizes}: {error}"))]
    return []


def _evaluation(train: Node, name: str, protocol: Any, method: Method) -> Iterator[Problem]:
    """What a protocol says of the backbone, before it is run."""
    node = train.arguments["evaluations"].value[name]
    try:
        protocol.check(method.teacher.backbone)
    except (ValueError, RuntimeError, AssertionError) as error:
        spoken_of = [a for key, a in node.arguments.items() if a.origin and f"{key}=" in str(error)]
        yield _problem((spoken_of or [train.arguments["evaluations"]])[0], f"evaluation {name!r}: {error}")


def _problem(argument: Argument, wrong: str, hint: str = "") -> Problem:
    origin = argument.origin
    said = f"{origin} = {origin.value!r}: {wrong}" if origin else wrong
    return Problem(origin.place if origin else None, str(origin or ""), said, hint)


def _speaking_of(settings: Config, error: Exception) -> Problem:
    """An error as a problem, with the bindings that it speaks of."""
    bindings = settings.spoken_of(str(error))
    if not bindings:
        return Problem(None, "", str(error))
    first, *others = bindings
    rest = "".join(f"\n  {b.place}: {b} = {b.value!r}" for b in others)
    return Problem(first.place, str(first), f"{first} = {first.value!r}: {error}{rest}")


def _one_of(word: str, known: list[str]) -> str:
    near = did_you_mean(word, known).removeprefix("; ")
    return f"{near + ' ' if near else ''}there is: {', '.join(known) or 'none'}"
