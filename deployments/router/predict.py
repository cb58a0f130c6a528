"""How many tokens a request will write: a log-normal per tier, learned as requests finish."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config import Tier

PRIOR_WEIGHT = 20.0
"""The prior counts as much as so many finished requests."""

MEMORY_REQUESTS = 500.0
"""Older requests fade: the estimate follows about the last so many of a tier."""

MIN_SIGMA = 0.05

MAX_SURPRISE = 3.0
"""A length counts as at most so many deviations off: one reply of a single token must not widen
the distribution, and with it the *mean*, to double."""


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))  # exact far into the left tail, unlike 1 + erf


@dataclass(frozen=True)
class LogNormal:
    """Length distribution in tokens: ln L is normal with mean ``mu`` and deviation ``sigma``."""

    mu: float
    sigma: float

    @classmethod
    def from_mean(cls, mean_tokens: float, sigma: float) -> "LogNormal":
        return cls(math.log(mean_tokens) - sigma * sigma / 2.0, sigma)

    @property
    def mean(self) -> float:
        return math.exp(self.mu + self.sigma * self.sigma / 2.0)

    def quantile(self, standard_normal_z: float) -> float:
        return math.exp(self.mu + self.sigma * standard_normal_z)

    def mean_beyond(self, tokens: float) -> float:
        """E[L | L > tokens], from the partial expectation of the log-normal distribution.

        Where not even a float sees mass above ``tokens``, by the tail's asymptotic form.
        """
        if tokens <= 0:
            return self.mean
        z = (self.mu - math.log(tokens)) / self.sigma
        alive = _normal_cdf(z)
        if alive < 1e-290:
            return tokens * (1.0 + self.sigma / abs(z))
        return max(tokens + 1.0, self.mean * _normal_cdf(z + self.sigma) / alive)


class _Running:
    """Exponentially fading mean and variance of ln L, starting from the prior."""

    def __init__(self, prior: LogNormal) -> None:
        self.weight = PRIOR_WEIGHT
        self.mean = prior.mu
        self.variance = prior.sigma * prior.sigma

    @property
    def sigma(self) -> float:
        return max(MIN_SIGMA, math.sqrt(self.variance))

    def add(self, value: float) -> None:
        keep = 1.0 - 1.0 / MEMORY_REQUESTS
        self.weight = self.weight * keep + 1.0
        share = 1.0 / self.weight
        reach = MAX_SURPRISE * self.sigma
        delta = min(reach, max(-reach, value - self.mean))
        self.mean += share * delta
        self.variance = (1.0 - share) * (self.variance + share * delta * delta)


class LengthPredictor:
    """Predicts output tokens per tier. ``priors`` give mean tokens and sigma."""

    def __init__(self, priors: Mapping[Tier, LogNormal]) -> None:
        self._seen = {tier: _Running(prior) for tier, prior in priors.items()}

    def distribution(self, tier: Tier) -> LogNormal:
        seen = self._seen[tier]
        return LogNormal(seen.mean, seen.sigma)

    def expected(self, tier: Tier, max_tokens: int) -> float:
        """Expected output tokens of a new request."""
        return min(self.distribution(tier).mean, float(max_tokens))

    def remaining(self, tier: Tier, emitted: int, max_tokens: int) -> float:
        """Expected further tokens of a request that has written ``emitted`` and goes on."""
        total = min(self.distribution(tier).mean_beyond(emitted), float(max_tokens))
        return max(1.0, total - emitted)

    def learn(self, tier: Tier, output_tokens: int) -> None:
        """Take in the length of a request that ended by itself (not one that was cut short)."""
        self._seen[tier].add(math.log(max(1, output_tokens)))
