"""Requests that lost their replica: how many go on elsewhere at a time, and which of them alone.

The *budget* bounds how many compute their prompts again at once: without it, half a fleet's
requests would hit the other half together. What is over it waits; a fault fails nobody.

A *suspect* was on a replica when its engine died, and may be what it died of. It is tried on a
replica where no other suspect is, so that a second death convicts the right one, and is acquitted
once it has written ``ACQUITTED_TOKENS`` more. Those that had not written a token when the engine
died (a prompt or its parameters kill in the step that computes it) and those that lost two engines
are tried alone however long it takes. The others, of which a large batch has many, wait for a trial
of their own no longer than ``isolation_s``; should one of them be the cause, that takes one engine
more than two.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from deployments.router.fleet import Request

ACQUITTED_TOKENS = 8
"""Tokens that a suspect must write to be none any more. More than one, because the frames of the
last steps before a death may be lost with the engine: it died a little after what was seen."""


@dataclass(frozen=True, slots=True)
class RecoveryLimits:
    """``budget_share`` of the requests that are queued or run may be going on elsewhere without a
    token yet, and ``budget_floor`` in any case. A request waits for at most ``max_pause_s``."""

    budget_share: float = 0.2
    budget_floor: int = 3
    max_pause_s: float = 300.0
    isolation_s: float = 1.0


class Recovery:
    """Keeps the order in which requests lost their replicas."""

    def __init__(self, limits: RecoveryLimits) -> None:
        self.limits = limits
        self._held: dict[str, tuple[Request, float]] = {}
        self._going: set[str] = set()

    @property
    def held(self) -> int:
        """Requests that wait for their turn to go on."""
        return len(self._held)

    @property
    def going(self) -> int:
        """Requests that were placed again and have no new token yet."""
        return len(self._going)

    def room(self, active: int) -> bool:
        """Whether one more may go on, of so many ``active`` requests (queued or running)."""
        allowed = max(self.limits.budget_floor, int(self.limits.budget_share * active))
        return len(self._going) < allowed

    def hold(self, request: Request, now: float) -> float:
        """The request has lost its replica. Returns until when it may wait."""
        self._going.discard(request.request_id)
        self._held[request.request_id] = request, now
        if request.lost_s is None:
            request.lost_s = now
        return request.lost_s + self.limits.max_pause_s

    def go(self, request: Request) -> None:
        """It has been placed again."""
        self._held.pop(request.request_id, None)
        self._going.add(request.request_id)

    def progressed(self, request: Request) -> None:
        """It has a new token."""
        self._going.discard(request.request_id)
        request.lost_s = None

    def forget(self, request_id: str) -> None:
        """It is over."""
        self._held.pop(request_id, None)
        self._going.discard(request_id)

    def due(self, now: float) -> Iterator[Request]:
        """Those that wait: first suspects, whose trials take the longest, then those whose clients
        see a pause, the shortest first (what the longest have to compute again holds up whoever is
        behind them, by seconds), then the others; else in the order in which they came."""
        held = list(self._held.values())
        for request, since_s in held:
            strict = request.attempts > 0 or request.deaths > 1
            if request.alone and not strict and now - since_s >= self.limits.isolation_s:
                request.alone = False
        yield from (request for request, _ in held if request.alone)
        paused = [request for request, _ in held if not request.alone and request.written]
        yield from sorted(paused, key=lambda request: request.prompt_tokens)
        yield from (request for request, _ in held if not request.alone and not request.written)


def suspect(request: Request) -> None:
    """The engine died with it."""
    request.deaths += 1
    request.alone = True


def acquit(request: Request) -> None:
    """It has gone on beyond the point at which the engine had died."""
    request.deaths = 0
    request.alone = False
