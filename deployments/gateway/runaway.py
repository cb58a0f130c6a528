"""What ends a reply that does not come to its answer, for each tier as configured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.config import TIERS, RepetitionConfig, Tier, TiersConfig


@dataclass(frozen=True, slots=True)
class RunawayGuard:
    """Tiers that are not named have no guard.

    The gateway itself counts tokens of analysis, as it follows every stream; loops are looked for
    by the engines, which vLLM can do."""

    max_analysis_tokens: Mapping[Tier, int] = field(default_factory=dict)
    repetition: Mapping[Tier, RepetitionConfig] = field(default_factory=dict)

    @classmethod
    def of(cls, tiers: TiersConfig) -> "RunawayGuard":
        """The guard that the configuration describes."""
        each = [(tier, tiers.of(tier)) for tier in TIERS]
        return cls(
            {tier: own.max_analysis_tokens for tier, own in each if own.max_analysis_tokens},
            {tier: own.repetition_detection for tier, own in each if own.repetition_detection},
        )
