"""Means over seeds with 95 % confidence intervals, and policies against each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95

# Student's t at 97.5 % for 1 to 30 degrees of freedom, from any table; beyond it an expansion
# around the normal quantile is exact to four digits.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` runs, and the half-width of its 95 % interval (NaN for fewer than two)."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


def interval(values: Sequence[float]) -> Interval:
    """The mean of those `values` that are numbers, by Student's t."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2 or not all(map(math.isfinite, known)):
        return Interval(fmean(known) if known else math.nan, math.nan, len(known))
    half_width = t_quantile(len(known) - 1) * stdev(known) / math.sqrt(len(known))
    return Interval(fmean(known), half_width, len(known))


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Ours minus theirs, paired by seed: what the arrivals do to both cancels out."""
    return interval([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Ours over theirs, paired by seed; infinite where theirs is 0."""
    return interval(
        [
            ours[seed] / theirs[seed] if theirs[seed] else math.inf if ours[seed] else math.nan
            for seed in ours
            if seed in theirs
        ]
    )


def t_quantile(degrees: int) -> float:
    """Student's t that 97.5 % lie below."""
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom")
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0)
    first = (z**3 + z) / (4.0 * degrees)
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * degrees**2)
    return z + first + second
