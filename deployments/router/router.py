"""The router of one gateway: admits, places, follows. Plain state and rules, driven from outside.

A driver (the gateway, or a simulator) calls it with the time: ``admit`` when a request comes,
``placements`` whenever something may have changed, ``on_tokens`` and ``on_finished`` as frames
arrive, ``on_replica_lost`` when a connection breaks. Nothing here waits or does I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config import Tier
from deployments.router.fleet import Fleet, Flight, RemoteLoad, Replica, Request, Traits
from deployments.router.placement import Placement, place
from deployments.router.predict import LengthPredictor, LogNormal
from deployments.router.queues import QueueLimits, TierQueues, Waiting
from deployments.router.rate import RateMeter

MAX_ATTEMPTS = 3
"""A request that loses so many replicas before its first token is given up: it may be the cause."""

MAX_RETRY_AFTER_S = 120.0
"""OpenAI's clients do not retry at all when told to wait longer."""


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """A tier's queue bounds and length prior, from the configuration."""

    limits: QueueLimits
    prior: LogNormal


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request is not admitted (or waited too long); retry in ``retry_after_s`` seconds.

    ``no_replica``: nothing that could serve it is reachable, rather than everything being busy.
    """

    tier: Tier
    retry_after_s: float
    queued: int
    no_replica: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """What a lost replica leaves behind: ``retried`` are queued again, ``failed`` cannot be."""

    retried: tuple[Request, ...]
    failed: tuple[Flight, ...]


class Router:
    """See the module's text. ``models`` are the served models; requests for others are a bug."""

    def __init__(self, models: tuple[str, ...], tiers: Mapping[Tier, TierPolicy]) -> None:
        self.fleet = Fleet()
        self.predictor = LengthPredictor({tier: policy.prior for tier, policy in tiers.items()})
        limits = {tier: policy.limits for tier, policy in tiers.items()}
        self.queues = {model: TierQueues(limits) for model in models}
        self.rates = {model: RateMeter() for model in models}
        self._flights: dict[str, Flight] = {}

    def priority(self, tier: Tier, model: str) -> int:
        """The engine priority of a tier (lower runs first)."""
        return self.queues[model].limits[tier].priority

    @property
    def waiting(self) -> int:
        """Requests in the queues."""
        return sum(map(len, self.queues.values()))

    # -------------------------------------------------------------- a request's life

    def admit(self, request: Request, now: float) -> Refusal | None:
        """Take the request into its tier's queue, or refuse it when that is full."""
        queue = self.queues[request.model]
        if queue.is_full(request.tier):
            return self._refusal(request, now)
        queue.push(request, self.predictor.expected(request.tier, request.max_tokens), now)
        return None

    def place(self, request: Request, now: float) -> Placement | None:
        """Put a queued request on the best replica, or leave it while none has room."""
        placement = place(request, self.fleet, self.predictor)
        if placement is None:
            return None
        self.queues[request.model].remove(request.request_id)
        replica = self.fleet.get(placement.chosen.replica_id)
        assert replica is not None
        request.attempts += 1
        flight = Flight(request, replica, now, placement.predicted_tokens)
        self._flights[request.request_id] = flight
        replica.add(flight)
        return placement

    def placements(self, now: float) -> list[tuple[Flight, Placement, float]]:
        """Place what can be placed, in the queues' order: (flight, why, seconds waited).

        A tier whose head finds no room holds its own line only.
        """
        placed = []
        for queue in self.queues.values():
            blocked: set[Tier] = set()
            while head := next((h for h in queue.heads() if h.request.tier not in blocked), None):
                placement = self.place(head.request, now)
                if placement is None:
                    blocked.add(head.request.tier)
                    continue
                flight = self._flights[head.request.request_id]
                placed.append((flight, placement, now - head.since_s))
        return placed

    def expired(self, now: float) -> list[tuple[Waiting, Refusal]]:
        """Take out what has waited longer than its tier allows."""
        return [
            (waiting, self._refusal(waiting.request, now))
            for queue in self.queues.values()
            for waiting in queue.expired(now)
        ]

    @staticmethod
    def on_tokens(flight: Flight, tokens: int) -> None:
        """``tokens`` more output tokens have come. (Takes the flight: this runs for each token.)"""
        flight.replica.emitted(flight, tokens)

    def on_finished(self, request_id: str, now: float, *, complete: bool) -> Flight | None:
        """The request is over, wherever it was. ``complete``: it ended by itself, so its length
        is worth learning. Returns the flight if it had been placed."""
        for queue in self.queues.values():
            queue.remove(request_id)
        flight = self._flights.pop(request_id, None)
        if flight is None:
            return None
        flight.replica.remove(request_id)
        self.rates[flight.request.model].add(flight.emitted, now)
        if complete:
            self.predictor.learn(flight.request.tier, flight.emitted)
        return flight

    def on_refused(self, request_id: str, now: float) -> Request | None:
        """A replica did not take the request (full or draining): back to the head of its queue.

        The replica gets nothing more before its next report. None when the request has been tried
        often enough; it is then no longer held.
        """
        flight = self._flights.pop(request_id, None)
        if flight is None:
            return None
        flight.replica.remove(request_id)
        flight.replica.refusing = True
        if flight.request.attempts >= MAX_ATTEMPTS:
            return None
        self.queues[flight.request.model].push_front(flight.request, flight.predicted, now)
        return flight.request

    # -------------------------------------------------------------- the fleet

    def on_replica_joined(self, traits: Traits) -> Replica:
        return self.fleet.join(traits)

    def on_load(self, replica_id: str, load: RemoteLoad) -> None:
        replica = self.fleet.get(replica_id)
        if replica is not None:
            replica.report(load)

    def on_replica_lost(self, replica_id: str, now: float) -> Lost:
        """The replica is gone. Requests without a token yet are queued again, at the head."""
        replica = self.fleet.leave(replica_id)
        if replica is None:
            return Lost((), ())
        retried, failed = [], []
        for flight in reversed(list(replica.flights.values())):
            del self._flights[flight.request.request_id]
            if flight.emitted or flight.request.attempts >= MAX_ATTEMPTS:
                failed.append(flight)
            else:
                queue = self.queues[flight.request.model]
                queue.push_front(flight.request, flight.predicted, now)
                retried.append(flight.request)
        return Lost(tuple(retried), tuple(failed))

    # -------------------------------------------------------------- overload

    def _refusal(self, request: Request, now: float) -> Refusal:
        queue = self.queues[request.model]
        return Refusal(
            tier=request.tier,
            retry_after_s=self.drain_s(request.model, request.tier, now),
            queued=queue.length(request.tier),
            no_replica=not self.fleet.open_to(request.model, request.tier),
        )

    def drain_s(self, model: str, tier: Tier, now: float) -> float:
        """Seconds until a request that comes now would have been placed, were it admitted.

        Predicted tokens queued ahead of it, over the model's rate of output: the larger of the
        measured rate and what the replicas' step times promise. Without any output yet, the tier's
        longest wait. At least 1 s, at most ``MAX_RETRY_AFTER_S``.
        """
        queue = self.queues[model]
        ahead = queue.tokens_before(now + queue.limits[tier].max_wait_s)
        promised = sum(
            replica.load.running / replica.load.step_s
            for replica in self.fleet
            if replica.traits.model == model and replica.load.step_s > 0
        )
        rate = max(self.rates[model].per_s(now), promised)
        wait_s = ahead / rate if rate > 0.0 else queue.limits[tier].max_wait_s
        return min(MAX_RETRY_AFTER_S, max(1.0, wait_s))
