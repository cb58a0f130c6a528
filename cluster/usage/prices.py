"""What tokens cost, by the configured prices."""

from collections.abc import Mapping

from cluster.config import PriceConfig, Tier

MILLION = 1_000_000.0


class Prices:
    """``prices`` by model name, ``*`` for all others."""

    def __init__(self, prices: Mapping[str, PriceConfig]) -> None:
        self._prices = prices

    def cost(
        self, model: str, tier: Tier, prompt_tokens: int, output_tokens: float, cached_tokens: int
    ) -> float:
        """Of one request; ``cached_tokens`` are part of the prompt. 0 for a model without price."""
        price = self._prices.get(model) or self._prices.get("*")
        if price is None:
            return 0.0
        cached_price = price.prompt if price.cached is None else price.cached
        amount = (
            (prompt_tokens - cached_tokens) * price.prompt
            + cached_tokens * cached_price
            + output_tokens * price.output
        )
        return amount * price.tiers.of(tier) / MILLION
