"""Whether predicted quantiles hold: the share of lengths that came out at or below each."""

from collections.abc import Mapping, Sequence

from cluster.config import TIERS, Tier

LEVELS: Sequence[float] = (0.10, 0.25, 0.50, 0.75, 0.90, 0.95)

MEMORY_REQUESTS = 2000.0
"""Older requests fade, if nothing else is asked for. Over so many, chance alone moves a share by
about 1 point."""


class _Shares:
    """Fading sums over the finished requests of a tier."""

    __slots__ = ("sums", "weight")

    def __init__(self) -> None:
        self.sums = [0.0] * len(LEVELS)
        self.weight = 0.0


class Calibration:
    """Coverage of the predicted quantiles, per tier.

    A length is compared by its place in the predicted distribution: it lies between ``below`` =
    P(shorter) and ``upto`` = P(not longer). Where a quantile level falls inside that interval, the
    request counts in part: lengths are whole numbers, and of requests that all write 10 tokens, no
    quantile could have 25 % below it. (The probability integral transform for counts of Czado,
    Gneiting and Held, "Predictive Model Assessment for Count Data", Biometrics 2009.) A request
    that was cut short has ``upto`` = 1: it would have ended somewhere above.
    """

    def __init__(self, memory_requests: float = MEMORY_REQUESTS) -> None:
        self._keep = 1.0 - 1.0 / memory_requests
        self._tiers: dict[Tier, _Shares] = {tier: _Shares() for tier in TIERS}

    def record(self, tier: Tier, below: float, upto: float) -> None:
        """A request of ``tier`` has finished in this interval of what was predicted for it."""
        shares = self._tiers[tier]
        keep = self._keep
        shares.weight = shares.weight * keep + 1.0
        span = upto - below
        shares.sums = [
            each * keep
            + (1.0 if level >= upto else 0.0 if level <= below else (level - below) / span)
            for each, level in zip(shares.sums, LEVELS, strict=True)
        ]

    def requests(self, tier: Tier) -> float:
        """How many finished requests the coverage rests on, with the older ones counted less."""
        return self._tiers[tier].weight

    def coverage(self, tier: Tier) -> Mapping[float, float]:
        """Quantile level → share of lengths at or below it; empty before the first request.

        Well calibrated is a share equal to its level.
        """
        shares = self._tiers[tier]
        if shares.weight == 0.0:
            return {}
        return {
            level: each / shares.weight for level, each in zip(LEVELS, shares.sums, strict=True)
        }

    def worst_error(self, tier: Tier) -> float:
        """The largest |share − level| of the tier; 0 before the first request."""
        return max(
            (abs(share - level) for level, share in self.coverage(tier).items()), default=0.0
        )
