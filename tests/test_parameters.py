"""What parameters accept: the words of `sslkit.parameters`, and that every registered class uses them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest

import sslkit.components
import sslkit.config
import sslkit.train  # noqa: F401  the registry is full now
from sslkit.clusterers import KMeans
from sslkit.component import Component
from sslkit.errors import ConfigError
from sslkit.evaluate.samples import Samples
from sslkit.parameters import (
    Count,
    Folder,
    Natural,
    NonNegative,
    Parameter,
    Positive,
    Seed,
    Share,
    Within,
    checked,
    misfit,
    parameters,
    range_of,
    refuse,
    refuse_unordered,
    spell,
)
from sslkit.registry import everything
from sslkit.schedules import Constant, Linear, Schedule, Scheduled, Time
from sslkit.train import train

NAN, INF = float("nan"), float("inf")
Rate = Annotated[Scheduled, Within(0, 1)]
Word = Literal["image", "batch"]
Pair = tuple[Natural, Natural]


@dataclass
class Later:
    """An object that is not built yet."""

    promised: type | None


# ranges


@pytest.mark.parametrize(
    "within, inside, outside, spelled",
    [
        (Within(least=1), (1, 2.5, INF), (0.999, -INF, NAN), "at least 1"),
        (Within(most=2), (2, -INF), (2.001, INF, NAN), "at most 2"),
        (Within(above=0), (1e-300, INF), (0, -0.0, -1, NAN), "above 0"),
        (Within(0, 0.5), (0, 0.5), (-0.001, 0.501, INF, NAN), "from 0 to 0.5"),
        (Within(above=0, most=1), (0.001, 1), (0, 1.001, NAN), "above 0 and at most 1"),
        (Within(0, 2**32 - 1), (2**32 - 1,), (2**32,), "from 0 to 4294967295"),
        (Within(), (-INF, 0, INF), (NAN,), "a number"),
    ],
)
def test_a_range_holds_its_ends_but_not_what_it_lies_above_and_says_so(within, inside, outside, spelled):
    assert all(x in within for x in inside)
    assert not any(x in within for x in outside)
    assert str(within) == spelled


@pytest.mark.parametrize(
    "hint, found",
    [
        (Count, Within(least=1)),
        (Count | None, Within(least=1)),
        (Rate, Within(0, 1)),
        (Rate | None, Within(0, 1)),
        (int, None),
        (Scheduled, None),
        (Sequence[Share], None),
        (Folder, None),
    ],
)
def test_the_range_of_a_number_is_found_beside_its_alternatives(hint, found):
    assert range_of(hint) == found


# spelling


@pytest.mark.parametrize(
    "hint, spelled",
    [
        (int, "int"),
        (None, "None"),
        (Any, "Any"),
        (Count, "int (at least 1)"),
        (Count | None, "int (at least 1) | None"),
        (Annotated[Count, Within(most=12)], "int (at least 1 and at most 12)"),
        (Seed, "int (from 0 to 4294967295)"),
        (Rate | None, "float | Schedule (from 0 to 1) | None"),
        (Word, "'image' | 'batch'"),
        (Word | None, "'image' | 'batch' | None"),
        (Folder, "str | Path (an existing folder)"),
        (Sequence[Share], "Sequence[float (from 0 to 1)]"),
        (Mapping[str, Count], "Mapping[str, int (at least 1)]"),
        (Pair, "tuple[int (at least 0), int (at least 0)]"),
        (tuple[float, ...], "tuple[float, ...]"),
        (Callable[..., dict[str, Any]], "Callable[..., dict[str, Any]]"),
        (Annotated[int, "a remark"], "int"),
        (Schedule, "Schedule"),
    ],
)
def test_a_type_is_spelled_as_a_person_writes_it(hint, spelled):
    assert spell(hint) == spelled


def test_a_parameter_is_spelled_with_its_default():
    assert str(Parameter("n", Count)) == "n: int (at least 1)"
    assert str(Parameter("n", Count | None, None)) == "n: int (at least 1) | None = None"


# misfits


FITTING = [
    (3, int),
    (3, float),
    (3.5, float),
    (True, bool),
    (1, Count),
    (None, Count | None),
    (0.5, Rate),
    (Constant(7.0), Rate),
    (None, Rate | None),
    ("batch", Word),
    ([0.1, 1], Sequence[Share]),
    ((0, 3), Pair),
    ((1.0, 2.0, 3.0), tuple[float, ...]),
    ({"a": 2}, Mapping[str, Count]),
    ({}, Mapping[str, Count]),
    ("~/data", Folder),
    (Path("data"), Folder),
    (print, Callable[..., Any]),
    (Linear, type[Schedule] | str),
    ([1, "x"], Any),
    ([], Samples),
    (Later(Constant), Rate),
    (Later(None), Count),
    (Later(None), Word),
    (Later(list), Samples),
    (Later(Linear), Callable[..., float]),
    ([Later(KMeans)], Sequence[Component]),
]


@pytest.mark.parametrize("value, hint", FITTING)
def test_what_fits_is_not_complained_of(value, hint):
    assert misfit(value, hint) is None
    refuse("x", value, hint)


@pytest.mark.parametrize(
    "value, hint, message",
    [
        (3.5, int, "does not fit its type, int"),
        (True, int, "does not fit its type, int"),
        (True, Share, "does not fit its type, float (from 0 to 1)"),
        ("3", Count, "does not fit its type, int (at least 1)"),
        (None, Count, "does not fit its type, int (at least 1)"),
        (1.5, Count | None, "does not fit its type, int (at least 1) | None"),
        ("x", Rate, "does not fit its type, float | Schedule (from 0 to 1)"),
        ("x", Word, "is not allowed: it must be 'image' or 'batch'"),
        (3, Word, "does not fit its type, 'image' | 'batch'"),
        ("x", Word | None, "does not fit its type, 'image' | 'batch' | None"),
        ("ab", Sequence[str], "does not fit its type, Sequence[str]"),
        ([1, "x"], Sequence[Share], "does not fit its type, Sequence[float (from 0 to 1)]"),
        ((1, 2, 3), Pair, "does not fit its type, tuple[int (at least 0), int (at least 0)]"),
        ({1: 1}, Mapping[str, int], "does not fit its type, Mapping[str, int]"),
        (3, Samples, "does not fit its type, Samples"),
        (3, Callable[..., Any], "does not fit its type, Callable[..., Any]"),
        (Later(KMeans), Rate, "does not fit its type, float | Schedule (from 0 to 1)"),
        (Later(KMeans), Word, "does not fit its type, 'image' | 'batch'"),
        (Later(int), Samples, "does not fit its type, Samples"),
        (Later(int), Callable[..., Any], "does not fit its type, Callable[..., Any]"),
        (0, Count, "is not allowed: it must be at least 1"),
        (0, Count | None, "is not allowed: it must be at least 1"),
        (NAN, Positive, "is not allowed: it must be above 0"),
        (INF, Share, "is not allowed: it must be from 0 to 1"),
        (1.5, Rate | None, "is not allowed: it must be from 0 to 1"),
        (13, Annotated[Count, Within(most=12)], "is not allowed: it must be at most 12"),
        ([0.5, 2], Sequence[Share], "is not allowed: it must be made of numbers from 0 to 1"),
        ((3, -1), Pair, "is not allowed: it must be made of numbers at least 0"),
        ({"a": 0}, Mapping[str, Count], "is not allowed: it must be made of numbers at least 1"),
        ({-1: 0.0}, Mapping[NonNegative, float], "is not allowed: it must be made of numbers at least 0"),
        ([[0.5], [2.0]], Sequence[Sequence[Share]], "is not allowed: it must be made of numbers from 0 to 1"),
    ],
)
def test_a_misfit_is_told_with_what_would_be_right(value, hint, message):
    assert misfit(value, hint) == message


# refusals


@pytest.mark.parametrize(
    "value, hint, wanted",
    [
        (0, Count, "at least 1"),
        (-1, Natural | None, "at least 0"),
        (0.0, Positive, "above 0"),
        (NAN, Share, "from 0 to 1"),
        (NAN, Count | None, "at least 1"),
        (np.int64(0), Count, "at least 1"),
        (np.float32(2), Share, "from 0 to 1"),
        (2.5, Count, "a whole number"),
        (2.5, Count | None, "a whole number"),
        (True, Count, "a whole number"),
        (-1, Seed, "from 0 to 4294967295"),
        (2, Rate | None, "from 0 to 1"),
        ("x", Word, "'image' or 'batch'"),
        (None, Word, "'image' or 'batch'"),
        ("x", Word | None, "'image' or 'batch'"),
        ((0.5, 2), Sequence[Share], "made of numbers from 0 to 1"),
        ([1.5, 2], Pair, "made of whole numbers"),
        ({"a": 0}, Mapping[str, Count], "made of numbers at least 1"),
        (["image", "x"], Sequence[Word], "made of 'image' or 'batch'"),
    ],
)
def test_a_number_or_word_that_is_not_allowed_is_refused_by_name(value, hint, wanted):
    with pytest.raises(ValueError) as refused:
        refuse("x", value, hint)
    assert str(refused.value) == f"x={value!r}, but it must be {wanted}"


@pytest.mark.parametrize(
    "value, hint",
    [
        ("3", Count),
        ("3", Count | None),
        ("ab", Sequence[Share]),
        ("fgsm", Sequence[Word]),
        ("x", Rate),
    ],
)
def test_a_word_in_place_of_something_else_is_refused(value, hint):
    with pytest.raises(ValueError, match=f"x={value!r}, but it must be "):
        refuse("x", value, hint)


@pytest.mark.parametrize("value", [object(), [], np.int64(3), Path("x")])
def test_other_types_are_left_to_python(value):
    refuse("x", value, Count)
    refuse("x", value, Sequence[Share])


@pytest.mark.parametrize("span", [(2, 1), (1,), (1, 2, 3), [], 3, None, "ab"])
def test_a_span_is_a_pair_with_the_lowest_first(span):
    refuse_unordered(other=(1, 1), another=[0.5, 2])
    with pytest.raises(ValueError) as refused:
        refuse_unordered(other=(1, 1), scale=span)
    assert str(refused.value) == f"scale={span!r}, but it must be a pair (lowest, highest)"


# checked classes


class Base:
    def __init__(self, n: Count, *, words: Word = "image", span: Pair = (0, 1)):
        self.n, self.words = n, words


class Same(Base):
    """Inherits `__init__` and what it refuses."""


class Own(Base):
    def __init__(self, rate: Rate, *, n: Annotated[int, Within(most=5)] = 1):
        super().__init__(n)
        self.rate = rate


for made in (Base, Same, Own):
    checked(made)


def test_a_checked_class_takes_what_it_took():
    assert Base(2).n == Same(n=2, words="batch").n == Own(0.5, n=2).n == 2
    assert list(inspect.signature(Own).parameters) == ["rate", "n"]
    assert Base.__init__.__wrapped__.__qualname__ == "Base.__init__"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Base(0), "n=0, but it must be at least 1"),
        (lambda: Base(n=0), "n=0, but it must be at least 1"),
        (lambda: Base(1, words="x"), "words='x', but it must be 'image' or 'batch'"),
        (lambda: Base(1, span=(0, -1)), r"span=(0, -1), but it must be made of numbers at least 0"),
        (lambda: Same(0), "n=0, but it must be at least 1"),
        (lambda: Own(2.0), "rate=2.0, but it must be from 0 to 1"),
        (lambda: Own(0.5, n=6), "n=6, but it must be at most 5"),
        (lambda: Own(0.5, n=0), "n=0, but it must be at least 1"),  # refused by the class it extends
    ],
)
def test_a_checked_class_refuses_what_its_annotations_do_not_allow(make, message):
    with pytest.raises(ValueError) as refused:
        make()
    assert str(refused.value) == message


def test_a_wrong_call_of_a_checked_class_fails_as_python_says_it():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'm'"):
        Base(0, m=1)
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'n'"):
        Base()


def test_checking_twice_checks_once():
    before = Base.__init__
    checked(Base)
    assert Base.__init__ is before


# every registered class and function

KNOWN = [pytest.param(known, id=known.name) for known in everything()]
LINE = {"start", "end"}
ANY_NUMBER = {
    "product": {"factors"},
    "total": {"parts"},
    "schedules.Constant": {"value"},
    "schedules.Cosine": LINE | {"warmup_start"},
    "schedules.ScaledCosine": LINE | {"warmup_start"},
    "schedules.Linear": LINE,
    "schedules.Scaled": {"value"},
    "schedules.Piecewise": {"values"},
    "schedules.Product": {"factors"},
    "backbones.Timm": {"patch_layer"},  # counts from either end of a network
    "Term": {"weight"},
    "evaluate.DenseRetrieval": {"ignore_index"},  # any label that no class has, and data sets have their own
}


def has_free_number(hint, is_bound=False):
    """Whether a number in the annotation may be any number."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return has_free_number(args[0], is_bound or any(isinstance(bound, Within) for bound in args[1:]))
    if origin is Literal:
        return False
    return (hint in (int, float) and not is_bound) or any(has_free_number(arg, is_bound) for arg in args)


def called_with(known, name, value):
    """The call with one argument given, and all that it cannot do without."""
    needed = {p.name: None for p in parameters(known.thing).values() if p.is_required}
    return known.thing(**{**needed, name: value})


@pytest.mark.parametrize("known", KNOWN)
def test_annotations_can_be_read_at_run_time(known):
    function = known.thing.__init__ if inspect.isclass(known.thing) else known.thing
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)  # else no range is enforced
    assert hints.keys() >= inspect.signature(known.thing).parameters.keys()
    assert {p.name: p.hint for p in parameters(known.thing).values()}.items() <= hints.items()


@pytest.mark.parametrize("known", KNOWN)
def test_every_number_declares_its_range(known):
    free = {p.name for p in parameters(known.thing).values() if has_free_number(p.hint)}
    assert free == ANY_NUMBER.get(known.name, set())


@pytest.mark.parametrize("known", KNOWN)
def test_every_default_is_one_that_could_be_given(known):
    wrong = {p.name: misfit(p.default, p.hint) for p in parameters(known.thing).values() if not p.is_required}
    assert {name: message for name, message in wrong.items() if message} == {}


@pytest.mark.parametrize("known", KNOWN)
def test_every_range_is_enforced(known):
    for name, parameter in parameters(known.thing).items():
        declared = range_of(parameter.hint)
        if declared:
            for value in (declared.least - 1, declared.above, declared.most + 1, NAN):
                if value not in declared and abs(value) != INF:
                    with pytest.raises(ValueError) as refused:
                        called_with(known, name, value)
                    assert str(refused.value) == f"{name}={value!r}, but it must be {declared}"


@pytest.mark.parametrize("known", KNOWN)
def test_every_choice_of_words_is_enforced(known):
    for name, parameter in parameters(known.thing).items():
        if get_origin(parameter.hint) is Literal:
            with pytest.raises(ValueError, match=f"^{name}='no such word', but it must be '"):
                called_with(known, name, "no such word")


def test_training_says_of_its_own_numbers_that_the_configuration_is_wrong():
    given = dict(run_dir=None, method=None, data=None, augmenter=None, optimizer=None)
    with pytest.raises(ConfigError) as refused:
        train(**given, batch_size=0)
    assert str(refused.value) == "batch_size=0, but it must be at least 1"
    with pytest.raises(ConfigError) as refused:
        train(**given, batch_size=8, n_workers=-1)
    assert str(refused.value) == "n_workers=-1, but it must be at least 0"


# schedules


class Scheduling(Component):
    def __init__(self, *, rate: Rate, weight: Scheduled = 1.0):
        super().__init__()
        self.schedule("rate", rate)
        self.schedule("weight", weight)


def test_a_schedule_is_refused_when_it_leaves_the_range_of_its_parameter():
    part = Scheduling(rate=Linear(0.5, 2.0), weight=Linear(-3.0, 9.0))
    part.set_time(Time(0, 4))
    with pytest.raises(ValueError) as refused:
        part.set_time(Time(3, 4))
    assert str(refused.value) == "rate=2, but it must be from 0 to 1"
    with pytest.raises(ValueError) as refused:
        Scheduling(rate=0.5, weight=NAN)
    assert str(refused.value) == "weight=nan, but it must be a number"
