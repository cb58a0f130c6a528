"""When things begin: renewal processes whose rate may change over time."""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from random import Random

from autoscaling.simulator.workloads.settings import Arrivals, RatePoint

# A stretch of time with the factor at its beginning and its end.
_Stretch = tuple[float, float, float, float]


def arrival_times(arrivals: Arrivals, rng: Random, until_s: float) -> Iterator[float]:
    """Times in seconds from 0 on, in order, before `until_s`.

    Gaps are drawn with mean 1 and stretched by the rate that holds while they last, so a burst
    stays a burst whether it falls into the day's peak or its trough.
    """
    gaps = _gaps(arrivals.cv, rng)
    if not arrivals.shape:
        return _steady(gaps, arrivals.rate_per_s, until_s)
    stretches = _stretches(arrivals.shape, arrivals.period_s, until_s)
    return _shaped(gaps, arrivals.rate_per_s, stretches)


def _gaps(cv: float, rng: Random) -> Iterator[float]:
    if cv == 0:
        while True:
            yield 1.0
    if cv == 1:
        draw = rng.expovariate
        while True:
            yield draw(1.0)
    gamma, shape, scale = rng.gammavariate, 1.0 / (cv * cv), cv * cv
    while True:
        yield gamma(shape, scale)


def _steady(gaps: Iterator[float], rate_per_s: float, until_s: float) -> Iterator[float]:
    at_s, mean_s = 0.0, 1.0 / rate_per_s
    for gap in gaps:
        at_s += gap * mean_s
        if at_s >= until_s:
            return
        yield at_s


def _shaped(
    gaps: Iterator[float], rate_per_s: float, stretches: Iterator[_Stretch]
) -> Iterator[float]:
    gap = next(gaps)
    for start_s, end_s, first, last in stretches:
        span_s, rate = end_s - start_s, first * rate_per_s
        slope = (last - first) * rate_per_s / span_s
        at_s = start_s
        while True:
            left_s = end_s - at_s
            due = left_s * (rate + 0.5 * slope * left_s)
            # A stretch of rate 0 brings nothing, not even a gap of length 0.
            if gap >= due:
                gap -= due
                break
            if slope == 0:
                at_s += gap / rate
            else:
                root = math.sqrt(max(0.0, rate * rate + 2.0 * slope * gap))
                step_s = 2.0 * gap / (rate + root)
                at_s += step_s
                rate += slope * step_s
            yield at_s
            gap = next(gaps)


def _stretches(
    points: Iterable[RatePoint], period_s: float | None, until_s: float
) -> Iterator[_Stretch]:
    """The shape from 0 to `until_s`, in stretches that last longer than nothing."""
    corners = [(point.at_s, point.factor) for point in points]
    if corners[0][0] > 0:
        corners.insert(0, (0.0, corners[0][1]))
    corners.append((until_s if period_s is None else period_s, corners[-1][1]))
    base_s = 0.0
    while True:
        for (start_s, first), (end_s, last) in pairwise(corners):
            start_s, end_s = start_s + base_s, end_s + base_s
            if start_s >= until_s:
                return
            if end_s > until_s:
                last = first + (last - first) * (until_s - start_s) / (end_s - start_s)
                end_s = until_s
            if end_s > start_s:
                yield start_s, end_s, first, last
        if period_s is None:
            return
        base_s += period_s
