"""From the size that a moment asks for to one that lasts: hold times and a budget of reversals."""

from collections import deque
from dataclasses import dataclass

from autoscaling.decision import Limit
from cluster.schedule import Bounds

WORTH = 0.06
"""Part of a pool that must have become superfluous before any of it goes: each shrinking may have
to be taken back."""


class ReversalBudget:
    """Changes of direction that may still be made. A shrink pays for the growth that may follow,
    since growing is never refused."""

    def __init__(self, per_h: float, saved: float) -> None:
        self._per_s = per_h / 3600.0
        self._saved = max(2.0, saved)
        self._left = 2.0
        self._at_s: float | None = None
        self._up = True

    def allows_shrinking(self, now: float) -> bool:
        if self._at_s is not None:
            self._left = min(self._saved, self._left + (now - self._at_s) * self._per_s)
        self._at_s = now
        return not self._up or self._left >= 2.0

    def moved(self, before: int, after: int) -> None:
        if after > before:
            self._up = True
        elif after < before:
            if self._up:
                self._left -= 2.0
            self._up = False


@dataclass(frozen=True, slots=True)
class Settled:
    """A size, and what kept it from being another."""

    size: int
    limit: Limit = "none"
    limited_by: str = ""


class Steady:
    """The sizes of one pool over time. ``budget``: None where turning costs nothing."""

    def __init__(self, hold_s: float, budget: ReversalBudget | None) -> None:
        self._hold_s = hold_s
        self._budget = budget
        self._targets: deque[tuple[float, int]] = deque()
        self._known_since_s: float | None = None

    def settle(self, now: float, before: int, target: int, limits: Bounds, stale: str) -> Settled:
        """What to have after ``before``. ``stale`` says how signals are not fresh, if so."""
        asked = _within(target, limits)
        # How long a size has been enough is only known of times that were seen.
        held = self._held(now, max(asked.size, before) if stale else asked.size, before)
        allowed = self._budget is None or self._budget.allows_shrinking(now)
        found = asked
        if asked.size <= before and stale:
            found = Settled(before, "stale_signals", f"signals are {stale}: holding")
        elif asked.size < before:
            found = self._smaller(before, held, limits, allowed=allowed) or Settled(
                held, asked.limit, asked.limited_by
            )
        # Bounds hold at once, whatever was held back.
        if not limits.at_least <= found.size <= limits.at_most:
            found = _within(found.size, limits)
        if self._budget is not None:
            self._budget.moved(before, found.size)
        return found

    def _smaller(self, before: int, held: int, limits: Bounds, *, allowed: bool) -> Settled | None:
        """Why not yet; None: now."""
        if held >= before:
            return Settled(before, "hold", f"not too large for {self._hold_s:g} s yet")
        if before - held < WORTH * before and held > limits.at_least:
            return Settled(before, "hold", "too little to be worth a reversal")
        if not allowed:
            return Settled(before, "reversals", "the budget of reversals is spent")
        return None

    def _held(self, now: float, target: int, before: int) -> int:
        """The largest target of the hold time; not below ``before`` until so much time was seen (a
        policy that has just been started knows nothing of what was)."""
        if self._known_since_s is None:
            self._known_since_s = now
        targets = self._targets
        if now - self._known_since_s < self._hold_s:
            target = max(target, before)
        while targets and targets[-1][1] <= target:
            targets.pop()
        targets.append((now, target))
        while now - targets[0][0] > self._hold_s:
            targets.popleft()
        return targets[0][1]


def _within(target: int, limits: Bounds) -> Settled:
    if target < limits.at_least:
        return Settled(limits.at_least, "at_least", limits.least_by)
    if target > limits.at_most:
        return Settled(limits.at_most, "at_most", limits.most_by)
    return Settled(target)
