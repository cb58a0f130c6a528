"""Requests that wait for a replica: bounded per tier, served by earliest deadline."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config import Tier
from deployments.router.fleet import Request


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Of one tier in one gateway. ``priority`` is the engine's; lower is served first."""

    max_queued: int
    max_wait_s: float
    priority: int


@dataclass(slots=True)
class Waiting:
    """A queued request. ``due_s`` orders the tiers' heads; at ``expires_s`` it has waited too long.

    Both are the end of the tier's longest wait, except for a request that lost its replica: that
    one is due at once, and has the whole wait before it again.
    """

    request: Request
    since_s: float
    due_s: float
    predicted_tokens: float
    expires_s: float


class TierQueues:
    """One first-come-first-served queue a tier, for one model.

    Over the tiers, the head with the earliest due time goes first: a tier with a short limit is
    served sooner, and no tier starves, because its head's due time comes closer than all others.
    """

    def __init__(self, limits: Mapping[Tier, QueueLimits]) -> None:
        self.limits = limits
        self._queues: dict[Tier, OrderedDict[str, Waiting]] = {
            tier: OrderedDict() for tier in limits
        }
        self._tier_of: dict[str, Tier] = {}

    def __len__(self) -> int:
        return len(self._tier_of)

    def length(self, tier: Tier) -> int:
        return len(self._queues[tier])

    def is_full(self, tier: Tier) -> bool:
        return self.length(tier) >= self.limits[tier].max_queued

    def oldest_wait_s(self, tier: Tier, now: float) -> float:
        head = next(iter(self._queues[tier].values()), None)
        return 0.0 if head is None else now - head.since_s

    def tokens_before(self, due_s: float) -> float:
        """Predicted output tokens of everything that is served before ``due_s``."""
        return sum(
            waiting.predicted_tokens
            for queue in self._queues.values()
            for waiting in queue.values()
            if waiting.due_s <= due_s
        )

    def push(self, request: Request, predicted_tokens: float, now: float) -> None:
        """Queue a new request at the end."""
        end_s = now + self.limits[request.tier].max_wait_s
        self._add(Waiting(request, now, end_s, predicted_tokens, end_s))

    def push_front(self, request: Request, predicted_tokens: float, now: float) -> None:
        """Queue a request that has lost its replica: it has waited its turn already."""
        end_s = now + self.limits[request.tier].max_wait_s
        self._add(Waiting(request, now, now, predicted_tokens, end_s))
        self._queues[request.tier].move_to_end(request.request_id, last=False)

    def _add(self, waiting: Waiting) -> None:
        request = waiting.request
        self._queues[request.tier][request.request_id] = waiting
        self._tier_of[request.request_id] = request.tier

    def heads(self) -> list[Waiting]:
        """The first of each tier, earliest due time first."""
        heads = [next(iter(queue.values())) for queue in self._queues.values() if queue]
        return sorted(heads, key=lambda waiting: waiting.due_s)

    def remove(self, request_id: str) -> Waiting | None:
        tier = self._tier_of.pop(request_id, None)
        return None if tier is None else self._queues[tier].pop(request_id)

    def expired(self, now: float) -> list[Waiting]:
        """Take out what has waited longer than its tier allows."""
        gone = []
        for queue in self._queues.values():
            for waiting in queue.values():
                if waiting.expires_s <= now:
                    gone.append(waiting)
                elif waiting.due_s == waiting.expires_s:
                    break  # an ordinary one: all behind it came later
        for waiting in gone:
            self.remove(waiting.request.request_id)
        return gone
