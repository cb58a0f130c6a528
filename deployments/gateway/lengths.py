"""How many tokens a generation is granted before anybody knows its length."""

from collections.abc import Callable

from deployments.gateway.context import RequestContext
from deployments.router.predict import Key, LengthPredictor

RESERVED = 0.9
"""Quantile of the predicted length that is reserved. With the mean, half of all bursts would
overdraw: so many answers of one kind are longer together than was thought. What is reserved too
much comes back when the answer ends."""

KEPT_S = 1.0
"""A quantile takes 150 µs to find (on the 2-core machine that this was written on) and moves with
the requests that end, so it is found once a second for each kind of request."""


class Lengths:
    """``clock`` is any clock in seconds."""

    def __init__(self, predictor: LengthPredictor, clock: Callable[[], float]) -> None:
        self._predictor = predictor
        self._clock = clock
        self._known: dict[Key, tuple[float, float]] = {}
        """By tier, tools and bucket of the prompt's length: some 70."""

    def most(self, context: RequestContext, prompt_tokens: int, max_tokens: int) -> float:
        """Output tokens that such a request hardly exceeds: those of all tenants, and at least what
        is expected of its own."""
        tenant = "" if context.caller is None else context.caller.tenant
        own = LengthPredictor.key(context.tier, context.tools, prompt_tokens, tenant)
        expected = self._predictor.expected(own, max_tokens)
        return min(float(max_tokens), max(expected, self._quantile(own._replace(tenant=""))))

    def _quantile(self, key: Key) -> float:
        now = self._clock()
        found = self._known.get(key)
        if found is None or now - found[1] > KEPT_S:
            found = self._known[key] = self._predictor.quantile(key, RESERVED, 1 << 30), now
        return found[0]
