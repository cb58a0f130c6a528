"""One gateway of a simulated cluster: the production router, driven by virtual time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from autoscaling.simulator.events import Agenda
from autoscaling.simulator.replica import SimReplica, text_of
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.work import Arrival, Outcome, Status
from cluster.config import FailoverConfig, PolicyName, Tier
from deployments.engine.model import Event, EventKind, Work
from deployments.router import (
    Flight,
    Lost,
    Placed,
    RemoteLoad,
    Replica,
    Request,
    Router,
)
from deployments.router.draining import Drains
from deployments.router.prefixes import BLOCK_TOKENS
from deployments.router.settings import tier_policies
from deployments.router.watch import Watch, WatchLimits

TICK_S = 0.05
"""How often a gateway looks after what waits, as the live one does."""

LOOK_S = 0.1
"""How often it looks after its replicas, in scenarios in which one of them may hang or get slow."""

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
    shared, session = arrival.shared, arrival.session
    both = _shared_blocks(shared, min(last, arrival.shared_tokens))
    own = range(BLOCK_TOKENS * (len(both) + 1), last + 1, BLOCK_TOKENS)
    return both + tuple([hash((shared, session, end)) for end in own])


@lru_cache(maxsize=4096)
def _shared_blocks(shared: int, tokens: int) -> tuple[int, ...]:
    """Those of the text number ``shared``, up to ``tokens``: many prompts begin with it."""
    return tuple([hash((shared, 0, end)) for end in range(BLOCK_TOKENS, tokens + 1, BLOCK_TOKENS)])


def place_of(event: Event) -> tuple[int, int, int]:
    """What the work's id says: gateway, number of the outcome, attempt."""
    place: tuple[int, int, int] = event.work.work_id  # type: ignore[assignment]
    return place


@dataclass(slots=True)
class Stream:
    """One request as the gateway follows it. ``work`` is its present attempt, ``begun`` whether the
    gateway has heard of a token of that."""

    outcome: Outcome
    request: Request
    flight: Flight | None = None
    replica: SimReplica | None = None
    work: Work | None = None
    submitted: bool = False
    begun: bool = False


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
        self._attempts = 0
        self._duration_s = scenario.duration_s
        self._watch = Watch(WatchLimits())
        self._drains = Drains(FailoverConfig().drain_finish_s)
        self._priority_tenants = frozenset(scenario.priority_tenants)
        self._probes: dict[str, tuple[SimReplica, Work, Tier]] = {}
        if any(fault.kind in ("hang", "slow") for fault in scenario.faults):
            agenda.at(LOOK_S, self._look_after_replicas)

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
            ahead=arrival.tenant in self._priority_tenants,
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
            assert stream.flight is not None
            stream.flight.emitted = tokens
            stream.outcome.tokens = stream.request.written + tokens
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
            self._start(placed)
        if router.waiting and not self._ticking:
            self._ticking = True
            self._agenda.at(now + TICK_S, self._tick)

    def _start(self, placed: Placed) -> None:
        flight, now = placed.flight, self._agenda.now
        stream = self.streams[flight.request.request_id]
        stream.flight, stream.replica = flight, self._replicas[flight.replica_id]
        stream.outcome.placed_s, stream.outcome.replica = now, flight.replica_id
        stream.submitted = stream.begun = False
        self._agenda.at(now + self._latency_s, self._submit, (stream, flight))

    def _submit(self, what: tuple[Stream, Flight]) -> None:
        stream, flight = what
        if stream.flight is not flight or stream.request.request_id not in self.streams:
            return  # it has left, or lost the replica, on the way
        arrival, replica = stream.outcome.arrival, stream.replica
        assert replica is not None
        self._attempts += 1
        stream.work = Work(
            (self.index, stream.outcome.number, self._attempts),
            stream.request.prompt_tokens,
            min(arrival.output_tokens, arrival.max_tokens) - stream.request.written,
            self.router.priority(stream.request),
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
            if not stream.request.written:
                outcome.first_token_s, outcome.cached_tokens = now, event.work.cached_tokens
            stream.begun = True
            self.router.on_first_token(flight)
            if stream.request.deaths:
                self.router.on_acquitted(flight)
            if event.work.output_tokens > flight.predicted:
                self._expect_more(stream, flight)
        elif event.kind is EventKind.FINISHED:
            self._finished(stream, flight, event)

    def _finished(self, stream: Stream, flight: Flight, event: Event) -> None:
        outcome, now = stream.outcome, self._agenda.now
        if math.isnan(outcome.first_token_s):  # a reply of one token
            outcome.first_token_s, outcome.cached_tokens = now, event.work.cached_tokens
        outcome.tokens = stream.request.written + event.tokens
        outcome.preemptions += event.work.preemptions
        # Between two events all steps are about alike: the answer's first token by proportion.
        before = (outcome.tokens - outcome.arrival.answer_tokens) / max(1, outcome.tokens - 1)
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

    def on_load(self, replica_id: str, load: RemoteLoad) -> None:
        self.router.on_load(replica_id, load, self._agenda.now)

    def lost(self, replica: SimReplica, *, died: bool = False) -> None:
        """The link is down: what was there goes on elsewhere."""
        found = self.router.fleet.get(replica.replica_id)
        for flight in () if found is None else found.flights.values():
            self._note_tokens(self.streams[flight.request.request_id], flight)
        lost = self.router.on_replica_lost(replica.replica_id, self._agenda.now, died=died)
        self._watch.forget(replica.replica_id)
        self._end_probe(replica.replica_id)
        self._go_on(lost, replica)
        self._replicas.pop(replica.replica_id, None)
        self.dispatch()

    def _go_on(self, lost: Lost, replica: SimReplica) -> None:
        for request in lost.retried:
            self._withdraw(self.streams[request.request_id], replica)
        for flight in (*lost.failed, *lost.poisoned):
            stream = self.streams.pop(flight.request.request_id)
            self._withdraw(stream, replica)
            self._end(stream.outcome, "failed")

    def _look_after_replicas(self, _: object) -> None:
        """What the live gateway does for replicas that hang or are slow."""
        now, fleet = self._agenda.now, self.router.fleet
        found = self._watch.look(fleet, now)
        for each in found.hung:
            self._leave_one_behind(each)
            self._go_on(
                self.router.on_replica_hung(each.replica_id, now), self._replicas[each.replica_id]
            )
        for each in found.slow:
            fleet.shun(each, shunned=True)
        for each in found.well:
            fleet.shun(each, shunned=False)
            self._end_probe(each.replica_id)
        left = [each for each in fleet if each.shunned]
        self._drains.keep({each.replica_id for each in left})
        for each in left:
            self._lead_away(each)
        self.dispatch()
        if self.streams or self._probes or now < self._duration_s:
            self._agenda.at(now + LOOK_S, self._look_after_replicas)

    def _leave_one_behind(self, hung: Replica) -> None:
        """One request's old attempt stays: by it the replica shows that it makes steps again."""
        for flight in hung.flights.values():
            self._note_tokens(self.streams[flight.request.request_id], flight)
        for flight in hung.flights.values():
            stream = self.streams[flight.request.request_id]
            if stream.submitted and stream.work is not None and stream.replica is not None:
                probe = stream.replica, stream.work, stream.request.tier
                self._probes[hung.replica_id] = probe
                stream.submitted = False
                return

    def _end_probe(self, replica_id: str) -> None:
        probe = self._probes.pop(replica_id, None)
        if probe is not None:
            replica, work, tier = probe
            if replica.up:
                replica.abort(work, self.index, tier)

    def _lead_away(self, replica: Replica) -> None:
        now = self._agenda.now
        for flight in self._drains.to_move(replica, now):
            stream = self.streams[flight.request.request_id]
            self._note_tokens(stream, flight)
            placed = self.router.move(flight.request.request_id, now)
            if placed is None:
                return
            self._withdraw(stream, self._replicas[replica.replica_id])
            self._start(placed)

    def _note_tokens(self, stream: Stream, flight: Flight) -> None:
        """What it has written by now. News that was on its way is lost with the link: then it has
        not begun, or not ended, for all that the gateway knows."""
        if stream.begun and stream.work is not None and stream.replica is not None:
            emitted = stream.replica.engine.emitted(stream.work, self._agenda.now)
            flight.emitted = min(emitted, stream.work.output_tokens - 1)
            stream.outcome.tokens = stream.request.written + flight.emitted

    def _withdraw(self, stream: Stream, replica: SimReplica) -> None:
        # An engine that the gateway cannot reach any more drops what the gateway had there.
        if stream.submitted and stream.work is not None and replica.up:
            replica.abort(stream.work, self.index, stream.request.tier)
        stream.flight = stream.replica = stream.work = None
        stream.submitted = stream.begun = False
