"""Intervals over seeds, and policies against each other on the same arrivals."""

import math
from random import Random

import pytest

from autoscaling.simulator.compare import difference, interval, ratio, t_quantile


def test_the_interval_of_a_textbook_sample() -> None:
    # n 5, mean 10, s = √2.5, t(4) = 2.776: ± 1.963.
    found = interval([8.0, 9.0, 10.0, 11.0, 12.0])
    assert (found.mean, found.n) == (10.0, 5)
    assert found.half_width == pytest.approx(1.963, abs=0.001)
    assert (found.low, found.high) == (
        pytest.approx(8.037, abs=1e-3),
        pytest.approx(11.963, abs=1e-3),
    )


@pytest.mark.parametrize(
    ("degrees", "t"),
    [(1, 12.706), (9, 2.262), (30, 2.042), (40, 2.0211), (99, 1.9842), (999, 1.9623)],
)
def test_students_t(degrees: int, t: float) -> None:
    assert t_quantile(degrees) == pytest.approx(t, abs=5e-4)


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    rng = Random(5)
    held = 0
    for _ in range(4000):
        found = interval([rng.gauss(3.0, 2.0) for _ in range(6)])
        held += found.low <= 3.0 <= found.high
    assert held / 4000 == pytest.approx(0.95, abs=0.012)


def test_seeds_without_a_value_are_left_out() -> None:
    found = interval([1.0, math.nan, 3.0])
    assert (found.mean, found.n) == (2.0, 2)
    alone = interval([4.0, math.nan])
    assert (alone.mean, alone.n) == (4.0, 1)
    assert math.isnan(alone.half_width)
    assert math.isnan(interval([]).mean)


def test_pairing_takes_out_what_the_arrivals_do_to_both() -> None:
    theirs = {seed: 10.0 * seed for seed in range(1, 11)}
    ours = {seed: value + 1.0 for seed, value in theirs.items()}
    found = difference(ours, theirs)
    assert (found.mean, found.half_width) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))
    assert interval(list(ours.values())).half_width > 20
    assert difference({1: 1.0, 2: 5.0}, {2: 3.0, 3: 9.0}).mean == 2.0


def test_ratios_are_paired_too() -> None:
    found = ratio({1: 3.0, 2: 30.0}, {1: 2.0, 2: 20.0})
    assert (found.mean, found.half_width) == (1.5, 0.0)
    assert ratio({1: 3.0}, {1: 0.0}).mean == math.inf
    assert math.isnan(ratio({1: 0.0}, {1: 0.0}).mean)
