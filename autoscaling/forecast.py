"""How load will change while a replica starts: the time of day as learned, and the trend.

Online and small: a profile of the week and one of the day in slots of some minutes, each a fading
mean of what was seen, and a local slope. What is forecast is a *factor* on the load now, so the
level itself is always the measured one.
"""

import math
from dataclasses import dataclass

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S

SLOT_S = 600.0
SLOT_WEIGHT = 0.3
"""Weight of a new day (or week) in a slot's mean."""

LEAST, MOST = 0.5, 2.0
"""Bounds of a factor: a profile of few days must not halve a cluster by more, nor double it."""

TREND_MEMORY_S = 900.0
"""Half-life of the slope; shorter ones follow noise."""

TREND_TRUST = 0.5
"""Part of the slope that is believed where no profile is known: bursts end as they came."""


class _Profile:
    """Mean load by slot of a period. A slot counts once it was seen in a whole earlier period."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._slots = [math.nan] * round(period_s / SLOT_S)
        self._slot: int | None = None
        self._sum = 0.0
        self._seconds = 0.0

    def learn(self, clock_s: float, load: float, seconds: float) -> None:
        slot = int(clock_s % self._period_s / SLOT_S)
        if slot != self._slot:
            self._close()
            self._slot = slot
        self._sum += load * seconds
        self._seconds += seconds

    def _close(self) -> None:
        if self._slot is not None and self._seconds > 0.5 * SLOT_S:
            mean, known = self._sum / self._seconds, self._slots[self._slot]
            new = math.isnan(known)
            self._slots[self._slot] = mean if new else known + SLOT_WEIGHT * (mean - known)
        self._sum = self._seconds = 0.0

    def at(self, clock_s: float) -> float:
        """Between the middles of two slots; NaN where one was never seen."""
        place = clock_s % self._period_s / SLOT_S - 0.5
        first = math.floor(place)
        share = place - first
        count = len(self._slots)
        return (1.0 - share) * self._slots[first % count] + share * self._slots[(first + 1) % count]


@dataclass(frozen=True, slots=True)
class Outlook:
    """``factor`` on the load now, and where it comes from: week, day, trend or nothing."""

    factor: float
    source: str


class Forecast:
    """Feed it the load (of any steady unit) with the wall clock's seconds; ask for a factor."""

    def __init__(self) -> None:
        self._day = _Profile(DAY_S)
        self._week = _Profile(WEEK_S)
        self._level = 0.0
        self._slow = 0.0
        self._started_s: float | None = None
        self._last_s: float | None = None

    def learn(self, clock_s: float, load: float) -> None:
        """``load`` at ``clock_s`` (seconds of local wall-clock time since any Monday 00:00)."""
        if self._last_s is None:
            self._started_s, self._last_s = clock_s, clock_s
            self._level = self._slow = load
            return
        seconds = clock_s - self._last_s
        if seconds <= 0.0:
            return  # the wall clock was set back
        self._last_s = clock_s
        spent_s = min(seconds, SLOT_S)
        self._day.learn(clock_s, load, spent_s)
        self._week.learn(clock_s, load, spent_s)
        quick = 1.0 - 0.5 ** (seconds / (0.25 * TREND_MEMORY_S))
        slow = 1.0 - 0.5 ** (seconds / TREND_MEMORY_S)
        self._level += quick * (load - self._level)
        self._slow += slow * (load - self._slow)

    def outlook(self, clock_s: float, ahead_s: float) -> Outlook:
        """What the load is expected to be ``ahead_s`` later, as a factor on the load now."""
        for name, profile in (("week", self._week), ("day", self._day)):
            now, later = profile.at(clock_s), profile.at(clock_s + ahead_s)
            if now > 0.0 and later > 0.0:  # neither NaN nor an empty slot
                return Outlook(min(MOST, max(LEAST, later / now)), name)
        return self._trend(ahead_s)

    def _trend(self, ahead_s: float) -> Outlook:
        if self._level <= 0.0 or self._slow <= 0.0:
            return Outlook(1.0, "nothing")
        # Two exponential means lag a ramp by their mean ages; their distance tells its slope.
        apart_s = 0.75 * TREND_MEMORY_S / math.log(2.0)
        slope_per_s = (self._level - self._slow) / apart_s
        factor = 1.0 + TREND_TRUST * slope_per_s * ahead_s / self._level
        return Outlook(min(MOST, max(LEAST, factor)), "trend")
