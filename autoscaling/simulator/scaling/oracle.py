"""The fewest GPU-hours that somebody who knows all arrivals could do with.

What a tick needs is known from the arrivals alone: the seats that they take when every replica runs
at its capacity. Each level (the first replica, the second, …) is needed in some stretches of time;
between two of them it is kept if the gap is shorter than a cold start, and started again in time
otherwise. Levels do not depend on each other, so this is the least that the need can be met with.
"""

import math
from collections.abc import Mapping

import numpy as np

from autoscaling.simulator.scaling.days import Arrivals, Floats
from autoscaling.simulator.scaling.fluid import Lengths
from autoscaling.sizing import Sizing, seconds_in_service
from cluster.config import TIERS, Tier


def need(arrivals: Arrivals, sizing: Sizing, lengths: Mapping[Tier, Lengths]) -> Floats:
    """Replicas that are full at each tick when nobody waits and every replica is at capacity."""
    filled = np.zeros(arrivals.ticks)
    for tier in TIERS:
        each = sizing.of(tier, lengths[tier].prompt_tokens, lengths[tier].output_tokens)
        spread = math.exp(lengths[tier].sigma ** 2) - 1.0
        short = 0.5 * (1.0 + math.sqrt(max(0.0, spread - 1.0) / (spread + 1.0)))
        whole_s = seconds_in_service(each)
        for share in (short, 1.0 - short):
            # A phase holds its share of the arrivals for 1 / (2 · share) of the mean time.
            keep = math.exp(-arrivals.tick_s / (whole_s / (2.0 * share)))
            half = math.sqrt(keep)
            running, counts = 0.0, arrivals.counts[tier]
            seats = np.empty(arrivals.ticks)
            for index in range(arrivals.ticks):
                running = running * keep + counts[index] * share * half
                seats[index] = running
            filled += seats / each.batch
    return filled


def smoothed(needed: Floats, ticks: int) -> Floats:
    """Without peaks that last less than so many ticks (a morphological opening)."""
    if ticks <= 1:
        return needed
    windows = np.lib.stride_tricks.sliding_window_view
    padded = np.pad(needed, (ticks - 1, 0), mode="edge")
    eroded = windows(padded, ticks).min(axis=1)
    padded = np.pad(eroded, (0, ticks - 1), mode="edge")
    opened: Floats = windows(padded, ticks).max(axis=1)
    return opened


def sizes(needed: Floats, tick_s: float, cold_start_s: float, at_least: int = 1) -> list[int]:
    """Ready replicas at each tick: the need, with gaps shorter than a cold start bridged."""
    wanted = np.maximum(at_least, np.ceil(needed - 1e-9)).astype(int)
    gap = max(1, round(cold_start_s / tick_s))
    kept = wanted.copy()
    for level in range(at_least + 1, int(wanted.max()) + 1):
        there = np.flatnonzero(wanted >= level)
        gaps = np.diff(there)
        for index in np.flatnonzero((gaps > 1) & (gaps <= gap)):
            kept[there[index] : there[index + 1]] = np.maximum(
                kept[there[index] : there[index + 1]], level
            )
    return [int(each) for each in kept]


def replica_seconds(ready: list[int], tick_s: float, cold_start_s: float) -> float:
    """What they cost: all the time that they are ready, and every start after the first tick."""
    steps = np.diff(np.array(ready), prepend=ready[0])
    starts = float(np.maximum(0, steps).sum())
    return float(np.sum(ready)) * tick_s + starts * cold_start_s
