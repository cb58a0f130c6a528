"""One gateway of a simulated cluster: the production router, driven by virtual time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from autoscaling.simulator.events import Agenda
from autoscaling.simulator.replica import SimReplica, text_of
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.work import Arrival, Outcome, Status
from cluster.config import PolicyName
from deployments.engine.model import Event, EventKind, Work
from deployments.router import (
    Flight,
    RemoteLoad,
    Request,
    Router,
)
from deployments.router.prefixes import BLOCK_TOKENS
from deployments.router.settings import tier_policies

TICK_S = 0.05
"""How often a gateway looks after what waits, as the live one does."""

MODEL = "model"


def make_router(scenario: Scenario, policy: PolicyName) -> Router:
    """The production router with the scenario's settings."""
    tiers = tier_policies(scenario.tiers)
    return Router((MODEL,), tiers, policy, tenant_weights=scenario.tenant_weights)


def blocks_of(arrival: Arrival) -> tuple[int, ...]:
    """The router's prefix blocks of the prompt; none for a prompt that shares nothing."""
    if not arrival.reusable:
        return ()
    last = arrival.prompt_tokens - 1 if arrival.session else arrival.shared_tokens
    return tuple(
        hash((arrival.shared, 0, end)) if end <= arrival.shared_tokens
        else hash((arrival.shared, arrival.session, end))
        for end in range(BLOCK_TOKENS, last + 1, BLOCK_TOKENS)
    )  # fmt: skip


def place_of(event: Event) -> tuple[int, int, int]:
    """What the work's id says: gateway, number of the outcome, attempt."""
    return cast(tuple[int, int, int], event.work.work_id)


@dataclass(slots=True)
class Stream:
    """One request as the gateway follows it."""

    outcome: Outcome
    request: Request
    flight: Flight | None = None
    replica: SimReplica | None = None
    work: Work | None = None
    submitted: bool = False


class SimGateway:
    """``on_end`` hears of each outcome when the client does."""

    def __init__(
        self,
        index: int,
        scenario: Scenario,
        policy: PolicyName,
        agenda: Agenda,
        on_end: Callable[[Outcome], None],
    ) -> None:
        self.index = index
        self.router = make_router(scenario, policy)
        self.streams: dict[str, Stream] = {}
        self._latency_s = scenario.gateways.frame_latency_s
        self._agenda = agenda
        self._on_end = on_end
        self._replicas: dict[str, SimReplica] = {}
        self._ticking = False

    # -------------------------------------------------------------- clients

    def receive(self, outcome: Outcome) -> None:
        """A client's request has come (and been rendered)."""
        arrival, now = outcome.arrival, self._agenda.now
        request = Request(
            str(outcome.number),
            MODEL,
            arrival.tier,
            arrival.prompt_tokens,
            arrival.max_tokens,
            arrival.tenant,
            blocks=blocks_of(arrival),
        )
        outcome.served_tier = arrival.tier
        refusal = self.router.admit(request, now)
        if refusal is not None:
            outcome.retry_after_s = refusal.retry_after_s
            self._end(outcome, "refused")
            return
        self.streams[request.request_id] = Stream(outcome, request)
        if arrival.patience_s < math.inf:
            self._agenda.at(arrival.at_s + arrival.patience_s, self._leave, request.request_id)
        self.dispatch()

    def _leave(self, request_id: str) -> None:
        stream = self.streams.pop(request_id, None)
        if stream is None:
            return
        if stream.submitted and stream.replica is not None and stream.work is not None:
            tokens = stream.replica.abort(stream.work, self.index, stream.request.tier)
            stream.outcome.tokens = tokens
            assert stream.flight is not None
            stream.flight.emitted = tokens
        self.router.on_finished(request_id, self._agenda.now, complete=False)
        self._end(stream.outcome, "cancelled")
        self.dispatch()

    def _end(self, outcome: Outcome, status: Status) -> None:
        outcome.status, outcome.ended_s = status, self._agenda.now
        self._on_end(outcome)

    # -------------------------------------------------------------- placing

    def dispatch(self) -> None:
        """Place what can be placed; while something waits, look again at every tick."""
        router, now = self.router, self._agenda.now
        if not router.waiting:
            return
        for placed in router.placements(now):
            flight = placed.flight
            stream = self.streams[flight.request.request_id]
            stream.flight, stream.replica = flight, self._replicas[flight.replica_id]
            stream.outcome.placed_s, stream.outcome.replica = now, flight.replica_id
            stream.submitted = False
            self._agenda.at(now + self._latency_s, self._submit, (stream, flight))
        if router.waiting and not self._ticking:
            self._ticking = True
            self._agenda.at(now + TICK_S, self._tick)

    def _submit(self, what: tuple[Stream, Flight]) -> None:
        stream, flight = what
        if stream.flight is not flight or stream.request.request_id not in self.streams:
            return  # it has left, or lost the replica, on the way
        arrival, replica = stream.outcome.arrival, stream.replica
        assert replica is not None
        stream.work = Work(
            (self.index, stream.outcome.number, stream.request.attempts),
            arrival.prompt_tokens,
            min(arrival.output_tokens, arrival.max_tokens),
            self.router.priority(arrival.tier, MODEL),
            self._agenda.now,
            text_of(arrival),
            arrival.session != 0,
        )
        stream.submitted = True
        replica.submit(stream.work, self.index, arrival.tier)

    def _tick(self, _: object) -> None:
        self._ticking = False
        for waiting, refusal in self.router.expired(self._agenda.now):
            stream = self.streams.pop(waiting.request.request_id)
            stream.outcome.retry_after_s = refusal.retry_after_s
            self._end(stream.outcome, "expired")
        self.dispatch()

    # -------------------------------------------------------------- frames

    def on_event(self, event: Event) -> None:
        """A first token or an end, as a frame brings it."""
        stream = self.streams.get(str(place_of(event)[1]))
        if stream is None or stream.work is not event.work:
            return  # it left, or is somewhere else by now
        flight, outcome, now = stream.flight, stream.outcome, self._agenda.now
        assert flight is not None
        if event.kind is EventKind.FIRST_TOKEN:
            outcome.first_token_s, outcome.cached_tokens = now, event.work.cached_tokens
            self.router.on_first_token(flight)
            if event.work.output_tokens > flight.predicted:
                self._expect_more(stream, flight)
        elif event.kind is EventKind.FINISHED:
            self._finished(stream, flight, event)

    def _finished(self, stream: Stream, flight: Flight, event: Event) -> None:
        outcome, now = stream.outcome, self._agenda.now
        if math.isnan(outcome.first_token_s):  # a reply of one token
            outcome.first_token_s, outcome.cached_tokens = now, event.work.cached_tokens
        outcome.tokens, outcome.preemptions = event.tokens, event.work.preemptions
        # Between two events all steps are about alike: the answer's first token by proportion.
        before = (event.tokens - outcome.arrival.answer_tokens) / max(1, event.tokens - 1)
        took_s = now - outcome.first_token_s
        outcome.first_answer_s = outcome.first_token_s + max(0.0, before) * took_s
        flight.emitted = event.tokens
        complete = outcome.arrival.output_tokens <= outcome.arrival.max_tokens
        del self.streams[stream.request.request_id]
        self.router.on_finished(stream.request.request_id, now, complete=complete)
        self._end(outcome, "finished")
        self.dispatch()

    def _expect_more(self, stream: Stream, flight: Flight) -> None:
        """Come back about when it will have written what was predicted."""
        left = max(1.0, flight.predicted + 1.0 - flight.emitted)
        step_s = max(1e-4, flight.replica.next_step_s)
        self._agenda.at(self._agenda.now + left * step_s, self._look_again, (stream, flight))

    def _look_again(self, what: tuple[Stream, Flight]) -> None:
        stream, flight = what
        if stream.flight is not flight or stream.request.request_id not in self.streams:
            return
        assert stream.replica is not None
        assert stream.work is not None
        flight.emitted = stream.replica.engine.emitted(stream.work, self._agenda.now)
        if flight.emitted > flight.predicted:
            self.router.on_outgrown(flight)
        if stream.work.output_tokens > flight.predicted:
            self._expect_more(stream, flight)

    # -------------------------------------------------------------- the fleet

    def joined(self, replica: SimReplica) -> None:
        if self.router.fleet.get(replica.replica_id) is None:
            self._replicas[replica.replica_id] = replica
            self.router.on_replica_joined(replica.traits)
            self.dispatch()

    def on_load(self, what: tuple[str, RemoteLoad]) -> None:
        replica_id, load = what
        self.router.on_load(replica_id, load, self._agenda.now)

    def lost(self, replica: SimReplica) -> None:
        """The link is down: what had no token goes elsewhere, the rest fails."""
        lost = self.router.on_replica_lost(replica.replica_id, self._agenda.now)
        for request in lost.retried:
            stream = self.streams[request.request_id]
            self._withdraw(stream, replica)
        for flight in lost.failed:
            stream = self.streams.pop(flight.request.request_id)
            self._withdraw(stream, replica)
            self._end(stream.outcome, "failed")
        self._replicas.pop(replica.replica_id, None)
        self.dispatch()

    def _withdraw(self, stream: Stream, replica: SimReplica) -> None:
        # An engine that the gateway cannot reach any more drops what the gateway had there.
        if stream.submitted and stream.work is not None and replica.up:
            stream.outcome.tokens = replica.abort(stream.work, self.index, stream.request.tier)
        stream.flight = stream.replica = stream.work = None
        stream.submitted = False
