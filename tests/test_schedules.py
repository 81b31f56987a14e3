"""Schedules against explicit tables and formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslkit.schedules import Constant, Cosine, Linear, Piecewise, Scaled, ScaledCosine, Schedule, Time, at


def over_run(schedule, n_steps, per_epoch=1, batch_size=256):
    return [schedule(Time(i, n_steps, per_epoch, batch_size)) for i in range(n_steps)]


@given(st.integers(0, 200), st.integers(1, 200), st.integers(1, 30))
def test_epochs_are_counted_in_whole_passes_and_the_last_may_be_short(step, n_steps, per_epoch):
    time = Time(step, n_steps, per_epoch)
    assert time.epoch * per_epoch <= step < (time.epoch + 1) * per_epoch
    assert (time.n_epochs - 1) * per_epoch < n_steps <= time.n_epochs * per_epoch


def test_a_number_stands_for_itself_at_any_time():
    assert at(0.3, Time(7, 10)) == 0.3
    assert at(Constant(0.3), Time(7, 10)) == 0.3
    assert at(Linear(0.0, 1.0, steps=11), Time(5, 20)) == 0.5


@pytest.mark.parametrize("n_steps", [1, 2, 10])
def test_a_cosine_is_half_a_wave_from_start_towards_end(n_steps):
    expected = [3 + 0.5 * (1 - 3) * (1 + math.cos(math.pi * i / n_steps)) for i in range(n_steps)]
    assert over_run(Cosine(1.0, 3.0), n_steps) == pytest.approx(expected)


def test_a_cosine_keeps_its_end_after_the_run():
    assert Cosine(1.0, 0.2)(Time(10, 10)) == pytest.approx(0.2)
    assert Cosine(1.0, 0.2)(Time(25, 10)) == pytest.approx(0.2)


@pytest.mark.parametrize("given_as", [dict(warmup_steps=4), dict(warmup_epochs=2), dict(warmup_epochs=1.9)])
def test_a_warm_up_includes_both_its_ends_so_that_the_peak_appears_twice(given_as):
    values = over_run(Cosine(0.9, 0.0, **given_as), 10, per_epoch=2)
    assert values[:5] == pytest.approx([0.0, 0.3, 0.6, 0.9, 0.9])
    assert values[5:] == pytest.approx([0.45 * (1 + math.cos(math.pi * i / 6)) for i in range(1, 6)])


def test_a_warm_up_starts_where_it_is_told_and_may_be_one_step_or_the_whole_run():
    assert over_run(Cosine(0.9, 0.0, warmup_steps=3, warmup_start=0.5), 3) == pytest.approx([0.5, 0.7, 0.9])
    assert over_run(Cosine(0.9, 0.1, warmup_steps=1), 2) == pytest.approx([0.0, 0.9])
    assert over_run(Cosine(0.9, 0.0, warmup_steps=10), 2) == pytest.approx([0.0, 0.1])


@pytest.mark.parametrize("batch_size", [64, 256, 1024])
def test_a_scaled_cosine_multiplies_its_peak_by_the_batch_and_not_its_end(batch_size):
    warm = dict(warmup_epochs=2)
    plain = over_run(Cosine(0.5 * batch_size / 256, 0.01, **warm), 20, 3)
    scaled = ScaledCosine(0.5, 0.01, **warm)
    assert over_run(scaled, 20, 3, batch_size) == pytest.approx(plain)
    assert scaled.start == 0.5


def test_a_line_takes_the_whole_run_unless_told_otherwise():
    assert over_run(Linear(1.0, 0.0), 5) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert over_run(Linear(1.0, 0.0, steps=3), 5) == pytest.approx([1.0, 0.5, 0.0, 0.0, 0.0])
    assert over_run(Linear(1.0, 0.0, epochs=2), 6, per_epoch=2) == pytest.approx([1, 2 / 3, 1 / 3, 0, 0, 0])


@pytest.mark.parametrize("start, end", [(0.2, 1.0), (0.05, 0.0), (0.1, 0.0), (0.8, 0.0)])
@pytest.mark.parametrize("n_steps", [7, 400, 1000])
def test_a_line_ends_on_its_end_and_never_leaves_its_range(start, end, n_steps):
    values = [Linear(start, end)(Time(step, n_steps)) for step in range(n_steps)]
    assert values[-1] == end and min(start, end) <= min(values) and max(values) <= max(start, end)


def test_a_stepwise_line_changes_at_the_start_of_an_epoch_only():
    values = over_run(Linear(0.04, 0.07, epochs=4, stepwise=True), 12, per_epoch=2)
    assert values == pytest.approx([0.04, 0.04, 0.05, 0.05, 0.06, 0.06, 0.07, 0.07, 0.07, 0.07, 0.07, 0.07])
    values = over_run(Linear(2.0, 0.0, stepwise=True), 6, per_epoch=2)
    assert values == pytest.approx([2, 2, 1, 1, 0, 0])


def test_a_line_of_one_step_or_epoch_is_its_start_and_then_its_end():
    assert over_run(Linear(1.0, 0.0, steps=1), 3) == [1.0, 0.0, 0.0]
    assert over_run(Linear(1.0, 0.0, epochs=1, stepwise=True), 4, per_epoch=2) == [1.0, 1.0, 0.0, 0.0]
    assert over_run(Linear(1.0, 0.0, epochs=0, stepwise=True), 2) == [0.0, 0.0]


def test_a_piecewise_value_holds_until_the_next_has_begun():
    schedule = Piecewise({2: 5.0, 0: 1.0, 2.5: 7.0})
    assert over_run(schedule, 8, per_epoch=2) == [1.0, 1.0, 1.0, 1.0, 5.0, 7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    "make, named",
    [
        (
            lambda: Cosine(1.0, 0.0, warmup_epochs=1, warmup_steps=10),
            "warmup_epochs=1, warmup_steps=10: give one of them",
        ),
        (lambda: Cosine(1.0, 0.0, warmup_fraction=0.1, warmup_steps=10), "warmup_steps=10, warmup_fraction=0.1: give"),
        (lambda: Linear(1.0, 0.0, epochs=1, steps=10), "epochs=1, steps=10: give one of them"),
        (lambda: Linear(1.0, 0.0, steps=10, stepwise=True), "stepwise=True with steps=10"),
        (lambda: Linear(1.0, 0.0, fraction=0.5, stepwise=True), "fraction=0.5"),
        (lambda: Piecewise({1: 1.0}), "must say what holds from epoch 0 on"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_length_may_be_a_share_of_the_run():
    short, long = (over_run(Cosine(1.0, 0.0, warmup_fraction=0.25), n) for n in (8, 40))
    assert short == over_run(Cosine(1.0, 0.0, warmup_steps=2), 8)
    assert long == over_run(Cosine(1.0, 0.0, warmup_steps=10), 40)
    assert over_run(Linear(1.0, 0.0, fraction=0.5), 8) == over_run(Linear(1.0, 0.0, steps=4), 8)


@pytest.mark.parametrize("rule, factor", [("linear", 4.0), ("sqrt", 2.0)])
def test_a_scaled_value_follows_the_batch_size_of_the_run(rule, factor):
    inner = Cosine(0.3, 0.1, warmup_steps=2)
    for step in range(6):
        time = Time(step, 6, 6, batch_size=1024)
        assert Scaled(inner, rule=rule)(time) == pytest.approx(factor * inner(time))
    assert Scaled(0.3, per=512)(Time(batch_size=256)) == pytest.approx(0.15)


def test_the_bare_schedule_has_no_value():
    with pytest.raises(NotImplementedError):
        Schedule()(Time())
