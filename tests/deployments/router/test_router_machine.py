"""The router under everything that can happen, in any order: its books hold after every step."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.config import TIERS, Tier
from deployments.router import Flight, RemoteLoad, Replica, Request
from deployments.router.router import MAX_ATTEMPTS, MAX_RETRY_AFTER_S
from tests.deployments.router.router_world import (
    ALL_TIERS,
    MODEL,
    OTHER_MODEL,
    QUEUED,
    WAITS_S,
    make_router,
    traits,
)

tier_sets = st.sampled_from([ALL_TIERS, ALL_TIERS, frozenset({"low"}), frozenset[Tier]()])
models = st.sampled_from([MODEL, MODEL, MODEL, OTHER_MODEL])
small_loads = st.builds(
    RemoteLoad,
    running=st.sampled_from([0, 0, 1, 2, 6]),
    waiting=st.sampled_from([0, 0, 0, 1, 3]),
    kv_use=st.sampled_from([0.0, 0.2, 0.9]),
    step_s=st.sampled_from([0.0, 0.004, 0.02]),
    draining=st.sampled_from([False, False, False, True]),
)


@dataclass
class Shadow:
    """What a replica holds, kept apart from the router's own books."""

    in_flight: int
    kv_room: float


class RouterMachine(RuleBasedStateMachine):
    """Keeps a plain model beside the router: who waits, who flies, how many were retried."""

    def __init__(self) -> None:
        super().__init__()
        self.router = make_router()
        self.now = 0.0
        self.queued: dict[str, Request] = {}
        self.flying: dict[str, Flight] = {}
        self.requeued: set[str] = set()
        self.since_s: dict[str, float] = {}
        self.made = 0
        for tiers in (ALL_TIERS, ALL_TIERS):
            self.join(MODEL, tiers, frozenset(), 2, 20_000)

    # -------------------------------------------------------------- the fleet

    @rule(
        model=models,
        tiers=tier_sets,
        lends_to=tier_sets,
        seqs=st.integers(1, 5),
        kv_tokens=st.sampled_from([3_000, 20_000, 200_000]),
    )
    @precondition(lambda self: len(self.router.fleet) < 4)
    def join(
        self,
        model: str,
        tiers: frozenset[Tier],
        lends_to: frozenset[Tier],
        seqs: int,
        kv_tokens: int,
    ) -> None:
        self.made += 1
        self.router.on_replica_joined(
            traits(
                f"replica-{self.made}",
                model=model,
                tiers=tiers,
                lends_to=lends_to,
                max_num_seqs=seqs,
                kv_tokens=kv_tokens,
            )
        )

    @rule(data=st.data(), load=small_loads)
    @precondition(lambda self: len(self.router.fleet) > 0)
    def load(self, data: st.DataObject, load: RemoteLoad) -> None:
        replica = data.draw(st.sampled_from(sorted(self.router.fleet, key=_id)))
        self.router.on_load(_id(replica), load)
        assert replica.in_flight >= load.running + load.waiting
        assert not replica.refusing

    @rule(data=st.data())
    @precondition(lambda self: len(self.router.fleet) > 0)
    def lose(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(sorted(self.router.fleet, key=_id)))
        held = dict(replica.flights)
        lost = self.router.on_replica_lost(_id(replica), self.now)
        retried = {request.request_id for request in lost.retried}
        failed = {flight.request.request_id for flight in lost.failed}
        assert retried | failed == set(held)
        assert not retried & failed
        for request_id, flight in held.items():
            begun = flight.emitted > 0 or flight.request.attempts >= MAX_ATTEMPTS
            assert (request_id in failed) == begun
            del self.flying[request_id]
            if request_id in retried:
                self._requeue(flight.request)
            else:
                assert self.router.on_finished(request_id, self.now, complete=False) is None

    def _requeue(self, request: Request) -> None:
        self.queued[request.request_id] = request
        self.since_s[request.request_id] = self.now
        self.requeued.add(request.request_id)

    # -------------------------------------------------------------- requests

    @rule(
        model=models,
        tiers=st.lists(st.sampled_from(TIERS), min_size=1, max_size=4),
        prompt_tokens=st.sampled_from([1, 300, 8_000]),
        max_tokens=st.sampled_from([1, 100, 3_000, 100_000]),
        then_place=st.booleans(),
    )
    def admit(
        self,
        model: str,
        tiers: list[Tier],
        prompt_tokens: int,
        max_tokens: int,
        then_place: bool,
    ) -> None:
        for tier in tiers:
            self._admit(model, tier, prompt_tokens, max_tokens)
        if then_place:
            self.place()

    def _admit(self, model: str, tier: Tier, prompt_tokens: int, max_tokens: int) -> None:
        self.made += 1
        request = Request(f"request-{self.made}", model, tier, prompt_tokens, max_tokens)
        waiting = sum(r.tier == tier and r.model == model for r in self.queued.values())
        refusal = self.router.admit(request, self.now)
        assert (refusal is not None) == (waiting >= QUEUED[tier])
        if refusal is None:
            self.queued[request.request_id] = request
            self.since_s[request.request_id] = self.now
        else:
            assert refusal.queued == waiting
            assert 1.0 <= refusal.retry_after_s <= MAX_RETRY_AFTER_S

    @rule()
    def place(self) -> None:
        shadows = {
            _id(replica): Shadow(replica.in_flight, replica.kv_room())
            for replica in self.router.fleet
        }
        for flight, placement, waited_s in self.router.placements(self.now):
            request = self.queued.pop(flight.request.request_id)
            self.requeued.discard(request.request_id)
            assert flight.request is request
            assert waited_s == pytest.approx(self.now - self.since_s[request.request_id])
            self._check_allowed(flight, shadows[flight.replica_id])
            assert placement.chosen in placement.considered
            assert placement.chosen.replica_id == flight.replica_id
            self.flying[request.request_id] = flight
        self._check_nobody_waits_for_nothing()

    @staticmethod
    def _check_allowed(flight: Flight, shadow: Shadow) -> None:
        replica, request = flight.replica, flight.request
        its = replica.traits
        assert its.model == request.model
        assert request.tier in its.tiers | its.lends_to
        assert not replica.load.draining
        assert not replica.refusing
        assert flight.predicted <= request.max_tokens
        need = request.prompt_tokens + flight.predicted
        if shadow.in_flight:
            assert shadow.in_flight < its.max_num_seqs
            assert shadow.kv_room >= need - 1e-6
        shadow.in_flight += 1
        # Others' KV stays what it was reported as; ours grows by the reservation.
        shadow.kv_room -= need
        assert replica.kv_room() <= its.kv_tokens

    def _check_nobody_waits_for_nothing(self) -> None:
        for queue in self.router.queues.values():
            for head in queue.heads():
                idle = [
                    replica
                    for replica in self.router.fleet.open_to(head.request.model, head.request.tier)
                    if replica.in_flight == 0 and not replica.refusing
                ]
                assert not idle, "an idle replica, and a request that it could run"

    @rule(data=st.data(), tokens=st.sampled_from([0, 1, 50, 5_000]))
    @precondition(lambda self: self.flying)
    def tokens(self, data: st.DataObject, tokens: int) -> None:
        flight = self.flying[data.draw(st.sampled_from(sorted(self.flying)))]
        before = flight.emitted
        self.router.on_tokens(flight, tokens)
        assert flight.emitted == before + tokens

    @rule(data=st.data(), complete=st.booleans())
    @precondition(lambda self: self.flying or self.queued)
    def finish(self, data: st.DataObject, complete: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted({**self.flying, **self.queued})))
        flight = self.router.on_finished(request_id, self.now, complete=complete)
        assert flight is self.flying.pop(request_id, None)
        assert (flight is None) == (self.queued.pop(request_id, None) is not None)
        self.requeued.discard(request_id)

    @rule(data=st.data())
    @precondition(lambda self: any(flight.emitted == 0 for flight in self.flying.values()))
    def refuse(self, data: st.DataObject) -> None:
        silent = sorted(name for name, flight in self.flying.items() if flight.emitted == 0)
        request_id = data.draw(st.sampled_from(silent))
        flight = self.flying.pop(request_id)
        kept = self.router.on_refused(request_id, self.now)
        assert (kept is None) == (flight.request.attempts >= MAX_ATTEMPTS)
        if kept is None:
            assert self.router.on_finished(request_id, self.now, complete=False) is None
        else:
            assert kept is flight.request
            self._requeue(kept)

    @rule()
    def strangers_change_nothing(self) -> None:
        assert self.router.on_finished("nobody", self.now, complete=True) is None
        assert self.router.on_refused("nobody", self.now) is None
        assert self.router.on_replica_lost("nobody", self.now).failed == ()

    @rule(elapsed_s=st.sampled_from([0.01, 3.0, 25.0, 70.0]))
    def time_goes_on(self, elapsed_s: float) -> None:
        self.now += elapsed_s
        for waiting, refusal in self.router.expired(self.now):
            request = self.queued.pop(waiting.request.request_id)
            self.requeued.discard(request.request_id)
            waited_s = self.now - self.since_s[request.request_id]
            assert waited_s >= WAITS_S[request.tier] - 1e-6
            assert 1.0 <= refusal.retry_after_s <= MAX_RETRY_AFTER_S
        for request_id, request in self.queued.items():
            assert self.now - self.since_s[request_id] < WAITS_S[request.tier] + 1e-6

    # -------------------------------------------------------------- what always holds

    @invariant()
    def everyone_is_in_exactly_one_place(self) -> None:
        on_replicas = [
            request_id for replica in self.router.fleet for request_id in replica.flights
        ]
        assert Counter(on_replicas) == Counter(self.flying.keys())
        assert not self.queued.keys() & self.flying.keys()
        assert sum(len(queue) for queue in self.router.queues.values()) == len(self.queued)

    @invariant()
    def queues_count_their_tiers_and_keep_their_bounds(self) -> None:
        for model, queue in self.router.queues.items():
            for tier in TIERS:
                here = [r for r in self.queued.values() if r.model == model and r.tier == tier]
                assert queue.length(tier) == len(here)
                # Only what a replica gave back may stand beside a full queue.
                retried = sum(request.request_id in self.requeued for request in here)
                assert len(here) <= QUEUED[tier] + retried

    @invariant()
    def replicas_reserve_what_their_flights_need(self) -> None:
        for replica in self.router.fleet:
            flights = replica.flights.values()
            expected = sum(
                flight.request.prompt_tokens + max(flight.predicted, flight.emitted)
                for flight in flights
            )
            assert replica.reserved_kv == pytest.approx(expected, abs=1e-6)
            assert replica.awaiting_prefill == sum(
                flight.request.prompt_tokens for flight in flights if flight.emitted == 0
            )
            assert replica.others >= 0

    def teardown(self) -> None:
        flying = [each for replica in self.router.fleet for each in replica.flights]
        for request_id in [*flying, *self.queued]:
            self.router.on_finished(request_id, self.now, complete=False)
        for replica in self.router.fleet:
            assert not replica.flights
            assert replica.reserved_kv == pytest.approx(0.0, abs=1e-6)
            assert replica.awaiting_prefill == 0
        assert all(len(queue) == 0 for queue in self.router.queues.values())
        assert self.router.placements(self.now) == []
        assert self.router.expired(self.now + 1e6) == []
        for replica in list(self.router.fleet):
            lost = self.router.on_replica_lost(_id(replica), self.now)
            assert (lost.retried, lost.failed) == ((), ())


def _id(replica: Replica) -> str:
    return replica.traits.replica_id


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
