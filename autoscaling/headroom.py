"""How much more than expected the load turns out within a cold start: learned, not set.

Each forecast is compared with the largest load of the window that it had to cover. The excess, over
the square root of the load (so that it carries over from night to day), goes into a fading
histogram; the headroom is a quantile of it. Which quantile, follows from what users saw: every
request that missed its objective for want of replicas raises it, every one that did not lowers it
a little, so that misses settle at a share below the one that is allowed.
"""

import math
from collections import deque

BINS, LOWEST, BIN = 240, -4.0, 0.05
"""Excess is kept from −4 to 8, in units of the load to the power of ``POWER``."""

POWER = 0.75
"""Between chance fluctuations, which grow with the root of the load, and bursts, with the load."""

MEMORY = 0.5 ** (1.0 / 11_520.0)
"""A forecast counts half after so many decisions (two days of one every 15 s)."""

PRIOR_EXCESS, PRIOR_WEIGHT = 0.45, 240.0
"""Before anything was learned: as if an hour of forecasts had been exceeded by this much."""

LEVEL, LOWEST_LEVEL, HIGHEST_LEVEL = 0.85, 0.05, 0.998
AIM = 0.75
"""Part of the misses that are allowed at which they shall settle: they come in bursts, and the mean
of some weeks lies on either side of what it settles at."""

GAIN = 20.0
"""How far a miss moves the quantile, in logits for a window in which every request missed."""


class Headroom:
    """``window_s`` is what a forecast has to cover; ``allowed`` the share that may miss."""

    def __init__(self, allowed: float, level: float = LEVEL, gain: float = GAIN) -> None:
        self._counts = [0.0] * BINS
        self._weight = PRIOR_WEIGHT
        self._counts[_bin(PRIOR_EXCESS)] = PRIOR_WEIGHT
        self._scale = 1.0
        self._aim = AIM * allowed
        self._gain = gain
        self._logit = math.log(level / (1.0 - level))
        self._open: deque[tuple[float, float]] = deque()
        self._largest: deque[tuple[float, float]] = deque()
        self._quantile: float | None = None

    @property
    def level(self) -> float:
        """The quantile in force."""
        return 1.0 / (1.0 + math.exp(-self._logit))

    def expect(self, now: float, load: float) -> None:
        """``load`` was forecast for the window that begins ``now``."""
        self._open.append((now, load))

    def seen(self, now: float, load: float, window_s: float) -> None:
        """``load`` is what it is now. Closes the forecasts whose window ends."""
        largest = self._largest
        while largest and largest[-1][1] <= load:
            largest.pop()
        largest.append((now, load))
        while self._open and now - self._open[0][0] >= window_s:
            since, expected = self._open.popleft()
            while largest[0][0] < since:
                largest.popleft()
            self._note((largest[0][1] - expected) / _unit(expected))

    def _note(self, excess: float) -> None:
        # Weights grow instead of all counts fading.
        self._scale /= MEMORY
        if self._scale > 1e12:
            self._counts = [count / self._scale for count in self._counts]
            self._weight /= self._scale
            self._scale = 1.0
        self._counts[_bin(excess)] += self._scale
        self._weight += self._scale
        self._quantile = None

    def missed(self, share: float, weight: float = 1.0) -> None:
        """``share`` of the interval's requests missed for want of replicas; ``weight`` is the
        interval's part of an hour."""
        step = self._gain * weight * (share - self._aim)
        low, high = (math.log(at / (1.0 - at)) for at in (LOWEST_LEVEL, HIGHEST_LEVEL))
        self._logit = min(high, max(low, self._logit + step))
        self._quantile = None

    def over(self, load: float) -> float:
        """Replicas to have beyond ``load``; below 0 where forecasts are usually too high."""
        if self._quantile is None:
            self._quantile = self._look_up(self.level)
        return self._quantile * _unit(load)

    def _look_up(self, level: float) -> float:
        left = level * self._weight
        for index, count in enumerate(self._counts):
            left -= count
            if left <= 0.0:
                return LOWEST + (index + 1) * BIN
        return LOWEST + BINS * BIN


def _unit(load: float) -> float:
    return math.pow(max(load, 0.25), POWER)


def _bin(excess: float) -> int:
    return min(BINS - 1, max(0, int((excess - LOWEST) / BIN)))
