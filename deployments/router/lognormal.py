"""The log-normal distribution of output lengths: what is assumed before anything was learned."""

import math
from dataclasses import dataclass


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

    def cdf(self, tokens: float) -> float:
        """P(L ≤ tokens)."""
        if tokens <= 0:
            return 0.0
        if self.sigma == 0.0:
            return 1.0 if math.log(tokens) >= self.mu else 0.0
        return _normal_cdf((math.log(tokens) - self.mu) / self.sigma)

    def mean_beyond(self, tokens: float) -> float:
        """E[L | L > tokens], from the partial expectation of the log-normal distribution.

        Where not even a float sees mass above ``tokens``, by the tail's asymptotic form.
        """
        if tokens <= 0:
            return self.mean
        if self.sigma == 0.0:
            return max(tokens + 1.0, self.mean)
        z = (self.mu - math.log(tokens)) / self.sigma
        alive = _normal_cdf(z)
        if alive < 1e-290:
            return tokens * (1.0 + self.sigma / abs(z))
        return max(tokens + 1.0, self.mean * _normal_cdf(z + self.sigma) / alive)
