"""From what a caller asks for to the tier that it is served at (DESIGN §5.1)."""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config import TIERS, Tier

TIER_OF_EFFORT: Mapping[str, Tier] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""OpenAI's seven efforts on Harmony's three (Harmony refuses the other words)."""


@dataclass(frozen=True)
class TierAlias:
    """A served model name, and the tier that the name itself asks for (None: it asks for none)."""

    model: str
    tier: Tier | None = None


def served_names(models: Mapping[str, tuple[str, ...]]) -> dict[str, TierAlias]:
    """Every name that a caller may write as ``model``.

    ``models`` maps each served model to its further names. Each of these names can end in
    ``-low``, ``-medium`` or ``-high``; a name given in the configuration wins over such an ending.
    """
    plain = {
        name: TierAlias(model) for model, others in models.items() for name in (model, *others)
    }
    tiered = {
        f"{name}-{tier}": TierAlias(alias.model, tier)
        for name, alias in plain.items()
        for tier in TIERS
    }
    return {**tiered, **plain}


def resolve_tier(effort: str | None, alias: TierAlias, default: Tier) -> Tier | None:
    """The tier to serve at: the effort in the body, else the model name's, else ``default``.

    None when ``effort`` is no word of OpenAI's.
    """
    if effort is not None:
        return TIER_OF_EFFORT.get(effort)
    return alias.tier or default
