"""Output tokens per second, as a fading average."""

import math

HALF_LIFE_S = 10.0
LN_2 = math.log(2.0)


class RateMeter:
    """Adds up amounts that fade with a half-life; the sum over its mean age is a rate."""

    def __init__(self, half_life_s: float = HALF_LIFE_S) -> None:
        self._half_life_s = half_life_s
        self._sum = 0.0
        self._at_s = math.inf

    def _fade(self, now: float) -> None:
        if now > self._at_s:
            self._sum *= 0.5 ** ((now - self._at_s) / self._half_life_s)
        self._at_s = now

    def add(self, amount: float, now: float) -> None:
        self._fade(now)
        self._sum += amount

    def per_s(self, now: float) -> float:
        """The rate now. (A steady rate r keeps the fading sum at r · half-life / ln 2.)"""
        self._fade(now)
        return self._sum * LN_2 / self._half_life_s
