"""The router of one gateway: admits, places, follows. Plain state and rules, driven from outside.

A driver (the gateway, or a simulator) calls it with the time: ``admit`` when a request comes,
``placements`` whenever something may have changed, ``on_first_token``, ``on_outgrown`` and
``on_finished`` as frames arrive, ``on_replica_lost`` when a connection breaks. Nothing here waits
or does I/O.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from msgspec import Struct

from cluster.config import PolicyName, Tier
from deployments.router.capacity import Slo
from deployments.router.decisions import Decision, Decisions
from deployments.router.fleet import Fleet, Flight, RemoteLoad, Replica, Request, Traits
from deployments.router.policies import Choice, make_policy
from deployments.router.predict import Key, LengthPredictor, LogNormal
from deployments.router.queues import QueueLimits, TierQueues, Waiting
from deployments.router.rate import RateMeter
from deployments.router.recovery import Recovery, RecoveryLimits, acquit, suspect
from deployments.router.shadow import Shadow

MAX_ATTEMPTS = 3
"""A request that loses so many replicas without a new token is given up: it may be the cause."""

MAX_RETRY_AFTER_S = 120.0
"""OpenAI's clients do not retry at all when told to wait longer."""


HEADS = 4
"""Tenants among whose next requests a placement may choose for a cache hit or for room."""

ON_TIME = 0.8
"""Share of the first token's objective that a request may wait; the rest is for its prompt."""

EVIDENT_WAIT = 0.25
"""A wait is predicted to be too long only when the head has waited this share of the limit: a rate
of placements alone, after an idle hour, says nothing."""


@dataclass(frozen=True, slots=True)
class BrownOut:
    """Serve at tier ``to`` while the oldest request has waited ``above_wait_s``."""

    to: Tier
    above_wait_s: float


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """A tier's queue bounds, length prior and objectives, from the configuration."""

    limits: QueueLimits
    prior: LogNormal
    slo: Slo
    brown_out: BrownOut | None = None


class Why(Enum):
    """What a refused request met."""

    FULL = "no place in its queue, or no prospect of being served in time"
    WAITED = "it waited longer than its tier allows"
    DISPLACED = "it made room in a full queue for one of a tenant with less in it"


class Refusal(Struct, frozen=True):
    """The request will not be served; retry in ``retry_after_s`` seconds.

    ``no_replica``: nothing that could serve it is reachable, rather than everything being busy.
    """

    tier: Tier
    retry_after_s: float
    queued: int
    no_replica: bool
    why: Why


@dataclass(frozen=True, slots=True)
class Lost:
    """What a lost replica leaves behind: ``retried`` go on elsewhere, with the tokens they have.

    ``failed`` have lost too many replicas in a row, and of ``poisoned`` two engines have died.
    """

    retried: tuple[Request, ...]
    failed: tuple[Flight, ...]
    poisoned: tuple[Flight, ...] = ()


class Placed(Struct, frozen=True):
    """A request has been put on a replica."""

    flight: Flight
    decision: Decision

    @property
    def waited_s(self) -> float:
        return self.decision.waited_s


class Router:
    """See the module's text. ``models`` are the served models; requests for others are a bug.

    ``shadow`` names a second policy that is compared with ``policy`` and never obeyed.
    ``tenant_weights`` are shares of a queue, 1 where none is given. ``recovery`` bounds what goes
    on after faults.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        tiers: Mapping[Tier, TierPolicy],
        policy: PolicyName = "effort",
        shadow: PolicyName | None = None,
        *,
        tenant_weights: Mapping[str, float] | None = None,
        recovery: RecoveryLimits | None = None,
    ) -> None:
        self.fleet = Fleet()
        self.recovery = Recovery(recovery or RecoveryLimits())
        self.predictor = LengthPredictor({tier: each.prior for tier, each in tiers.items()})
        slos = {tier: each.slo for tier, each in tiers.items()}
        self.policy = make_policy(policy, slos)
        self.shadow = None if shadow is None else Shadow(make_policy(shadow, slos))
        self.decisions = Decisions()
        limits = {
            tier: replace(each.limits, on_time_s=ON_TIME * each.slo.ttft_s)
            for tier, each in tiers.items()
        }
        self.queues = {model: TierQueues(limits, weights=tenant_weights) for model in models}
        self._brown_outs = {tier: each.brown_out for tier, each in tiers.items()}
        self.rates = {model: RateMeter() for model in models}
        self._dispatched = {(model, tier): RateMeter() for model in models for tier in tiers}
        self._flights: dict[str, Flight] = {}
        self._displaced: list[tuple[Waiting, Refusal]] = []

    def priority(self, request: Request) -> int:
        """The engine priority of a request (lower runs first): those ``ahead`` of all, then by
        tier. Those that stand ``behind`` come after the others of their tier and before those of
        the next, ``spare`` ones after all."""
        limits = self.queues[request.model].limits
        last = 2 * max(each.priority for each in limits.values()) + 2
        if request.spare:
            return last
        return 2 * limits[request.tier].priority + request.behind - last * request.ahead

    def weigh(self, tenant_weights: Mapping[str, float]) -> None:
        """New shares of the queues, for what is dispatched from now on."""
        for queue in self.queues.values():
            queue.weigh(tenant_weights)

    @property
    def waiting(self) -> int:
        """Requests in the queues."""
        return sum(map(len, self.queues.values()))

    @property
    def placed(self) -> int:
        """Requests on replicas."""
        return len(self._flights)

    @property
    def displaced(self) -> int:
        """Requests that had to make room and have not come out of ``expired`` yet."""
        return len(self._displaced)

    # -------------------------------------------------------------- a request's life

    def admit(self, request: Request, now: float) -> Refusal | None:
        """Take the request into its tier's queue, or refuse it.

        It is refused when it would wait longer than its tier allows, or when the tier's queue is
        full. In a full queue the tenant that holds most of it makes room for another: its last
        request then comes out of ``expired``.
        """
        queue = self.queues[request.model]
        request.arrived_s = now
        request.predicted = self.predictor.expected(self._key(request), request.max_tokens)
        self.policy.note(request, now)
        if self.shadow is not None:
            self.shadow.policy.note(request, now)
        if queue.length(request.tier) and self._hopeless(request, now):
            return self._refusal(request, Why.FULL, now)
        if queue.is_full(request.tier):
            last = queue.crowded_out(request)
            if last is None:
                return self._refusal(request, Why.FULL, now)
            queue.remove(last.request.request_id)
            self._displaced.append((last, self._refusal(last.request, Why.DISPLACED, now)))
        queue.push(request, request.predicted, now)
        return None

    def adopt(self, request: Request, written: int, now: float) -> None:
        """Go on with a request that another gateway lost after ``written`` tokens, as if a replica
        of ours had been lost: it was admitted once, and its client waits."""
        request.arrived_s = now
        request.written = written
        request.prompt_tokens += written
        request.predicted = self._left(request, 0)
        self.policy.note(request, now)
        if self.shadow is not None:
            self.shadow.policy.note(request, now)
        self._hold(request, now)

    def tier_to_serve(self, model: str, tier: Tier, now: float) -> Tier:
        """The tier itself, or the lower one that takes its place while it is overloaded."""
        brown_out = self._brown_outs[tier]
        if brown_out is None:
            return tier
        waited_s = self.queues[model].oldest_wait_s(tier, now)
        return brown_out.to if waited_s >= brown_out.above_wait_s else tier

    def place(self, request: Request, now: float) -> Placed | None:
        """Put a queued request on the best replica, or leave it while none has room."""
        choice = self.policy.choose(request, self.fleet, now)
        return None if choice is None else self._put(request, choice, now)

    def _put(self, request: Request, choice: Choice, now: float) -> Placed:
        queue, replica = self.queues[request.model], choice.replica
        waiting = queue.dispatch(
            request.request_id, request.predicted, cached_tokens=choice.cached_tokens
        )
        assert waiting is not None
        if self.shadow is not None:
            self.shadow.compare(request, self.fleet, choice, now)
            self.shadow.placed(request, replica, now)
        self.policy.placed(request, replica, now)
        self._dispatched[request.model, request.tier].add(waiting.work, now)
        request.attempts += 1
        flight = Flight(request, replica, now, request.predicted)
        self._flights[request.request_id] = flight
        replica.add(flight, max(0, request.prompt_tokens - choice.cached_tokens), now)
        decision = Decision(
            request.request_id,
            request.model,
            request.tier,
            self.policy.name,
            now,
            now - waiting.since_s,
            request.prompt_tokens,
            request.predicted,
            choice,
        )
        self.decisions.add(decision)
        return Placed(flight, decision)

    def placements(self, now: float) -> list[Placed]:
        """Place what can be placed, in the queues' order.

        A tier of which nothing finds room holds its own line only.
        """
        self.fleet.age_reports(now)
        placed, stuck = self._resume(now)
        for model, queue in self.queues.items():
            blocked = {tier for its_model, tier in stuck if its_model == model}
            queue.demote(now)
            while len(queue):
                tier = next((each for each in queue.due() if each not in blocked), None)
                if tier is None:
                    break
                found = self._next(queue, tier, now)
                if found is None:
                    blocked.add(tier)
                else:
                    placed.append(self._put(*found, now))
        return placed

    def _next(self, queue: TierQueues, tier: Tier, now: float) -> tuple[Request, Choice] | None:
        """Whose turn it is and where it goes: of the tenants that may go next, the one that finds
        most of its prompt cached, else the first that finds room."""
        best: tuple[Request, Choice] | None = None
        refused_tokens = math.inf
        for waiting in queue.heads(tier, HEADS):
            request = waiting.request
            need_tokens = request.prompt_tokens + request.predicted
            # Of one tier, what found no room leaves none for anything larger.
            if need_tokens >= refused_tokens:
                continue
            if best is not None:
                most_tokens = max(self.policy.held(request).values(), default=0)
                if most_tokens <= best[1].cached_tokens:
                    continue
            choice = self.policy.choose(request, self.fleet, now)
            if choice is None:
                refused_tokens = need_tokens
            elif best is None or choice.cached_tokens > best[1].cached_tokens:
                best = request, choice
        return best

    def expired(self, now: float) -> list[tuple[Waiting, Refusal]]:
        """Take out what has waited longer than its tier allows, or had to make room."""
        displaced, self._displaced = self._displaced, []
        expired = [waiting for queue in self.queues.values() for waiting in queue.expired(now)]
        for waiting in expired:
            self.recovery.forget(waiting.request.request_id)
        return displaced + [
            (waiting, self._refusal(waiting.request, Why.WAITED, now)) for waiting in expired
        ]

    def on_first_token(self, flight: Flight) -> None:
        """The prompt is computed; ``emitted`` counts from here on, kept by who follows it."""
        flight.replica.prefilled(flight)
        if flight.request.lost_s is not None:
            self.recovery.progressed(flight.request)

    @staticmethod
    def on_acquitted(flight: Flight) -> None:
        """A suspect has written ``ACQUITTED_TOKENS`` here: no engine dies of it."""
        acquit(flight.request)
        if flight.on_trial:
            flight.on_trial, flight.replica.trial = False, None

    def on_outgrown(self, flight: Flight) -> None:
        """``emitted`` has passed ``predicted``: expect what such a request still writes."""
        left = self._left(flight.request, flight.emitted)
        flight.replica.outgrew(flight, flight.emitted + left)

    def _left(self, request: Request, emitted: int) -> float:
        """Output tokens that are still expected, with ``emitted`` written in this attempt."""
        written = request.written + emitted
        return self.predictor.remaining(self._key(request), written, request.max_tokens)

    def on_finished(self, request_id: str, now: float, *, complete: bool) -> Flight | None:
        """The request is over, wherever it was. ``complete``: it ended by itself; the length of one
        that was cut counts as a lower bound. Returns the flight if it had been placed."""
        for queue in self.queues.values():
            queue.remove(request_id)
        if self._displaced:
            self._displaced = [
                each for each in self._displaced if each[0].request.request_id != request_id
            ]
        self.recovery.forget(request_id)
        flight = self._flights.pop(request_id, None)
        if flight is None:
            return None
        flight.replica.remove(request_id)
        request, emitted = flight.request, flight.emitted
        self.queues[request.model].settle(request_id, emitted)
        self.rates[request.model].add(emitted, now)
        if request.written + emitted:
            written = request.written + emitted
            self.predictor.learn(self._key(request), written, complete=complete)
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
        flight.replica.refuse()
        queue, request = self.queues[flight.request.model], flight.request
        if request.lost_s is not None:
            # A fault brought it here, and must not fail it: it waits for as long as it may.
            request.attempts -= 1
            self._hold(request, now)
            return request
        if request.attempts >= MAX_ATTEMPTS:
            queue.settle(request_id, 0)
            return None
        queue.push_front(request, request.predicted, now)
        return request

    # -------------------------------------------------------------- the fleet

    def on_replica_joined(self, traits: Traits) -> Replica:
        return self.fleet.join(traits)

    def on_load(self, replica_id: str, load: RemoteLoad, now: float) -> None:
        self.fleet.report(replica_id, load, now)

    # -------------------------------------------------------------- faults

    def on_replica_lost(
        self, replica_id: str, now: float, *, died: bool = False, tried: str | None = None
    ) -> Lost:
        """The replica is gone; its requests go on elsewhere. ``died``: its engine did, perhaps of
        one of them. ``tried``: the request that it really was trying, empty for none (it may not
        have heard of ours yet); None for what is in our books."""
        replica = self.fleet.leave(replica_id)
        if replica is None:
            return Lost((), ())
        self.policy.lost(replica_id)
        if self.shadow is not None:
            self.shadow.policy.lost(replica_id)
        flights = list(replica.flights.values())
        if tried is not None:
            for flight in flights:
                flight.on_trial = flight.request.request_id == tried
        return self._lose(flights, now, died=died)

    def on_replica_hung(self, replica_id: str, now: float) -> Lost:
        """The replica makes no steps. It gets nothing new, and its requests go on elsewhere."""
        replica = self.fleet.get(replica_id)
        if replica is None:
            return Lost((), ())
        self.fleet.shun(replica, shunned=True)
        return self._lose(list(replica.flights.values()), now, died=False)

    def on_flight_lost(self, request_id: str, now: float) -> Lost:
        """The replica gave up this request, and lives."""
        flight = self._flights.get(request_id)
        return Lost((), ()) if flight is None else self._lose([flight], now, died=False)

    def _lose(self, flights: list[Flight], now: float, *, died: bool) -> Lost:
        retried, failed, poisoned = [], [], []
        for flight in flights:
            request = flight.request
            del self._flights[request.request_id]
            flight.replica.remove(request.request_id)
            if died and flight.on_trial:
                poisoned.append(flight)
            elif not flight.emitted and request.attempts >= MAX_ATTEMPTS:
                failed.append(flight)
            else:
                if died:
                    suspect(request)
                self._carry_over(request, flight.emitted, now)
                self._hold(request, now)
                retried.append(request)
                continue
            self.recovery.forget(request.request_id)
            self.queues[request.model].settle(request.request_id, flight.emitted)
        return Lost(tuple(retried), tuple(failed), tuple(poisoned))

    def _carry_over(self, request: Request, emitted: int, now: float) -> None:
        """What the request wrote in an attempt is part of its prompt in the next one."""
        if emitted:
            request.attempts, request.lost_s = 0, None
            request.predicted = self._left(request, emitted)
            request.written += emitted
            request.prompt_tokens += emitted
            self.rates[request.model].add(emitted, now)

    def _hold(self, request: Request, now: float) -> None:
        expires_s = self.recovery.hold(request, now)
        self.queues[request.model].hold(request, request.predicted, now, expires_s)

    def _resume(self, now: float) -> tuple[list[Placed], set[tuple[str, Tier]]]:
        """Place those that lost their replica, before all others and within the budget.

        Also of which model and tier one found no room: nobody passes it there."""
        placed: list[Placed] = []
        stuck: set[tuple[str, Tier]] = set()
        if not self.recovery.held:
            return placed, stuck
        active = len(self._flights) + self.waiting
        for request in self.recovery.due(now):
            if not self.recovery.room(active):
                break
            where = request.model, request.tier
            if where in stuck:
                continue
            choice = self._choose_again(request, now)
            if choice is not None:
                placed.append(self._put_again(request, choice, now))
            elif not request.alone:
                stuck.add(where)
        return placed, stuck

    def _choose_again(self, request: Request, now: float) -> Choice | None:
        if not request.alone:
            return self.policy.choose(request, self.fleet, now)
        taken = [each for each in self.fleet if each.trial is not None and not each.refusing]
        for each in taken:
            each.refuse()
        choice = self.policy.choose(request, self.fleet, now)
        for each in taken:
            each.refuse(refusing=False)
        return choice

    def _put_again(self, request: Request, choice: Choice, now: float) -> Placed:
        placed = self._put(request, choice, now)
        self.recovery.go(request)
        if request.alone:
            placed.flight.on_trial = True
            choice.replica.trial = request.request_id
        return placed

    def move(self, request_id: str, now: float) -> Placed | None:
        """Take a request to another replica with the tokens that it has, if one has room and the
        budget allows; else it stays where it is."""
        flight = self._flights[request_id]
        request = flight.request
        if not self.recovery.room(len(self._flights) + self.waiting):
            return None
        before = request.written, request.prompt_tokens, request.predicted
        request.predicted = self._left(request, flight.emitted)
        request.written += flight.emitted
        request.prompt_tokens += flight.emitted
        choice = self._choose_again(request, now)
        request.written, request.prompt_tokens, request.predicted = before
        if choice is None or choice.replica is flight.replica:
            return None
        # An attempt that did not fail is none.
        request.attempts -= 1
        del self._flights[request_id]
        flight.replica.remove(request_id)
        self._carry_over(request, flight.emitted, now)
        self._hold(request, now)
        return self._put_again(request, choice, now)

    # -------------------------------------------------------------- overload

    def _key(self, request: Request) -> Key:
        prompt_tokens = request.prompt_tokens - request.written
        return self.predictor.key(request.tier, request.tools, prompt_tokens, request.tenant)

    def _hopeless(self, request: Request, now: float) -> bool:
        """Whether it would, as things go, wait in vain."""
        queue = self.queues[request.model]
        limit_s = queue.max_wait_s(request)
        if queue.wait_before_s(request, now) < EVIDENT_WAIT * limit_s:
            return False
        rate = self._dispatched[request.model, request.tier].per_s(now)
        return queue.work_before(request) > rate * limit_s

    def _refusal(self, request: Request, why: Why, now: float) -> Refusal:
        queue = self.queues[request.model]
        return Refusal(
            tier=request.tier,
            retry_after_s=self.drain_s(request.model, request.tier, now),
            queued=queue.length(request.tier),
            no_replica=not self.fleet.open_to(request.model, request.tier),
            why=why,
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
