"""Two weeks of requests to a company's endpoint, as numbers of arrivals by tier and tick.

The statistics are those that the 14 days of "m-large" in ServeGen have (Alibaba's trace of a
production service, whose rates this cannot carry): the largest to the mean 15 s load about 2.9 to
1, the busiest to the quietest hour about 12 to 1, gaps between requests with a coefficient of
variation of 3.45, which makes counts 12 times as dispersed as Poisson's. The shape itself is
drawn: office hours with a noon dip, quieter weekends, days of different size, a slow wander, and
bursts.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.config import TIERS, Tier

Floats = NDArray[np.float64]

TICK_S = 5.0
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S

WORKDAY = (
    0.46, 0.37, 0.31, 0.28, 0.27, 0.30, 0.40, 0.63, 1.00, 1.37, 1.56, 1.59,
    1.39, 1.44, 1.61, 1.64, 1.56, 1.39, 1.14, 1.00, 0.93, 0.84, 0.73, 0.57,
)  # fmt: skip
"""Relative load at each full hour, with straight lines between."""

WEEKEND = 0.70
"""A weekend day's load, relative to a workday's."""

GAP_CV = 3.45


@dataclass(frozen=True, slots=True)
class Shape:
    """What the days look like. ``per_s`` is the mean rate of requests over workdays."""

    per_s: float = 60.0
    days: int = 14
    day_sigma: float = 0.06
    wander_sigma: float = 0.07
    wander_s: float = 1800.0
    bursts_a_day: float = 3.0
    burst_height: tuple[float, float] = (0.1, 0.4)
    burst_rise_s: float = 120.0
    burst_mean_s: float = 900.0
    mix: tuple[float, float, float] = (0.5, 0.35, 0.15)
    gap_cv: float = GAP_CV


@dataclass(frozen=True, slots=True)
class Arrivals:
    """``rates`` are the expected requests a second at each tick, ``counts`` what came of each
    tier."""

    tick_s: float
    rates: Floats
    counts: dict[Tier, list[int]]

    @property
    def ticks(self) -> int:
        return len(self.rates)

    def part(self, first_s: float, last_s: float) -> "Arrivals":
        """The ticks between two times."""
        first, last = (round(at / self.tick_s) for at in (first_s, last_s))
        counts = {tier: each[first:last] for tier, each in self.counts.items()}
        return Arrivals(self.tick_s, self.rates[first:last], counts)


def rates(shape: Shape, rng: np.random.Generator, tick_s: float = TICK_S) -> Floats:
    """Expected requests a second at each tick. The first day is a Monday."""
    ticks = round(shape.days * DAY_S / tick_s)
    at_s = np.arange(ticks, dtype=np.float64) * tick_s
    profile = np.array(WORKDAY) / np.mean(WORKDAY)
    hours = at_s / HOUR_S % 24
    base = np.interp(hours, np.arange(25), np.append(profile, profile[0]))
    size = np.exp(shape.day_sigma * rng.standard_normal(shape.days + 1))
    size = size * np.where(np.arange(shape.days + 1) % 7 >= 5, WEEKEND, 1.0)
    # Days of different size follow each other without a step.
    level = np.interp(at_s / DAY_S - 0.5, np.arange(shape.days + 1), size)
    found: Floats = shape.per_s * base * level
    found = found * _wander(shape, rng, ticks, tick_s)
    return found * (1.0 + _bursts(shape, rng, at_s))


def _wander(shape: Shape, rng: np.random.Generator, ticks: int, tick_s: float) -> Floats:
    """A mean-reverting walk of the logarithm, drawn once a minute."""
    every = max(1, round(60.0 / tick_s))
    steps = ticks // every + 2
    keep = math.exp(-every * tick_s / shape.wander_s)
    shocks = shape.wander_sigma * math.sqrt(1.0 - keep * keep) * rng.standard_normal(steps)
    walk = np.empty(steps)
    level = shape.wander_sigma * float(rng.standard_normal())
    for index in range(steps):
        level = keep * level + shocks[index]
        walk[index] = level
    return np.exp(np.interp(np.arange(ticks) / every, np.arange(steps), walk))


def _bursts(shape: Shape, rng: np.random.Generator, at_s: Floats) -> Floats:
    """What bursts add, relative to the load: they rise, stay for a while, and fade."""
    added = np.zeros_like(at_s)
    end_s = shape.days * DAY_S
    for _ in range(rng.poisson(shape.bursts_a_day * shape.days)):
        begin_s = rng.uniform(0.0, end_s)
        height = rng.uniform(*shape.burst_height)
        stay_s = min(HOUR_S, rng.exponential(shape.burst_mean_s))
        corners = np.cumsum([begin_s, shape.burst_rise_s, stay_s, shape.burst_rise_s])
        added += np.interp(at_s, corners, [0.0, height, height, 0.0], left=0.0, right=0.0)
    return added


def arrivals(shape: Shape, seed: int, tick_s: float = TICK_S) -> Arrivals:
    """What comes in each tick: negative binomial counts, tier by tier."""
    rng = np.random.default_rng(seed)
    expected = rates(shape, rng, tick_s)
    spread = shape.gap_cv**2
    counts: dict[Tier, list[int]] = {}
    whole = sum(shape.mix)
    for tier, weight in zip(TIERS, shape.mix, strict=True):
        mean = np.maximum(1e-9, expected * tick_s * weight / whole)
        if spread > 1.0:
            drawn = rng.negative_binomial(mean / (spread - 1.0), 1.0 / spread)
        else:
            drawn = rng.poisson(mean)
        counts[tier] = [int(each) for each in drawn]
    return Arrivals(tick_s, expected, counts)


def statistics(found: Arrivals) -> dict[str, float]:
    """Mean rate, largest 15 s and busiest hour over the mean, and busiest over quietest hour."""
    every = np.sum([np.array(each) for each in found.counts.values()], axis=0)
    quarter, hour = round(15.0 / found.tick_s), round(HOUR_S / found.tick_s)
    short = every[: len(every) // quarter * quarter].reshape(-1, quarter).sum(axis=1)
    hours = every[: len(every) // hour * hour].reshape(-1, hour).sum(axis=1)
    return {
        "mean_per_s": float(every.sum() / (len(every) * found.tick_s)),
        "largest_15s_over_mean": float(short.max() / short.mean()),
        "busiest_hour_over_mean": float(hours.max() / hours.mean()) if len(hours) else math.nan,
        "busiest_over_quietest_hour": float(hours.max() / hours.min()) if len(hours) else math.nan,
    }
