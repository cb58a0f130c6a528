"""This gateway's account of its requests and replicas, for the autoscaler (``cluster/accounts``).

Told of each request when it is placed, writes its first token, ends, or is refused; the rest is
read from the router when somebody asks. It never looks at a prompt, and costs a few additions a
request.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.accounts import GatewayAccount, ReplicaAccount, TierAccount
from cluster.config import TIERS, Tier
from deployments.router import Request, Router, Slo

MEAN_WEIGHT = 0.05
"""Weight of a request in the moving means of its tier."""


@dataclass(slots=True)
class _Counts:
    """What ``TierAccount`` says grows, and the moving means."""

    arrived: int = 0
    refused: int = 0
    placed: int = 0
    prompt_tokens: float = 0.0
    expected_tokens: float = 0.0
    answered: int = 0
    first_in_time: int = 0
    ended: int = 0
    paced_in_time: int = 0
    first_s: float = 0.0
    pace_s: float = 0.0


class Account:
    """``slos`` are the tiers' objectives; ``models`` those that are served."""

    def __init__(self, gateway: str, models: Iterable[str], slos: Mapping[Tier, Slo]) -> None:
        self._gateway = gateway
        self._slos = slos
        self._counts = {(model, tier): _Counts() for model in models for tier in TIERS}

    def placed(self, request: Request) -> None:
        """On a replica; a further attempt is no further request."""
        counts = self._counts[request.model, request.tier]
        if request.attempts <= 1:
            counts.placed += 1
            counts.prompt_tokens += request.prompt_tokens
            counts.expected_tokens += request.predicted

    def first_token(self, model: str, tier: Tier, took_s: float) -> None:
        counts = self._counts[model, tier]
        counts.answered += 1
        counts.first_in_time += took_s <= self._slos[tier].ttft_s
        counts.first_s = _moved(counts.first_s, took_s)

    def ended(self, model: str, tier: Tier, per_token_s: float) -> None:
        """With a mean time per output token after the first."""
        counts = self._counts[model, tier]
        counts.ended += 1
        counts.paced_in_time += per_token_s <= self._slos[tier].tpot_s
        counts.pace_s = _moved(counts.pace_s, per_token_s)

    def refused(self, model: str, tier: Tier) -> None:
        """At admission, or after too long a wait. A model that is not served is nobody's load."""
        counts = self._counts.get((model, tier))
        if counts is not None:
            counts.refused += 1

    def read(self, router: Router, now: float) -> GatewayAccount:
        """The account at ``now``."""
        return GatewayAccount(
            self._gateway,
            tuple(self._tier(key, counts, router, now) for key, counts in self._counts.items()),
            tuple(_replicas(router)),
        )

    def _tier(
        self, key: tuple[str, Tier], counts: _Counts, router: Router, now: float
    ) -> TierAccount:
        model, tier = key
        queue = router.queues[model]
        queued = queue.length(tier)
        # Whoever leaves the queue by hanging up has come all the same: the count never falls.
        counts.arrived = max(counts.arrived, counts.placed + counts.refused + queued)
        expected = counts.expected_tokens / counts.placed if counts.placed else 0.0
        running, left = 0, 0.0
        for replica in router.fleet:
            if replica.traits.model == model:
                for flight in replica.flights.values():
                    if flight.request.tier == tier:
                        running += 1
                        left += max(0.0, flight.predicted - flight.emitted)
        return TierAccount(
            model,
            tier,
            counts.arrived,
            counts.refused,
            counts.placed,
            counts.prompt_tokens,
            counts.expected_tokens,
            counts.answered,
            counts.first_in_time,
            counts.ended,
            counts.paced_in_time,
            queued,
            queued * expected,
            running,
            left,
            queue.oldest_wait_s(tier, now),
            counts.first_s,
            counts.pace_s,
        )


def _replicas(router: Router) -> Iterable[ReplicaAccount]:
    for replica in router.fleet:
        traits, load = replica.traits, replica.load
        promised = replica.reserved_kv + replica.others_kv
        yield ReplicaAccount(
            traits.replica_id,
            traits.model,
            traits.pool,
            load.draining,
            replica.in_flight,
            load.kv_use,
            promised / traits.kv_tokens,
            replica.pace if replica.paced else 1.0,
            load.step_s,
            traits.max_num_seqs,
            traits.kv_tokens,
        )


def _moved(mean: float, value: float) -> float:
    return value if mean == 0.0 else mean + MEAN_WEIGHT * (value - mean)
