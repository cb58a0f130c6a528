"""Requests that wait for a replica: bounded per tier, shared fairly between tenants."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config import Tier
from deployments.router.fair import Charge, FairQueue, Waiting, work
from deployments.router.fleet import Request

__all__ = ["QueueLimits", "TierQueues", "Waiting"]

MAX_TENANTS = 4096
"""Tenants remembered per tier; of more, the one that has been idle for the longest is forgotten."""

SPARE_WAIT = 10.0
"""Times its tier's longest wait is how long a spare request may wait."""

QUANTUM = 16_384.0
"""Work (weighted tokens) by which a tenant may be served ahead of its turn, say where that finds
its prefix cached: about four requests of the low tier."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Of one tier in one gateway. ``priority`` is the engine's; lower is served first.

    Who has waited ``on_time_s`` cannot keep its objective any more, and goes behind those who can.
    """

    max_queued: int
    max_wait_s: float
    priority: int
    on_time_s: float = math.inf


class TierQueues:
    """One queue a tier, for one model.

    Over the tiers, the one whose oldest request is due first goes first: a tier with a short limit
    is served sooner, and no tier starves, because its due time comes closer than all others.
    Within a tier, tenants share by the work that they are given: see ``FairQueue``, and there what
    is guaranteed. Requests that are ``ahead`` have queues of their own, which all go first.

    A request that leaves for a replica is charged to its tenant (``dispatch``). Each charge must
    be settled (``settle``), or given back by queueing the request again (``push_front``, ``hold``).
    """

    def __init__(
        self,
        limits: Mapping[Tier, QueueLimits],
        *,
        weights: Mapping[str, float] | None = None,
        quantum: float = QUANTUM,
        max_tenants: int = MAX_TENANTS,
    ) -> None:
        """``weights``: the tenants' shares (> 0), 1 where none is given. ``quantum`` is work."""
        self.limits = limits
        self._quantum = quantum
        self._queues = {tier: FairQueue(weights or {}, max_tenants) for tier in limits}
        self._ahead = {tier: FairQueue(weights or {}, max_tenants) for tier in limits}
        self._every = [*self._ahead.items(), *self._queues.items()]
        self._home: dict[str, FairQueue] = {}
        self._charges: dict[str, tuple[FairQueue, Charge]] = {}

    def __len__(self) -> int:
        return len(self._home)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._home

    @property
    def unsettled(self) -> int:
        """Requests that were dispatched and have not ended."""
        return len(self._charges)

    def length(self, tier: Tier) -> int:
        return len(self._queues[tier]) + len(self._ahead[tier])

    def tenants(self, tier: Tier) -> int:
        """Tenants that the tier remembers."""
        return self._queues[tier].tenants + self._ahead[tier].tenants

    def counter(self, tier: Tier, tenant: str) -> float:
        """Work that the tenant was given, over its weight; meaningful against another tenant's."""
        return self._queues[tier].counter(tenant)

    def weigh(self, weights: Mapping[str, float]) -> None:
        """New shares of the tenants (> 0), 1 where none is given."""
        for _, queue in self._every:
            queue.weigh(weights)

    def is_full(self, tier: Tier) -> bool:
        return self.length(tier) >= self.limits[tier].max_queued

    def oldest_wait_s(self, tier: Tier, now: float) -> float:
        """The longest wait among those that do not go ``ahead``."""
        return self._queues[tier].oldest_wait_s(now)

    def wait_before_s(self, request: Request, now: float) -> float:
        """The longest wait among those that ``request`` would stand with."""
        return self._lane(request)[request.tier].oldest_wait_s(now)

    def _lane(self, request: Request) -> dict[Tier, FairQueue]:
        return self._ahead if request.ahead else self._queues

    def max_wait_s(self, request: Request) -> float:
        return self.limits[request.tier].max_wait_s * (SPARE_WAIT if request.spare else 1.0)

    # -------------------------------------------------------------- what waits

    def push(self, request: Request, predicted_tokens: float, now: float) -> None:
        """Queue a new request behind its tenant's others; one that stands behind goes to those
        that come after all tenants' at once."""
        end_s = now + self.max_wait_s(request)
        queue = self._home[request.request_id] = self._lane(request)[request.tier]
        waiting = Waiting(request, now, end_s, predicted_tokens, end_s)
        if request.behind:
            queue.late[request.request_id] = waiting
        else:
            queue.push(waiting)

    def push_front(self, request: Request, predicted_tokens: float, now: float) -> None:
        """Queue a request that has lost its replica before all others of its tier: it has waited
        its turn already. What its tenant was charged is given back."""
        end_s = now + self.limits[request.tier].max_wait_s
        self._settle_work(request.request_id, 0.0)
        queue = self._home[request.request_id] = self._lane(request)[request.tier]
        queue.push_front(Waiting(request, now, now, predicted_tokens, end_s))

    def hold(self, request: Request, predicted_tokens: float, now: float, expires_s: float) -> None:
        """Keep a request that has lost its replica out of the line, until it is dispatched or has
        waited until ``expires_s``. What its tenant was charged is given back."""
        self._settle_work(request.request_id, 0.0)
        queue = self._home[request.request_id] = self._lane(request)[request.tier]
        waiting = Waiting(request, now, now, predicted_tokens, expires_s)
        queue.held[request.request_id] = waiting

    def remove(self, request_id: str) -> Waiting | None:
        """Take out a request that will not be served (it was cancelled, say)."""
        queue = self._home.pop(request_id, None)
        return None if queue is None else queue.remove(request_id)

    def expired(self, now: float) -> list[Waiting]:
        """Take out what has waited longer than its tier allows, in the order in which it came."""
        gone: list[Waiting] = []
        for _, queue in self._every:
            for waiting in queue.arrivals.values():
                if waiting.expires_s > now:
                    break
                gone.append(waiting)
            # Those that lost a replica are few, and may wait for different times; the late ones
            # came here from two sides, and are at most as many as may be queued.
            for line in (queue.late.values(), queue.front.values(), queue.held.values()):
                gone += [waiting for waiting in line if waiting.expires_s <= now]
        for waiting in gone:
            self.remove(waiting.request.request_id)
        return gone

    # -------------------------------------------------------------- whose turn it is

    def heads(self, tier: Tier | None = None, k: int = 1) -> list[Waiting]:
        """Of a tier, up to ``k`` requests of different tenants, of which any may go next.

        The first is the one whose turn it is. To take another (because that finds its prefix
        cached, or because the first finds no room) is fair up to the quantum: tenants further
        ahead are not among them. A retried request stands alone.

        Without a tier: the first of each, that of the tier which is due earliest first.
        """
        if tier is not None:
            return self._next_queue(tier).heads(k, self._quantum)
        return [self._next_queue(each).heads(1, 0.0)[0] for each in self.due()]

    def _next_queue(self, tier: Tier) -> FairQueue:
        """Those ahead before the others, but nobody who is late before one who is not."""
        ahead, others = self._ahead[tier], self._queues[tier]
        if ahead.in_time or (ahead.late and not others.in_time):
            return ahead
        return others

    def due(self) -> list[Tier]:
        """The tiers in which something waits, by when their oldest request is due: those with a
        request that goes ahead before all others, those with nothing but late ones after them."""
        firsts: list[tuple[int, float, int, Tier]] = []
        for tier, others in self._queues.items():
            ahead = self._ahead[tier]
            if not (others.waits or ahead.waits):
                continue
            rank, first = 0, ahead.in_time
            if first is None:
                rank, first = 1, others.in_time
            if first is None:
                rank, first = 2, ahead.first_late or others.first_late
            if first is not None:
                firsts.append((rank, first.due_s, len(firsts), tier))
        return [tier for _, _, _, tier in sorted(firsts)]

    def demote(self, now: float) -> None:
        """Who cannot be in time any more goes behind those who can."""
        for tier, queue in self._every:
            if queue.arrivals:
                queue.demote(now - self.limits[tier].on_time_s)

    def crowded_out(self, request: Request) -> Waiting | None:
        """Which request should make room in a full tier for ``request``: the oldest that is late,
        else the last one of the tenant that has the most queued for its weight. None if that is
        the request's own tenant.

        Without this, a tenant that fills the queue would shut out all others.
        """
        ahead, others = self._ahead[request.tier], self._queues[request.tier]
        late = others.late or ahead.late
        if late:
            return next(iter(late.values()))
        if request.ahead and others.arrivals:
            return others.longest()
        return self._lane(request)[request.tier].longest(request.tenant)

    # -------------------------------------------------------------- work

    def dispatch(
        self, request_id: str, predicted_tokens: float, *, cached_tokens: int = 0
    ) -> Waiting | None:
        """Take out a request that goes to a replica, and charge its tenant with the predicted work.

        Prompt tokens found in the replica's prefix cache are no work."""
        queue = self._home.pop(request_id, None)
        if queue is None:
            return None
        # Charged before it leaves: the counter with which a tenant becomes idle has its last work.
        waiting = (
            queue.front.get(request_id)
            or queue.late.get(request_id)
            or queue.held.get(request_id)
            or queue.arrivals[request_id]
        )
        uncached = max(0, waiting.request.prompt_tokens - cached_tokens)
        self._charges[request_id] = queue, queue.charge(waiting, predicted_tokens, uncached)
        return queue.remove(request_id)

    def settle(self, request_id: str, output_tokens: int) -> None:
        """A dispatched request is over, with so many tokens written: charge what it really took.

        Does nothing for a request that was not dispatched, or is settled."""
        entry = self._charges.get(request_id)
        if entry is not None:
            self._settle_work(request_id, work(entry[1].prompt_tokens, output_tokens))

    def _settle_work(self, request_id: str, real_work: float) -> None:
        entry = self._charges.pop(request_id, None)
        if entry is not None:
            queue, charge = entry
            queue.settle(charge, real_work)

    def work_before(self, request: Request) -> float:
        """Predicted work (prompt tokens + 2 · output tokens) that its tier would dispatch before
        ``request``, if that came now. Less than all that is queued for a tenant with a small
        share of it. O(backlogged tenants)."""
        ahead = 0.0 if request.ahead else self._ahead[request.tier].queued_work()
        return ahead + self._lane(request)[request.tier].work_before(request.tenant)

    def tokens_before(self, due_s: float) -> float:
        """Predicted output tokens of everything that is due by ``due_s``, in all tiers."""
        total = 0.0
        for _, queue in self._every:
            newest = next(reversed(queue.arrivals.values()), None)
            if newest is not None and newest.due_s <= due_s:
                total += queue.predicted_tokens  # those in front are always due
                continue
            total += sum(waiting.predicted_tokens for waiting in queue.front.values())
            for waiting in queue.arrivals.values():
                if waiting.due_s > due_s:
                    break
                total += waiting.predicted_tokens
        return total
