"""The router under everything that can happen, in any order: its books hold after every step."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.config import TIERS, PolicyName, Tier
from deployments.router import Flight, Lost, Placed, RemoteLoad, Replica, Request, Why
from deployments.router.fleet import AHEAD_BIT, MOST_PREFILL
from deployments.router.policies import Verdict
from deployments.router.policies.effort import EffortPolicy
from deployments.router.recovery import ACQUITTED_TOKENS, RecoveryLimits
from deployments.router.router import MAX_ATTEMPTS, MAX_RETRY_AFTER_S
from tests.deployments.router.router_world import (
    ALL_TIERS,
    MODEL,
    OTHER_MODEL,
    QUEUED,
    WAITS_S,
    make_router,
    traits,
    write,
)

tier_sets = st.sampled_from([ALL_TIERS, ALL_TIERS, frozenset({"low"}), frozenset[Tier]()])
models = st.sampled_from([MODEL, MODEL, MODEL, OTHER_MODEL])
counts = st.tuples(*[st.sampled_from([0, 0, 0, 1, 4])] * 3)
small_loads = st.builds(
    RemoteLoad,
    running=st.sampled_from([0, 0, 1, 2, 6]),
    waiting=st.sampled_from([0, 0, 0, 1, 3]),
    kv_use=st.sampled_from([0.0, 0.2, 0.9]),
    step_s=st.sampled_from([0.0, 0.004, 0.02]),
    draining=st.sampled_from([False, False, False, True]),
    by_tier=counts,
    ours=counts,
)
PAUSE_S = 130.0
"""Longer than any tier lets its requests wait."""

prompts = st.sampled_from([(1, ()), (300, ()), (300, (1, 2, 3)), (300, (1, 2, 9)), (8_000, ())])


@dataclass
class Books:
    """What a replica holds, kept apart from the router's own books."""

    in_flight: float
    kv_left: float


class RouterMachine(RuleBasedStateMachine):
    """Keeps a plain model beside the router: who waits, who flies, who had to make room."""

    policy: ClassVar[PolicyName] = "effort"
    shadow: ClassVar[PolicyName | None] = "prefix-affinity"

    def __init__(self) -> None:
        super().__init__()
        self.router = make_router(
            policy=self.policy, shadow=self.shadow, recovery=RecoveryLimits(max_pause_s=PAUSE_S)
        )
        self.now = 0.0
        self.queued: dict[str, Request] = {}
        self.flying: dict[str, Flight] = {}
        self.displaced: dict[str, Request] = {}
        self.requeued: set[str] = set()
        self.since_s: dict[str, float] = {}
        self.lost_s: dict[str, float] = {}
        self.written: Counter[str] = Counter()
        self.prompts: dict[str, int] = {}
        self.made = self.placements = self.allowed = 0
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
        self.router.on_load(_id(replica), load, self.now)
        others = [max(0, n - ours) for n, ours in zip(load.by_tier, load.ours, strict=True)]
        assert replica.others == others
        assert not replica.refusing

    @rule(data=st.data(), died=st.booleans())
    @precondition(lambda self: len(self.router.fleet) > 0)
    def lose(self, data: st.DataObject, died: bool) -> None:
        replica = data.draw(st.sampled_from(sorted(self.router.fleet, key=_id)))
        held = self._before_loss(replica)
        lost = self.router.on_replica_lost(_id(replica), self.now, died=died)
        assert self.router.fleet.get(_id(replica)) is None
        self._after_loss(held, lost, died=died)

    @rule(data=st.data())
    @precondition(lambda self: len(self.router.fleet) > 0)
    def hang(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(sorted(self.router.fleet, key=_id)))
        held = self._before_loss(replica)
        lost = self.router.on_replica_hung(_id(replica), self.now)
        assert replica.shunned
        assert not replica.flights
        self._after_loss(held, lost, died=False)

    @rule(data=st.data())
    @precondition(lambda self: any(replica.shunned for replica in self.router.fleet))
    def trust(self, data: st.DataObject) -> None:
        shunned = sorted((each for each in self.router.fleet if each.shunned), key=_id)
        self.router.fleet.shun(data.draw(st.sampled_from(shunned)), shunned=False)

    @rule(data=st.data())
    @precondition(lambda self: self.flying)
    def engine_gives_up(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.flying)))
        held = self._before_loss(self.flying[request_id].replica, only=request_id)
        self._after_loss(held, self.router.on_flight_lost(request_id, self.now), died=False)

    @staticmethod
    def _before_loss(replica: Replica, only: str | None = None) -> list[tuple[Flight, bool]]:
        """The flights that are about to lose it, and whether each is on trial."""
        return [
            (flight, flight.on_trial)
            for flight in replica.flights.values()
            if only in (None, flight.request.request_id)
        ]

    def _after_loss(self, held: list[tuple[Flight, bool]], lost: Lost, *, died: bool) -> None:
        retried = [request.request_id for request in lost.retried]
        gone = [flight.request.request_id for flight in (*lost.failed, *lost.poisoned)]
        assert sorted(retried + gone) == sorted(each.request.request_id for each, _ in held)
        for flight, on_trial in held:
            request, request_id = flight.request, flight.request.request_id
            assert (flight in lost.poisoned) == (died and on_trial)
            hopeless = not flight.emitted and request.attempts >= MAX_ATTEMPTS
            assert (flight in lost.failed) == (hopeless and flight not in lost.poisoned)
            del self.flying[request_id]
            if request_id not in retried:
                assert self.router.on_finished(request_id, self.now, complete=False) is None
                continue
            self._carried(flight)
            assert not died or (request.alone and request.deaths > 0)
            if flight.emitted or request_id not in self.lost_s:
                self.lost_s[request_id] = self.now
            self._requeue(request)

    def _carried(self, flight: Flight) -> None:
        """The next attempt has this one's tokens in its prompt."""
        request = flight.request
        self.written[request.request_id] += flight.emitted
        assert request.written == self.written[request.request_id]
        assert request.prompt_tokens == self.prompts[request.request_id] + request.written
        if flight.emitted:
            assert request.attempts == 0

    def _requeue(self, request: Request) -> None:
        self.queued[request.request_id] = request
        self.since_s[request.request_id] = self.now
        self.requeued.add(request.request_id)

    @rule(data=st.data())
    @precondition(lambda self: self.flying)
    def move(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.flying)))
        flight = self.flying[request_id]
        attempts = 0 if flight.emitted else flight.request.attempts - 1
        found = self.router.move(request_id, self.now)
        if found is None:
            assert flight.replica.flights[request_id] is flight
            return
        assert found.flight.replica is not flight.replica
        assert not found.flight.replica.shunned
        assert request_id not in flight.replica.flights
        self.written[request_id] += flight.emitted
        assert flight.request.written == self.written[request_id]
        assert flight.request.attempts == attempts + 1
        if flight.emitted or request_id not in self.lost_s:
            self.lost_s[request_id] = self.now
        self.flying[request_id] = found.flight
        self.placements += 1

    # -------------------------------------------------------------- requests

    @rule(
        model=models,
        tiers=st.lists(st.sampled_from(TIERS), min_size=1, max_size=4),
        tenant=st.sampled_from(["", "one", "two"]),
        prompt=prompts,
        max_tokens=st.sampled_from([1, 100, 3_000, 100_000]),
        ahead=st.booleans(),
        then_place=st.booleans(),
    )
    def admit(
        self,
        model: str,
        tiers: list[Tier],
        tenant: str,
        prompt: tuple[int, tuple[int, ...]],
        max_tokens: int,
        ahead: bool,
        then_place: bool,
    ) -> None:
        for tier in tiers:
            self.made += 1
            self._admit(
                Request(
                    f"request-{self.made}",
                    model,
                    tier,
                    prompt[0],
                    max_tokens,
                    tenant,
                    blocks=prompt[1],
                    ahead=ahead,
                )
            )
        if then_place:
            self.place()

    def _admit(self, request: Request) -> None:
        queue, tier = self.router.queues[request.model], request.tier
        here = [r for r in self.queued.values() if r.tier == tier and r.model == request.model]
        evident_s = max((self.now - self.since_s[r.request_id] for r in here), default=0.0)
        refusal = self.router.admit(request, self.now)
        if refusal is not None:
            assert len(here) >= QUEUED[tier] or evident_s > 0.0
            assert refusal.queued == len(here)
            assert 1.0 <= refusal.retry_after_s <= MAX_RETRY_AFTER_S
            return
        if len(here) >= QUEUED[tier]:
            (last,) = [r for r in here if r.request_id not in queue]
            late = self.now - self.since_s[last.request_id] >= queue.limits[tier].on_time_s
            assert late or last.tenant != request.tenant or request.ahead > last.ahead
            self.displaced[last.request_id] = self.queued.pop(last.request_id)
        self.queued[request.request_id] = request
        self.since_s[request.request_id] = self.now
        self.prompts[request.request_id] = request.prompt_tokens

    @rule()
    def place(self) -> None:
        self.router.fleet.age_reports(self.now)
        books = {
            _id(replica): Books(replica.in_flight, replica.kv_left) for replica in self.router.fleet
        }
        for placed in self.router.placements(self.now):
            flight = placed.flight
            request = self.queued.pop(flight.request.request_id)
            self.requeued.discard(request.request_id)
            assert flight.request is request
            waited_s = self.now - self.since_s[request.request_id]
            assert placed.waited_s == pytest.approx(waited_s)
            self._check_allowed(placed, books[flight.replica_id])
            self.flying[request.request_id] = flight
            self.placements += 1
        self._check_nobody_waits_for_nothing()

    def _check_allowed(self, placed: Placed, books: Books) -> None:
        flight, choice = placed.flight, placed.decision.choice
        replica, request = flight.replica, flight.request
        its = replica.traits
        assert choice.replica is replica
        assert choice.verdict < Verdict.SLOW
        assert replica in [each for each, _, _ in choice.considered]
        assert its.model == request.model
        assert request.tier in its.tiers | its.lends_to
        assert not replica.load.draining
        assert not replica.refusing
        assert not replica.shunned
        assert flight.predicted <= max(1, request.max_tokens - request.written)
        assert flight.emitted == 0
        assert books.in_flight < its.max_num_seqs
        need = request.prompt_tokens + flight.predicted
        if self.policy == "effort" and books.in_flight >= 0.5:
            assert books.kv_left >= need - 1e-6
        books.in_flight += 1
        # Others' KV stays what it was reported as; ours grows by the reservation.
        books.kv_left -= need

    def _check_nobody_waits_for_nothing(self) -> None:
        policy = self.router.policy
        for model, queue in self.router.queues.items():
            if isinstance(policy, EffortPolicy) and policy.zones(model).plan is not None:
                continue  # a zone may be kept free of a looser tier
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
        before, begun = flight.predicted, flight.emitted > 0
        write(self.router, flight, tokens)
        if tokens:
            self.lost_s.pop(flight.request.request_id, None)
        if flight.request.deaths and flight.emitted >= ACQUITTED_TOKENS:
            self.router.on_acquitted(flight)
            assert not flight.request.alone
        if begun and tokens:
            assert flight.predicted >= before
            assert flight.predicted >= flight.emitted

    @rule(data=st.data(), complete=st.booleans())
    @precondition(lambda self: self.flying or self.queued or self.displaced)
    def finish(self, data: st.DataObject, complete: bool) -> None:
        everyone = sorted({**self.flying, **self.queued, **self.displaced})
        request_id = data.draw(st.sampled_from(everyone))
        flight = self.router.on_finished(request_id, self.now, complete=complete)
        assert flight is self.flying.pop(request_id, None)
        self.queued.pop(request_id, None)
        self.displaced.pop(request_id, None)
        self.requeued.discard(request_id)
        self.lost_s.pop(request_id, None)

    @rule(data=st.data())
    @precondition(lambda self: any(flight.emitted == 0 for flight in self.flying.values()))
    def refuse(self, data: st.DataObject) -> None:
        silent = sorted(name for name, flight in self.flying.items() if flight.emitted == 0)
        request_id = data.draw(st.sampled_from(silent))
        flight = self.flying.pop(request_id)
        attempts = flight.request.attempts
        kept = self.router.on_refused(request_id, self.now)
        # What a fault has brought there is not failed by a refusal.
        assert (kept is None) == (attempts >= MAX_ATTEMPTS and request_id not in self.lost_s)
        if kept is None:
            assert self.router.on_finished(request_id, self.now, complete=False) is None
        else:
            assert kept is flight.request
            self._requeue(kept)

    @rule()
    def strangers_change_nothing(self) -> None:
        self.router.on_load("nobody", RemoteLoad(running=3), self.now)
        assert self.router.on_finished("nobody", self.now, complete=True) is None
        assert self.router.on_refused("nobody", self.now) is None
        assert self.router.on_replica_lost("nobody", self.now).failed == ()

    @rule(elapsed_s=st.sampled_from([0.01, 3.0, 25.0, 70.0]))
    def time_goes_on(self, elapsed_s: float) -> None:
        self.now += elapsed_s
        for waiting, refusal in self.router.expired(self.now):
            request_id = waiting.request.request_id
            assert 1.0 <= refusal.retry_after_s <= MAX_RETRY_AFTER_S
            if self.displaced.pop(request_id, None) is not None:
                assert refusal.why is Why.DISPLACED
                continue
            assert refusal.why is Why.WAITED
            request = self.queued.pop(request_id)
            self.requeued.discard(request_id)
            lost_s = self.lost_s.pop(request_id, None)
            if lost_s is not None:
                assert self.now - lost_s >= max(PAUSE_S, WAITS_S[request.tier]) - 1e-6
                continue
            assert self.now - self.since_s[request_id] >= WAITS_S[request.tier] - 1e-6
        assert not self.displaced, "who had to make room is told at once"
        for request_id, request in self.queued.items():
            lost_s = self.lost_s.get(request_id)
            since_s = self.since_s[request_id] if lost_s is None else lost_s
            longest_s = WAITS_S[request.tier] if lost_s is None else PAUSE_S
            assert self.now - since_s < longest_s + 1e-6

    # -------------------------------------------------------------- what always holds

    @invariant()
    def everyone_is_in_exactly_one_place(self) -> None:
        on_replicas = [
            request_id for replica in self.router.fleet for request_id in replica.flights
        ]
        assert Counter(on_replicas) == Counter(self.flying.keys())
        assert not self.queued.keys() & self.flying.keys()
        assert self.router.waiting == len(self.queued)
        for request_id, request in self.queued.items():
            assert request_id in self.router.queues[request.model]

    @invariant()
    def what_goes_on_after_faults_is_within_the_budget(self) -> None:
        limits, recovery = self.router.recovery.limits, self.router.recovery
        assert recovery.held == len(self.lost_s.keys() & self.queued.keys())
        going = {name for name in self.flying if name in self.lost_s}
        assert recovery.going == len(going)
        # The share counts those that were active when they were let go; some have ended since.
        self.allowed = max(
            self.allowed if going else 0,
            limits.budget_floor,
            int(limits.budget_share * (len(self.flying) + len(self.queued) + 1)),
        )
        assert len(going) <= self.allowed

    @invariant()
    def no_replica_has_two_on_trial(self) -> None:
        for replica in self.router.fleet:
            on_trial = [name for name, flight in replica.flights.items() if flight.on_trial]
            assert on_trial == ([] if replica.trial is None else [replica.trial])

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
    def tenants_are_charged_for_what_runs_and_for_nothing_else(self) -> None:
        for model, queue in self.router.queues.items():
            flying = sum(flight.request.model == model for flight in self.flying.values())
            assert queue.unsettled == flying

    @invariant()
    def replicas_reserve_what_their_flights_need(self) -> None:
        for replica in self.router.fleet:
            flights = replica.flights.values()
            reserved = sum(each.request.prompt_tokens + each.predicted for each in flights)
            assert replica.reserved_kv == pytest.approx(reserved, abs=1e-6)
            left = replica.traits.kv_tokens - replica.reserved_kv - replica.others_kv
            assert replica.kv_left == pytest.approx(left, abs=1e-6)
            assert replica.awaiting_prefill == sum(flight.to_prefill for flight in flights)
            assert all(each.to_prefill == 0 for each in flights if each.emitted)
            assert all(0 <= each.to_prefill <= each.request.prompt_tokens for each in flights)

    @invariant()
    def no_load_is_negative_and_every_count_adds_up(self) -> None:
        for replica in self.router.fleet:
            tiers = Counter(flight.request.tier for flight in replica.flights.values())
            assert replica.own == [tiers[tier] for tier in TIERS]
            assert min(replica.others) >= 0.0
            assert replica.others_kv >= 0.0
            counted = sum(replica.own) + sum(replica.others)
            assert replica.in_flight == pytest.approx(counted)
            here = [own + others for own, others in zip(replica.own, replica.others, strict=True)]
            ahead = any(flight.request.ahead for flight in replica.flights.values())
            bits = sum(1 << i for i in range(3) if here[i] >= 0.5) + AHEAD_BIT * ahead
            assert replica.tiers_here == bits
            assert 0.0 <= replica.prefill_share <= MOST_PREFILL
            assert replica.next_step_s > 0.0

    @invariant()
    def every_placement_is_known_and_compared_once(self) -> None:
        assert len(self.router.decisions) == min(256, self.placements)
        if self.router.shadow is not None:
            assert self.router.shadow.count.decisions == self.placements

    def teardown(self) -> None:
        flying = [each for replica in self.router.fleet for each in replica.flights]
        for request_id in [*flying, *self.queued, *self.displaced]:
            self.router.on_finished(request_id, self.now, complete=False)
        for replica in self.router.fleet:
            assert not replica.flights
            assert (replica.own, replica.ahead) == ([0, 0, 0], 0)
            assert replica.reserved_kv == pytest.approx(0.0, abs=1e-6)
            assert replica.awaiting_prefill == 0
        for queue in self.router.queues.values():
            assert (len(queue), queue.unsettled) == (0, 0)
        assert self.router.placements(self.now) == []
        assert self.router.expired(self.now + 1e6) == []
        for replica in list(self.router.fleet):
            lost = self.router.on_replica_lost(_id(replica), self.now)
            assert (lost.retried, lost.failed) == ((), ())


class AffinityMachine(RouterMachine):
    policy = "prefix-affinity"
    shadow = "effort"


class RoundRobinMachine(RouterMachine):
    policy = "round-robin"
    shadow = None


def _id(replica: Replica) -> str:
    return replica.replica_id


def _often(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = _often(80)
TestAffinityMachine = AffinityMachine.TestCase
TestAffinityMachine.settings = _often(20)
TestRoundRobinMachine = RoundRobinMachine.TestCase
TestRoundRobinMachine.settings = _often(15)
