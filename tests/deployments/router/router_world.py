"""A small router world for tests: tiers with short limits, replicas and requests by name."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

from cluster.config import TIERS, Tier
from deployments.router import (
    LogNormal,
    QueueLimits,
    Replica,
    Request,
    Router,
    TierPolicy,
    Traits,
)

MODEL, OTHER_MODEL = "gpt-oss-120b", "gpt-oss-20b"
ALL_TIERS: frozenset[Tier] = frozenset(TIERS)
MEAN_TOKENS: Mapping[Tier, float] = {"low": 1300.0, "medium": 4000.0, "high": 13000.0}
WAITS_S: Mapping[Tier, float] = {"low": 30.0, "medium": 60.0, "high": 120.0}
QUEUED: Mapping[Tier, int] = {"low": 4, "medium": 3, "high": 2}

_ids = itertools.count(1)


def policies(max_queued: Mapping[Tier, int] = QUEUED) -> dict[Tier, TierPolicy]:
    return {
        tier: TierPolicy(
            QueueLimits(max_queued[tier], WAITS_S[tier], 10 * TIERS.index(tier)),
            LogNormal.from_mean(MEAN_TOKENS[tier], 1.0),
        )
        for tier in TIERS
    }


def make_router(max_queued: Mapping[Tier, int] = QUEUED) -> Router:
    return Router((MODEL, OTHER_MODEL), policies(max_queued))


def traits(replica_id: str, **changes: object) -> Traits:
    plain = Traits(replica_id, MODEL, "pool", ALL_TIERS, frozenset(), 8, 131072, 200_000)
    return replace(plain, **changes)  # type: ignore[arg-type]


def join(router: Router, replica_id: str, **changes: object) -> Replica:
    return router.on_replica_joined(traits(replica_id, **changes))


def request(
    tier: Tier = "low",
    prompt_tokens: int = 100,
    max_tokens: int = 100_000,
    model: str = MODEL,
    request_id: str = "",
) -> Request:
    return Request(request_id or f"r{next(_ids)}", model, tier, prompt_tokens, max_tokens)


def admitted(router: Router, *requests: Request, now: float = 0.0) -> None:
    for each in requests:
        assert router.admit(each, now) is None


def placed_on(router: Router, each: Request, now: float = 0.0) -> str | None:
    """Admit and place one request; the replica's id, or None if it waits."""
    admitted(router, each, now=now)
    flights = {flight.request.request_id: flight for flight, _, _ in router.placements(now)}
    flight = flights.get(each.request_id)
    return None if flight is None else flight.replica_id
