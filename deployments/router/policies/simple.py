"""Policies that others use, to compare with: they know nothing of tiers."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from zlib import crc32

from deployments.router.fleet import Fleet, Replica, Request
from deployments.router.policies.choice import (
    NOTHING,
    Choice,
    Policy,
    Verdict,
    finish_s,
    tie_break,
)
from deployments.router.prefixes import PrefixIndex


class _Simple(Policy):
    """Picks among the replicas that have a seat (KV is not looked at, as others do not)."""

    def choose(self, request: Request, fleet: Fleet, now: float) -> Choice | None:
        replicas = fleet.open_to(request.model, request.tier)
        free = [each for each in replicas if not each.refusing and each.in_flight < each.seats]
        if not free:
            return None
        replica = self.pick(request, free)
        held = self.held(request)
        considered = [
            (each, finish_s(each, request, held.get(each.replica_id, 0)), Verdict.HOME)
            for each in free
        ]
        cached = held.get(replica.replica_id, 0)
        after_s = finish_s(replica, request, cached)
        return Choice(replica, after_s, Verdict.HOME, considered, cached)

    @abstractmethod
    def pick(self, request: Request, free: Sequence[Replica]) -> Replica:
        """One of ``free``, which is not empty."""


class RoundRobin(_Simple):
    """One after the other: always the one whose last turn is the longest ago.

    So it goes round in every model's and pool's replicas by themselves.
    """

    name = "round-robin"

    def __init__(self) -> None:
        self._turns = 0
        self._last_turn: dict[str, int] = {}

    def pick(self, request: Request, free: Sequence[Replica]) -> Replica:
        return min(free, key=lambda each: self._last_turn.get(each.replica_id, 0))

    def placed(self, request: Request, replica: Replica, now: float) -> None:
        # Not when it is asked: a router may ask for several requests and place one.
        self._turns += 1
        self._last_turn[replica.replica_id] = self._turns

    def lost(self, replica_id: str) -> None:
        self._last_turn.pop(replica_id, None)


def least_loaded(request: Request, free: Sequence[Replica]) -> Replica:
    least = min(each.in_flight for each in free)
    equal = [each for each in free if each.in_flight == least]
    if len(equal) == 1:
        return equal[0]
    return min(equal, key=lambda each: tie_break(request.request_id, each.replica_id))


class LeastRequests(_Simple):
    """The fewest requests, our own counted at once, others' as last reported."""

    name = "least-requests"

    def pick(self, request: Request, free: Sequence[Replica]) -> Replica:
        return least_loaded(request, free)


class PowerOfTwo(_Simple):
    """The less loaded of two at random: Ray Serve's default. The request's id is the chance."""

    name = "power-of-two"

    def pick(self, request: Request, free: Sequence[Replica]) -> Replica:
        if len(free) == 1:
            return free[0]
        digest = crc32(request.request_id.encode()) * 0x9E3779B1 & 0xFFFFFFFF
        first = digest % len(free)
        second = (first + 1 + (digest >> 12) % (len(free) - 1)) % len(free)
        return least_loaded(request, (free[first], free[second]))


class PrefixAffinity(_Simple):
    """Sticky until saturated, llm-d's default: the replica that holds most of the prompt.

    A replica counts if it holds 80 % of the prompt and at most ``SATURATED_TOKENS`` wait there for
    prefill; else the fewest requests decide.
    """

    name = "prefix-affinity"

    STICKY_SHARE = 0.8
    SATURATED_TOKENS = 39_065
    """One second of llm-d's published peak prefill rate of gpt-oss-120b on an H100."""

    def __init__(self) -> None:
        self._prefixes = PrefixIndex()

    def pick(self, request: Request, free: Sequence[Replica]) -> Replica:
        held = self.held(request)
        least = self.STICKY_SHARE * request.prompt_tokens
        sticky = [
            each
            for each in free
            if held.get(each.replica_id, 0) >= least
            and each.awaiting_prefill <= self.SATURATED_TOKENS
        ]
        return least_loaded(request, sticky or free)

    def held(self, request: Request) -> Mapping[str, int]:
        return self._prefixes.match(request.blocks) if request.blocks else NOTHING

    def placed(self, request: Request, replica: Replica, now: float) -> None:
        if request.blocks:
            traits = replica.traits
            self._prefixes.record(request.blocks, traits.replica_id, traits.kv_tokens)

    def lost(self, replica_id: str) -> None:
        self._prefixes.forget(replica_id)
