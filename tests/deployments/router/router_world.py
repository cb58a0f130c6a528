"""A small router world for tests: tiers with short limits, replicas and requests by name."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.config import TIERS, PolicyName, Tier
from cluster.steptime import StepModel
from deployments.router import (
    Flight,
    LogNormal,
    Placed,
    QueueLimits,
    RemoteLoad,
    Replica,
    Request,
    Router,
    Slo,
    TierPolicy,
    Traits,
)
from deployments.router.fleet import TIER_INDEX
from deployments.router.recovery import RecoveryLimits

MODEL, OTHER_MODEL = "gpt-oss-120b", "gpt-oss-20b"
ALL_TIERS: frozenset[Tier] = frozenset(TIERS)
MEAN_TOKENS: Mapping[Tier, float] = {"low": 1300.0, "medium": 4000.0, "high": 13000.0}
WAITS_S: Mapping[Tier, float] = {"low": 30.0, "medium": 60.0, "high": 120.0}
QUEUED: Mapping[Tier, int] = {"low": 4, "medium": 3, "high": 2}
ROOMY: Mapping[Tier, int] = dict.fromkeys(TIERS, 1000)

SLOS: Mapping[Tier, Slo] = {
    "low": Slo(1.0, 0.015),
    "medium": Slo(2.0, 0.025),
    "high": Slo(3.0, 0.080),
}
SAME_SLOS: Mapping[Tier, Slo] = dict.fromkeys(TIERS, Slo(2.0, 0.025))

STEPS = StepModel(base_s=0.004, seq_s=0.0002, prefill_token_s=0.00003)
"""A step of 4 ms and 0.2 ms a request; 0.03 ms a prompt token."""

_ids = itertools.count(1)


def policies(
    max_queued: Mapping[Tier, int] = QUEUED, slos: Mapping[Tier, Slo] = SLOS
) -> dict[Tier, TierPolicy]:
    return {
        tier: TierPolicy(
            QueueLimits(max_queued[tier], WAITS_S[tier], 10 * TIERS.index(tier)),
            LogNormal.from_mean(MEAN_TOKENS[tier], 1.0),
            slos[tier],
        )
        for tier in TIERS
    }


def make_router(
    max_queued: Mapping[Tier, int] = QUEUED,
    policy: PolicyName = "effort",
    shadow: PolicyName | None = None,
    slos: Mapping[Tier, Slo] = SLOS,
    recovery: RecoveryLimits | None = None,
) -> Router:
    tiers = policies(max_queued, slos)
    return Router((MODEL, OTHER_MODEL), tiers, policy, shadow, recovery=recovery)


def traits(replica_id: str, **changes: object) -> Traits:
    plain = Traits(replica_id, MODEL, "pool", ALL_TIERS, frozenset(), 8, 131072, 200_000, STEPS)
    return replace(plain, **changes)  # type: ignore[arg-type]


def join(router: Router, replica_id: str, **changes: object) -> Replica:
    return router.on_replica_joined(traits(replica_id, **changes))


def request(
    tier: Tier = "low",
    prompt_tokens: int = 100,
    max_tokens: int = 100_000,
    model: str = MODEL,
    request_id: str = "",
    tenant: str = "",
    blocks: tuple[int, ...] = (),
    ahead: bool = False,
    behind: bool = False,
    spare: bool = False,
) -> Request:
    return Request(
        request_id or f"r{next(_ids)}",
        model,
        tier,
        prompt_tokens,
        max_tokens,
        tenant,
        blocks=blocks,
        ahead=ahead,
        behind=behind,
        spare=spare,
    )


def load_of(
    by_tier: tuple[int, int, int] = (0, 0, 0),
    ours: tuple[int, int, int] = (0, 0, 0),
    waiting: int = 0,
    **more: object,
) -> RemoteLoad:
    """What a replica reports that holds so many requests of each tier, all but ``waiting`` running.

    Its steps take what the step model says, unless ``step_s`` says otherwise."""
    running = sum(by_tier) - waiting
    values: dict[str, object] = {
        "running": running,
        "waiting": waiting,
        "step_s": STEPS.step_s(running, 0.0) if running else 0.0,
        "by_tier": by_tier,
        "ours": ours,
    }
    return RemoteLoad(**{**values, **more})  # type: ignore[arg-type]


def admitted(router: Router, *requests: Request, now: float = 0.0) -> None:
    for each in requests:
        assert router.admit(each, now) is None


def placed(router: Router, each: Request, now: float = 0.0) -> Placed | None:
    """Admit and place one request; None if it waits."""
    admitted(router, each, now=now)
    found = {each.flight.request.request_id: each for each in router.placements(now)}
    return found.get(each.request_id)


def placed_on(router: Router, each: Request, now: float = 0.0) -> str | None:
    """The replica's id, or None if it waits."""
    found = placed(router, each, now)
    return None if found is None else found.flight.replica_id


def flight_of(router: Router, each: Request) -> Flight:
    for replica in router.fleet:
        if each.request_id in replica.flights:
            return replica.flights[each.request_id]
    raise AssertionError(f"{each.request_id} is on no replica")


def write(router: Router, flight: Flight, tokens: int) -> None:
    """So many more tokens have come: what the gateway does with them."""
    if tokens == 0:
        return
    first = flight.emitted == 0
    flight.emitted += tokens
    if first:
        router.on_first_token(flight)
    elif flight.emitted > flight.predicted:
        router.on_outgrown(flight)


def occupy(router: Router, replica_id: str, tiers: Sequence[Tier], now: float = 0.0) -> None:
    """Other gateways run one request of each of these tiers on the replica."""
    low, medium, high = (tiers.count(tier) for tier in TIER_INDEX)
    router.on_load(replica_id, load_of((low, medium, high)), now)
