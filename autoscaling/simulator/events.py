"""Virtual time: what is to happen, in order. No threads, no clock."""

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[[Any], None]


class Agenda:
    """A heap of (time, action, argument). Of equal times, what was written down first goes first,
    so that a run is the same every time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Action, Any]] = []
        self._written = 0

    def at(self, when_s: float, action: Action, argument: Any = None) -> None:
        """``action(argument)`` at ``when_s``; what is past already happens next."""
        if when_s < self.now:
            when_s = self.now
        self._written += 1
        heapq.heappush(self._heap, (when_s, self._written, action, argument))

    def run(self, until_s: float, after_each: Callable[[], None] | None = None) -> None:
        """Everything that is due before ``until_s``, and what comes of it."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] < until_s:
            when_s, _, action, argument = pop(heap)
            self.now = when_s
            action(argument)
            if after_each is not None:
                after_each()

    def __len__(self) -> int:
        return len(self._heap)
