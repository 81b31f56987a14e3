"""What can be known to be wrong before any step is taken: settings that contradict one another."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sslkit.augmenters import Augmenter
from sslkit.backbones.hiding import kept
from sslkit.component import LARGEST
from sslkit.config import Config
from sslkit.config.build import FAILED, Builder
from sslkit.config.problem import Problem
from sslkit.config.syntax import Binding, walk
from sslkit.config.tree import Argument, Missing, Node
from sslkit.errors import ConfigError
from sslkit.method import Method
from sslkit.optimizer import Optimizer
from sslkit.parameters import Within, asks_for_folder, range_of
from sslkit.plan import Plan, plan, refuse_sources, refuse_untrained
from sslkit.registry import did_you_mean
from sslkit.schedules import Schedule, Time
from sslkit.slurm import Slurm
from sslkit.types import Batch, Key, View

_LOOKS = ("source", "size")  # of a crop: which image it shows, at how many pixels
DRAWS = 8  # of masks that are compared


def contradictions(settings: Config, n_ranks: int | None = 1) -> list[Problem]:
    """Everything about a configuration that does not fit together, for a run on so many ranks; None: as for Slurm.

    Components of others are asked here, and may raise anything: what they say is a problem as well.

    Method and views are built on tensors without content and take one step, so every size, head, level and search that
    does not fit shows itself. What a configuration leaves open, or has wrong already, is passed over.
    """
    builder = Builder()
    problems = list(_folders(settings))
    missing = {problem.binding for problem in problems}
    resources, found = _resources(settings)
    problems += found
    for entry in settings.tree.entries.values():
        if entry.known.name == "train":
            problems += _of_training(settings, entry, builder, resources.n_ranks if n_ranks is None else n_ranks)
        else:
            builder.arguments(entry)
    return [*(problem for problem in builder.problems if problem.binding not in missing), *problems]


def _folders(settings: Config) -> Iterator[Problem]:
    """Folders that a run would read and that are not there."""
    for node in settings.tree.nodes():
        for name, argument in node.arguments.items():
            if isinstance(argument.value, str) and asks_for_folder(node.known.parameters[name].hint):
                looked = _missing(Path(argument.value))
                if looked is not None:
                    yield _problem(argument, "there is no such folder", f"looked at {looked}")


def _missing(folder: Path) -> Path | None:
    """Where it was looked for, if it is not there."""
    try:
        return None if folder.is_dir() else folder
    except (OSError, ValueError):  # a name that no folder can have
        return folder


def _of_training(settings: Config, train: Node, builder: Builder, n_ranks: int) -> list[Problem]:
    built = {name: _built(train, name, builder) for name in ("augmenter", "data", "evaluations", "optimizer")}
    with torch.device("meta"):
        method = _built(train, "method", builder)
    problems = [*_heads(settings, train), *_searches(train)]
    problems += _unused(train, method) if method is not None else []
    problems += _centerings(train, method) if method is not None else []
    problems += [*_device(train), *_best(train)]
    length = None
    if method is not None and built["data"] is not None:
        length, found = _plan(settings, train, method, built["data"], n_ranks)
        problems += found
    if method is not None and length is not None:
        problems += _untrained(settings, train, method, length)
    if method is not None and built["optimizer"] is not None:
        problems += _optimizer(settings, built["optimizer"], method)
    if method is not None:
        problems += _room(settings, method, built["data"])
    problems += _schedules(settings, length, {problem.binding for problem in builder.problems})
    if method is not None and built["augmenter"] is not None:
        views = _views(settings, method, built["augmenter"])
        if isinstance(views, tuple):
            found = _together(settings, train, method, views) or _dropped(settings, method, built["augmenter"])
            views = found or views
        problems += views if isinstance(views, list) else _step(settings, method, views, length, bool(problems))
        for name, protocol in (built["evaluations"] or {}).items():
            problems += _evaluation(train, name, protocol, method)
    return problems


def _resources(settings: Config) -> tuple[Slurm, list[Problem]]:
    """What is asked of Slurm; the defaults and why not, if it does not fit together."""
    try:
        return (Slurm(**settings.build("Slurm")) if settings.has("Slurm") else Slurm()), []
    except ValueError as error:
        return Slurm(), [_speaking_of(settings, error)]


def _room(settings: Config, method: Method, data: Sized | None) -> list[Problem]:
    """Tables that have another number of rows than the data set has images."""
    try:
        with torch.device("meta"):
            method.make_room(256 if data is None else len(data))
    except (ValueError, OverflowError) as error:
        return [_speaking_of(settings, error)]
    return []


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


def _heads(settings: Config, train: Node) -> Iterator[Problem]:
    with torch.device("meta"):
        heads = [Builder().value(head) for head in _of_method(train, "heads") or ()]
    if not heads or any(head is FAILED for head in heads):
        return
    has = [name for head in heads for name in head.names]
    outputs = [node.arguments["outputs"] for node in settings.tree.nodes() if "outputs" in node.arguments]
    searches = [node for node in (_of_method(train, "searches") or {}).values() if isinstance(node, Node)]
    named_by = [(term, name) for term in _terms(train) for name in ("head", "target_head")]
    for node, name in [*named_by, *((search, "output") for search in searches)]:
        named = node.arguments[name]
        if isinstance(named.value, str) and named.value not in has:
            wrong = f"{node.name}.{name} names {named.value!r}, but no head has such an output; "
            yield _about(settings, ValueError(wrong + _one_of(named.value, has)), [named, *outputs])


def _searches(train: Node) -> Iterator[Problem]:
    has = list(_of_method(train, "searches") or {})
    for term in _terms(train):
        aligner = term.arguments["aligner"].value
        search = aligner.arguments.get("search") if isinstance(aligner, Node) else None
        if search is not None and isinstance(search.value, str) and search.value not in has:
            yield _problem(search, f"the method has no search {search.value!r}", _one_of(search.value, has))


def _unused(train: Node, method: Method) -> Iterator[Problem]:
    """Searches, a clusterer and heads that no term uses: they would cost time in every step, and do nothing."""
    given = train.arguments["method"].value
    if not isinstance(given, Node):
        return
    terms, searches = method.terms.values(), method.searches
    hint = "leave it out, or give a term that does"
    found = {term.aligner.search for term in terms} - {None}
    for name in searches.keys() - found if found <= searches.keys() else ():  # another name may be a wrong one
        yield _problem(given.arguments["searches"], f"no term uses the search {name!r}", hint)
    kinds = {kind for term in terms for kind in (term.aligner.reads, term.aligner.targets)}
    is_asked = "regions" in kinds or any(search.level == "region" for search in searches.values())
    if method.clusterer is not None and not is_asked:
        yield _problem(given.arguments["clusterer"], "no term and no search compares regions", hint)
    passed = {name for term in terms for name in (term.head, term.target_head)}
    passed |= {search.output for search in searches.values()}
    for head in method.student.heads:
        if not passed & set(head.names):
            names = " or ".join(map(repr, head.names))
            yield _problem(given.arguments["heads"], f"no term passes the head of {names}", hint)


def _centerings(train: Node, method: Method) -> Iterator[Problem]:
    made = train.arguments["method"].value
    centering = made.arguments["centering"] if isinstance(made, Node) else None
    has = list(method.student.head_of)
    if centering is None or not isinstance(centering.value, Mapping):
        return
    for name in centering.value:
        if name not in has:
            yield _problem(centering, f"no head has an output {name!r}", _one_of(name, has))


def _device(train: Node) -> Iterator[Problem]:
    """A name that no device has; whether this one is there is known only where the run is."""
    device = train.arguments["device"]
    try:
        if isinstance(device.value, str) and device.value != "auto" and torch.device(device.value).type == "meta":
            yield _problem(device, "tensors without content cannot be trained on")
    except RuntimeError:
        yield _problem(
            device, "torch knows no device of that name", "write 'auto', 'cpu', 'cuda', 'cuda:1' or the like"
        )


def _best(train: Node) -> Iterator[Problem]:
    """A checkpoint to be kept for what no evaluation of the run finds; which results one has shows when it is run."""
    best, known = train.arguments["keep_best"], train.arguments["evaluations"].value or {}
    if isinstance(best.value, str) and best.value.partition("/")[0] not in known:
        said = f"the run has no such evaluation; it has: {', '.join(known) or 'none'}"
        yield _problem(best, said, "write one of them with one of its results, such as 'dense/miou'")


def _optimizer(settings: Config, optimizer: Optimizer, method: Method) -> list[Problem]:
    try:
        optimizer.build(method)
    except ConfigError as error:
        return [_speaking_of(settings, error)]
    return []


def _plan(
    settings: Config, train: Node, method: Method, data: Sized, n_ranks: int
) -> tuple[Plan | None, list[Problem]]:
    sizes = ("batch_size", "accumulate")
    asked = {name: train.arguments[name].value for name in (*sizes, "n_epochs", "n_steps")}
    if any(value is not None and not isinstance(value, int) for value in asked.values()):
        return None, []
    try:
        n_images = len(data)
        return plan(method, n_images, **asked, n_ranks=n_ranks), []
    except OverflowError as error:
        return None, [_problem(train.arguments["data"], f"more images than can be counted: {error}")]
    except ConfigError as error:
        node = train.arguments["data"].value
        counts = [a for a in node.arguments.values() if a.value == n_images] if isinstance(node, Node) else []
        return None, [_speaking_of(settings, error, [*counts, *(train.arguments[name] for name in sizes)])]


def _untrained(settings: Config, train: Node, method: Method, length: Plan) -> list[Problem]:
    """Steps at which no term counts."""
    try:
        refuse_untrained(method, length)
    except ConfigError as error:
        weights = [term.arguments["weight"] for term in _terms(train)]
        return [_about(settings, ValueError(str(error)), weights)]
    except ValueError:
        pass  # a schedule that leaves its range is said elsewhere
    return []


def _schedules(settings: Config, length: Plan | None, refused: Collection[str]) -> Iterator[Problem]:
    """Schedules that leave the range of what they schedule at some moment of the run; not those refused already."""
    run = length or Plan(10_000, 100, 256)
    times, said = run.moments(), list[Binding | None]()
    for node in settings.tree.nodes():
        for name, argument in node.arguments.items():
            allowed = range_of(node.known.parameters[name].hint)
            schedule = Builder().value(argument.value) if isinstance(argument.value, Node) and allowed else None
            if allowed is None or not isinstance(schedule, Schedule) or str(argument.origin) in refused:
                continue
            wrong = _leaves(schedule, allowed, times)
            if wrong and argument.origin not in said:
                said.append(argument.origin)
                blamed = [argument, *argument.value.arguments.values()]
                yield _about(settings, ValueError(f"{node.name}.{name} {wrong}"), blamed)


def _leaves(schedule: Schedule, allowed: Within, times: Sequence[Time]) -> str:
    """How a schedule leaves its range; nothing if it does not."""
    for time in times:
        try:
            value = schedule(time)
        except Exception as error:
            return f"has no value at step {time.step}: {error}"
        if value not in allowed:
            return f"is {value:g} at step {time.step}, but it must be {allowed}"
        if not abs(value) <= LARGEST:
            return f"is {value:g} at step {time.step}, but it must be a finite number of single precision"
    return ""


def _views(settings: Config, method: Method, augmenter: Augmenter) -> list[Problem] | tuple[list[View], int]:
    try:
        refuse_sources(method, augmenter)
        return augmenter([Image.new("RGB", (64, 64))] * augmenter.n_sources, Key(0, 0, 0)), augmenter.n_global
    except Exception as error:
        return [_speaking_of(settings, error)]


def _together(settings: Config, train: Node, method: Method, seen: tuple[list[View], int]) -> list[Problem]:
    """Global views that are too many or too few for a memory, or that a clusterer cannot take together."""
    views, n_global = seen
    augmenter = train.arguments["augmenter"].value
    crops = augmenter.arguments["global_crops"] if isinstance(augmenter, Node) else Argument(None)
    problems = []
    own = [view for view in views[:n_global] if view.source == 0]  # the views that regions are seen in
    for name, search in method.searches.items():
        n_planes = n_global if search.level == "image" else len(own)
        if search.memory.n_planes not in (None, n_planes):
            views_ = "global views" if search.level == "image" else "global views of the image"
            wrong = f"{n_planes} {views_}, but the memory of the search {name!r} has n_planes={search.memory.n_planes}"
            problems.append(_about(settings, ValueError(wrong), [crops]))
    of_crops = [crop.arguments[name] for crop in walk(crops.value) if isinstance(crop, Node) for name in _LOOKS]
    sizes = list(dict.fromkeys(view.pixels.shape[-1] for view in own))
    if method.clusterer is not None and len(sizes) > 1:
        said = " and ".join(f"{size} px" for size in sizes)
        wrong = f"the global views show the image at {said}, but they are clustered together and must have one size"
        problems.append(_about(settings, ValueError(wrong), [crops, *of_crops]))
    if method.clusterer is not None and len(own) < 2 <= n_global:
        wrong = (
            f"{len(own)} of {n_global} global views shows the image and the others its partner, but regions are "
            f"clustered over views of one image, as positions in two images cannot be compared: a third view of the "
            f"image makes it possible (gin/base/partner_view.gin)"
        )
        problems.append(_about(settings, ValueError(wrong), [crops, *of_crops]))
    return problems


def _dropped(settings: Config, method: Method, augmenter: Augmenter) -> list[Problem]:
    """Masks that hide more of one view than of another, where what is hidden is dropped."""
    if method.student.backbone.mask != "drop":
        return []
    together: dict[tuple[int, int], list[Tensor]] = {}
    for index in range(DRAWS):
        for view in augmenter([Image.new("RGB", (64, 64))] * augmenter.n_sources, Key(0, 0, index)):
            if view.mask is not None:
                together.setdefault((view.pixels.shape[-1], len(view.mask)), []).append(view.mask)
    try:
        for masks in together.values():
            kept(torch.stack(masks))
    except ValueError as error:
        return [_speaking_of(settings, error)]
    return []


def _step(
    settings: Config, method: Method, seen: tuple[list[View], int], length: Plan | None, is_wrong: bool
) -> list[Problem]:
    """One step on tensors without content; only if nothing is wrong with the method that would show again here."""
    views, n_global = seen
    batch = Batch(
        views=tuple(View.stack([view, view]).to("meta") for view in views),
        n_global=n_global,
        index=torch.zeros(2, dtype=torch.long, device="meta"),
    )
    with torch.device("meta"):
        try:
            if is_wrong:
                method.train().look(batch)
            else:
                run = length or Plan(1, 1, 256)
                method.train().set_time(run.at(0))
                method(batch).total.backward()
        except Exception as error:
            sizes = ", ".join(f"{v.pixels.shape[-1]} px" for v in views)
            said = ValueError(f"a step does not work on views of {sizes}: {error}")
            return [_speaking_of(settings, said, _culprit(settings, error))]
    return []


def _evaluation(train: Node, name: str, protocol: Any, method: Method) -> Iterator[Problem]:
    """What a protocol says of the backbone, before it is run."""
    node = train.arguments["evaluations"].value[name]
    try:
        protocol.check(method.teacher.backbone)
    except Exception as error:
        spoken_of = [a for key, a in node.arguments.items() if a.origin and f"{key}=" in str(error)]
        yield _problem((spoken_of or [train.arguments["evaluations"]])[0], f"evaluation {name!r}: {error}")


def _problem(argument: Argument, wrong: str, hint: str = "") -> Problem:
    origin = argument.origin
    said = f"{origin} = {origin.value!r}: {wrong}" if origin else wrong
    return Problem(origin.place if origin else None, str(origin or ""), said, hint)


def _culprit(settings: Config, error: BaseException) -> list[Argument]:
    """What the component was given in whose code an error arose; where the views do not suit a backbone, they too."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    classes = [type(frame.f_locals.get("self")) for frame in reversed(frames)]
    of_class: dict[Any, list[Node]] = {}
    for node in settings.tree.nodes():
        if node.known.kind == "component":
            of_class.setdefault(node.known.thing, []).append(node)
    nodes = next((of_class[cls] for cls in classes if cls in of_class), [])
    askers = settings.tree.askers()
    given = [a for node in nodes for a in node.arguments.values() if a.origin]
    if any(node.known.role == "backbones" for node in nodes):
        crops = [node for node in settings.tree.nodes() if node.known.role == "augmenters"]
        given += [node.arguments[name] for node in crops for name in ("size", "masking") if name in node.arguments]
    return given or [Argument(node, askers.get(id(node))) for node in nodes]


def _speaking_of(settings: Config, error: Exception, or_else: Sequence[Argument] = ()) -> Problem:
    """An error as a problem, with the bindings that it speaks of, or those that are known to be behind it."""
    spoken_of = settings.spoken_of(str(error))
    return _about(settings, error, [Argument(None, binding) for binding in spoken_of] or or_else)


def _about(settings: Config, error: Exception, blamed: Sequence[Argument]) -> Problem:
    """An error as a problem, at the latest of the bindings that are behind it."""
    bindings = settings.latest_first(argument.origin for argument in blamed)
    if not bindings:
        return Problem(None, "", str(error))
    first, *others = bindings
    rest = "".join(f"\n  {b.place}: {b} = {b.value!r}" for b in others)
    return Problem(first.place, str(first), f"{first} = {first.value!r}: {error}{rest}")


def _one_of(word: str, known: list[str]) -> str:
    near = did_you_mean(word, known)
    return f"{near + ' ' if near else ''}there is: {', '.join(known) or 'none'}"
