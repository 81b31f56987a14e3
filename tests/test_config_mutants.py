"""A gin file with one mistake in it is refused at that mistake, or says what it does: nothing falls silently away."""

import collections.abc
import math
import random
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from PIL import Image

import sslkit.components  # noqa: F401
from sslkit import config, preflight
from sslkit.config.tree import Node
from sslkit.parameters import Existing, Within
from sslkit.registry import everything

N_MUTANTS = 85  # of each file
BUILT = 17  # one in so many is looked at for contradictions too, which takes its time
# a file that is only part of a run, and the files of a run that it is part of
RUNS = {
    "gin/base/adaptive_partners.gin": "gin/adasim.gin",
    "gin/base/byol.gin": "gin/byol.gin",
    "gin/base/co_byol.gin": "gin/co_byol.gin",
    "gin/base/co_dino.gin": "gin/co_dino.gin",
    "gin/base/co_in100.gin": "gin/recipes/co_mocov3_in100_resnet18.gin",
    "gin/base/co_mocov3.gin": "gin/co_mocov3.gin",
    "gin/base/cribo.gin": "gin/cribo.gin",
    "gin/base/cribo_authors.gin": "gin/recipes/cribo_in1k_vits16.gin",
    "gin/base/dino.gin": "gin/dino.gin",
    "gin/base/ibot.gin": "gin/ibot.gin",
    "gin/base/objects.gin": "gin/dino.gin gin/base/objects.gin",
    "gin/base/mocov3.gin": "gin/mocov3.gin",
    "gin/base/nnclr.gin": "gin/nnclr.gin",
    "gin/base/partner_view.gin": "gin/hybrids/cribo_partner.gin",
    "gin/base/robustness.gin": "gin/protocols/objects_robustness.gin",
    "gin/base/scenes.gin": "gin/cribo.gin",
    "gin/base/simsiam.gin": "gin/simsiam.gin",
    "gin/base/swav.gin": "gin/swav.gin",
    "gin/base/msn.gin": "gin/msn.gin",
    "gin/base/small.gin": "gin/cribo.gin",
    "gin/base/small_prototypes.gin": "gin/cribo.gin",
    "gin/base/two_views.gin": "gin/cribo.gin",
}
OPEN = {
    "gin/recipes": "train.data = @datasets.Scenes()",
    **dict.fromkeys((f"gin/protocols/{name}" for name in ("camvid", "folder", "imagenet")), "DATA = '.'"),
}

NAMES = sorted(
    {known.name for known in everything()}
    | {parameter for known in everything() for parameter in known.parameters}
    | {"image", "region", "across", "objects", "one", "two", "momentum", "lr", "val", "DATA", "CRIBO_TERMS"}
)
VALUES = [
    *(
        "3",
        "-1",
        "0",
        "2.5",
        "1e999",
        "1" + "0" * 22,
        "'text'",
        "''",
        "True",
        "None",
        "nan",
        "[1, 2]",
        "(0.1, 0.2)",
        "()",
    ),
    *(
        "{}",
        "{'image': 3}",
        "{'image': @image/Term()}",
        "%B",
        "%gin.REQUIRED",
        "@Method()",
        "@matchers.Cycle()",
        "@train()",
    ),
    *("@matchers.Cycle", "@merge()", "@lr/schedules.Cosine()"),
]
NUMBERS = ["0", "1", "-1", "7", "0.3", "1.0", "255", "99999", "3000000000", "1e30", "1e400", "1e-30", "1" + "0" * 400]
CHARACTERS = "abz019._-+/@%'\"()[]{}=,:# \t\n\\\0é*"


def drop(text, rng):
    at = rng.randrange(len(text))
    return text[:at] + text[at + 1 :]


def insert(text, rng):
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(CHARACTERS) + text[at:]


def rename(text, rng):
    return _replace(r"[A-Za-z_][\w.]*", text, rng.choice(NAMES), rng)


def renumber(text, rng):
    return _replace(r"(?<![\w])\d+(\.\d+)?(e-?\d+)?", text, rng.choice(NUMBERS), rng)


def retype(text, rng):
    return _replace(r"(?m)(?<= = ).*$", text, rng.choice(VALUES), rng)


def duplicate(text, rng):
    lines = text.splitlines()
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return "\n".join(lines) + "\n"


def delete(text, rng):
    lines = text.splitlines()
    del lines[rng.randrange(len(lines))]
    return "\n".join(lines) + "\n"


def swap(text, rng):
    lines = text.splitlines()
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines) + "\n"


def _replace(pattern, text, new, rng):
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    at = rng.choice(found)
    return text[: at.start()] + new + text[at.end() :]


MUTATIONS = (drop, insert, rename, renumber, retype, duplicate, delete, swap)


@pytest.mark.filterwarnings("ignore")  # timm's, of models that no file should name
@pytest.mark.parametrize("file", config.shipped())
def test_a_mutant_is_refused_where_it_is_wrong_or_shows_what_it_does(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where an include is looked for first, and protocols look for images
    for place in ("train/ant/0.png", "train/bee/0.png", "val/ant/0.png", "val/bee/0.png"):
        Path(place).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place)
    lines = (config.search_path() / file).read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))  # a mistake in a comment is none
    original, problems = _run(file)
    assert not problems
    rng = random.Random(file)
    for number in range(N_MUTANTS):
        mutation = MUTATIONS[number % len(MUTATIONS)]
        mutant = mutation(text, rng)
        builds = number % BUILT == 0 and mutation not in (
            renumber,
            retype,
        )  # three thousand million layers take a while
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(mutant)
        try:
            _judge(file, original, builds=builds, is_short=mutation is delete)
        except Exception as error:
            raise AssertionError(f"mutant {number} of {file}, by {mutation.__name__}:\n{mutant}") from error


def _run(file):
    run = RUNS.get(file, file)
    given = [binding for folder, binding in OPEN.items() if run.startswith(folder)]
    return config.examine(run.split(), given)


def _judge(file, original, *, builds, is_short):
    """Refused at the file, unless a line is missing and others show it; else the same, or different and said so."""
    settings, problems = _run(file)
    left_open = settings.left_open()
    contrary = preflight.contradictions(settings) if builds else []
    if any(f"{file}:" in str(problem) for problem in contrary):  # of what contradicts, each side is named
        return
    problems += contrary
    if problems:
        assert is_short or any(
            str(problem).startswith((f"{file}:", f"{file} binds nothing")) for problem in problems
        ), problems
    elif settings.operative == original.operative:
        assert not left_open
    else:
        _assert_tree_fits(settings)
        if not left_open:  # else what is missing is said
            Path("operative.gin").write_text(settings.operative)
            again, problems = config.examine(["operative.gin"])
            assert not problems
            assert again.operative == settings.operative


def _assert_tree_fits(settings):
    for node in settings.tree.nodes():
        for name, argument in node.arguments.items():
            if argument.origin is not None and repr(argument.value) != "%gin.REQUIRED":
                hint = node.known.parameters[name].hint
                assert fits(argument.value, hint), f"{node.name}.{name} = {argument.value!r} is no {hint}"


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of its type and in its range, by rules of this test alone."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, args[0]) and all(_within(value, bound) for bound in args[1:])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if isinstance(value, Node):
        wanted = origin or hint
        is_class = isinstance(wanted, type) and not getattr(wanted, "_is_protocol", False)
        return wanted is Any or wanted is collections.abc.Callable or not is_class or issubclass(value.promised, wanted)
    if origin is collections.abc.Mapping:
        return isinstance(value, dict) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(args) and all(map(fits, value, args))
    if origin is collections.abc.Sequence:
        return isinstance(value, (list, tuple)) and all(fits(item, args[0]) for item in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return hint is Any or (value is None if hint is type(None) else type(value) is hint)


def _within(value: Any, bound: Any) -> bool:
    if isinstance(bound, Within) and type(value) in (int, float):
        return bound.least <= value <= bound.most and (value > bound.above or bound.above == -math.inf)
    return not isinstance(bound, Existing) or Path(value).is_dir()


def test_the_rules_of_this_test_tell_wrong_values():
    ratio = Annotated[float, Within(above=0, most=1)]
    assert [fits(x, ratio | None) for x in (0.0, 1, 1.5, None, True, math.inf)] == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]
    assert [fits(x, tuple[int, int]) for x in ((1, 2), (1, 2, 3), [1, 2], (1, 2.0))] == [True, False, False, False]
    assert [fits(x, collections.abc.Mapping[str, ratio]) for x in ({"a": 1}, {1: 1}, {"a": 2})] == [True, False, False]
