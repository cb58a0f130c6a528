"""Signals and pools for tests of the autoscaling policy, and a small load that a test can drive."""

import math
from datetime import datetime, timedelta

from autoscaling.policy import PolicySettings, PoolPlan
from autoscaling.signals import Freshness, PoolSignals, Signals, TierSignals
from autoscaling.simulator.scaling.runs import LENGTHS, SLOS, kind_of
from autoscaling.sizing import Sizing
from cluster.config import TIERS, Tier

MONDAY = datetime(2026, 1, 5)
INTERVAL_S = 15.0
KIND = kind_of()
SIZING = Sizing(KIND, SLOS)
QUICK = PolicySettings(forecast=False, hold_s=120.0)


def pool(name: str = "main", **changes: object) -> PoolPlan:
    settings: dict[str, object] = {
        "tiers": frozenset(TIERS),
        "lends_to": frozenset(TIERS),
        "cold_start_s": 100.0,
        "kind": KIND,
        **changes,
    }
    return PoolPlan(name, **settings)  # type: ignore[arg-type]


def per_s_of(replicas: float) -> dict[Tier, float]:
    """Arrival rates (half low, the usual mix) that fill so many replicas."""
    mix = {"low": 0.5, "medium": 0.35, "high": 0.15}
    one = sum(share / capacity(tier).per_s for tier, share in zip(TIERS, mix.values(), strict=True))
    return {tier: mix[tier] * replicas / one for tier in TIERS}


def capacity(tier: Tier):  # type: ignore[no-untyped-def]
    return SIZING.of(tier, LENGTHS[tier].prompt_tokens, LENGTHS[tier].output_tokens)


def signals(
    at_s: float,
    load: float,
    *,
    pools: dict[str, tuple[int, int]] | None = None,
    freshness: Freshness = "fresh",
    queued: float = 0.0,
    running: float | None = None,
    attained: float = 1.0,
) -> Signals:
    """A picture in which what comes would fill ``load`` replicas; ``pools``: (ready, starting)."""
    tiers = {
        tier: TierSignals(
            tier,
            rate,
            LENGTHS[tier].prompt_tokens,
            LENGTHS[tier].output_tokens,
            running=rate if running is None else running,
            queued=queued,
            ttft_attained=attained if rate else math.nan,
        )
        for tier, rate in per_s_of(load).items()
    }
    there = {
        name: PoolSignals(name, ready, starting)
        for name, (ready, starting) in (pools or {"main": (1, 0)}).items()
    }
    return Signals("model", at_s, INTERVAL_S, freshness, tiers, there)


def clock(at_s: float) -> datetime:
    return MONDAY + timedelta(seconds=at_s)
