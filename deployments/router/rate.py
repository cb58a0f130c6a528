"""Output tokens per second, as a fading average."""

import math

HALF_LIFE_S = 10.0


class RateMeter:
    """Adds up amounts that fade with a half-life; the sum over its mean age is a rate."""

    def __init__(self, half_life_s: float = HALF_LIFE_S) -> None:
        self._half_life_s = half_life_s
        self._sum = 0.0
        self._at_s: float | None = None

    def _fade(self, now: float) -> None:
        if self._at_s is not None:
            self._sum *= 0.5 ** (max(0.0, now - self._at_s) / self._half_life_s)
        self._at_s = now

    def add(self, amount: float, now: float) -> None:
        self._fade(now)
        self._sum += amount

    def per_s(self, now: float) -> float:
        """The rate now. (A steady rate r keeps the fading sum at r · half-life / ln 2.)"""
        self._fade(now)
        return self._sum * math.log(2.0) / self._half_life_s
