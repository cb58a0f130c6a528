"""How long replicas take to start, as measured: from being asked for to being ready, by phase."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

KEPT = 16
"""Starts that are remembered; the next is expected to take as long as the slower of them."""

GIVEN_UP_S = 7200.0
"""A replica that is not there by then will not be what was asked for."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start in seconds: ``place_s`` until its process ran (a node, the image), ``engine_s``
    until it was ready (weights, compiling, warming up); NaN where the replica did not tell."""

    whole_s: float
    engine_s: float = math.nan

    @property
    def place_s(self) -> float:
        return max(0.0, self.whole_s - self.engine_s)


class ColdStarts:
    """One pool. ``asked`` and ``listed`` as the autoscaler does and sees it."""

    def __init__(self) -> None:
        self._asked: deque[float] = deque(maxlen=4096)
        self._known: frozenset[str] | None = None
        self.starts: deque[Start] = deque(maxlen=KEPT)

    def asked(self, more: int, now: float) -> None:
        """So many replicas more; negative: asked for and not wanted any more."""
        for _ in range(max(0, more)):
            self._asked.append(now)
        for _ in range(min(max(0, -more), len(self._asked))):
            self._asked.pop()

    def awaited(self, most: int) -> None:
        """No more than so many are to come yet: what was asked for before is there, or was there
        already (the first decision asks for what Serve has begun with)."""
        while len(self._asked) > most:
            self._asked.popleft()

    def listed(self, replicas: Iterable[str], now: float) -> dict[str, float]:
        """The ready replicas, by id. Returns the new ones and when they were asked for; one that
        nobody asked for (it replaces another) is no measurement."""
        current = frozenset(replicas)
        before, self._known = self._known, current
        while self._asked and now - self._asked[0] > GIVEN_UP_S:
            self._asked.popleft()
        if before is None:
            return {}
        fresh = sorted(current - before)
        return {name: self._asked.popleft() for name in fresh[: len(self._asked)]}

    def note(self, start: Start) -> None:
        self.starts.append(start)

    def overdue_s(self, now: float) -> float:
        """How long the oldest replica that is asked for and not there has been awaited."""
        return now - self._asked[0] if self._asked else 0.0

    @property
    def expected_s(self) -> float:
        """What the next start is planned with: three quarters of those measured took no longer; NaN
        before any was."""
        if not self.starts:
            return math.nan
        ordered = sorted(start.whole_s for start in self.starts)
        return ordered[min(len(ordered) - 1, int(0.75 * len(ordered)))]

    def phases(self) -> dict[str, float]:
        """Medians in seconds: place, engine, whole. Empty before any was measured."""
        if not self.starts:
            return {}
        told = [start for start in self.starts if not math.isnan(start.engine_s)]
        phases = {"whole": median(start.whole_s for start in self.starts)}
        if told:
            phases["place"] = median(start.place_s for start in told)
            phases["engine"] = median(start.engine_s for start in told)
        return phases
