"""The configuration's tiers as the router takes them; the simulator's scenarios say them alike."""

from collections.abc import Mapping

from cluster.config import TIERS, Tier, TierConfig, TiersConfig
from deployments.router.capacity import Slo
from deployments.router.lognormal import LogNormal
from deployments.router.queues import QueueLimits
from deployments.router.router import BrownOut, TierPolicy


def slo_of(tier: TierConfig) -> Slo:
    """The tier's objectives, in seconds."""
    return Slo(tier.slo.ttft_s, tier.slo.tpot_ms / 1000.0)


def tier_policies(tiers: TiersConfig) -> Mapping[Tier, TierPolicy]:
    """What a router does with each tier."""
    return {tier: _policy(tiers.of(tier)) for tier in TIERS}


def _policy(tier: TierConfig) -> TierPolicy:
    down = tier.brown_out
    return TierPolicy(
        QueueLimits(tier.max_queued, tier.max_queue_wait_s, tier.priority),
        LogNormal.from_mean(tier.prior_output_tokens_mean, tier.prior_sigma),
        slo_of(tier),
        None if down is None else BrownOut(down.to, down.above_wait_s),
    )
