"""Arrival processes have the rate and the burstiness that was asked for."""

import itertools
from random import Random
from statistics import fmean, pstdev
from typing import Any

import pytest

from autoscaling.simulator.workloads.arrivals import arrival_times
from autoscaling.simulator.workloads.settings import Arrivals


def times(until_s: float, seed: int = 1, **settings: Any) -> list[float]:
    return list(arrival_times(Arrivals.model_validate(settings), Random(seed), until_s))


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("shape", [[], [{"at_s": 0, "factor": 1}]])
def test_rate_and_cv_are_those_asked_for(cv: float, shape: list[dict[str, float]]) -> None:
    found = times(2000, rate_per_s=20, cv=cv, shape=shape)
    gaps = [two - one for one, two in itertools.pairwise([0.0, *found])]
    # Five standard errors of the count of a renewal process.
    assert abs(len(found) - 40_000) <= 5 * cv * 40_000**0.5 + 1
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(cv, rel=0.05, abs=1e-6)
    assert all(0 <= at_s < 2000 for at_s in found)


def test_a_poisson_process_has_as_much_variance_as_mean_in_its_counts() -> None:
    found = times(4000, rate_per_s=10)
    counts = [0] * 4000
    for at_s in found:
        counts[int(at_s)] += 1
    assert pstdev(counts) ** 2 / fmean(counts) == pytest.approx(1.0, abs=0.1)


def test_the_rate_follows_its_shape_between_points_and_stays_after_the_last() -> None:
    shape = [{"at_s": 0, "factor": 0}, {"at_s": 1000, "factor": 2}, {"at_s": 1000, "factor": 0.5}]
    found = times(2000, rate_per_s=50, shape=shape)
    early = sum(at_s < 500 for at_s in found)
    late = sum(500 <= at_s < 1000 for at_s in found)
    after = sum(at_s >= 1000 for at_s in found)
    assert early == pytest.approx(50 * 500 * 0.5, rel=0.05)
    assert late == pytest.approx(50 * 500 * 1.5, rel=0.05)
    assert after == pytest.approx(50 * 1000 * 0.5, rel=0.05)
    assert found == sorted(found)


def test_a_falling_rate_brings_what_its_integral_says() -> None:
    found = times(
        100, rate_per_s=1000, cv=0, shape=[{"at_s": 0, "factor": 1}, {"at_s": 100, "factor": 0}]
    )
    assert len(found) == pytest.approx(50_000, abs=2)
    # Half of what is to come is there when (1 - t/100)² = 1/2.
    assert found[25_000] == pytest.approx(100 * (1 - 0.5**0.5), abs=0.02)


def test_nothing_comes_while_the_rate_is_nothing() -> None:
    shape = [
        *({"at_s": 0, "factor": 1}, {"at_s": 10, "factor": 1}, {"at_s": 10, "factor": 0}),
        *({"at_s": 20, "factor": 0}, {"at_s": 20, "factor": 1}),
    ]
    found = times(30, rate_per_s=100, shape=shape)
    assert not [at_s for at_s in found if 10 < at_s < 20]
    assert len([at_s for at_s in found if at_s > 20]) == pytest.approx(1000, rel=0.2)
    ends = times(30, rate_per_s=100, shape=[{"at_s": 0, "factor": 1}, {"at_s": 5, "factor": 0}])
    assert max(ends) <= 5


def test_a_shape_with_a_period_repeats() -> None:
    shape = [{"at_s": 0, "factor": 2}, {"at_s": 50, "factor": 2}, {"at_s": 50, "factor": 0}]
    found = times(1000, rate_per_s=20, shape=shape, period_s=100)
    assert not [at_s for at_s in found if at_s % 100 > 50]
    assert len(found) == pytest.approx(20_000, rel=0.05)


def test_the_same_seed_gives_the_same_times_and_another_gives_others() -> None:
    assert times(100, rate_per_s=5, cv=2) == times(100, rate_per_s=5, cv=2)
    assert times(100, rate_per_s=5, cv=2) != times(100, seed=2, rate_per_s=5, cv=2)
