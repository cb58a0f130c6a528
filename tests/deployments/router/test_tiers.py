"""Tiers: from effort words and model names to low, medium and high."""

import pytest

from cluster.config import TIERS, Tier
from deployments.router import TierAlias, resolve_tier, served_names

PLAIN = TierAlias("gpt-oss-120b")


@pytest.mark.parametrize(
    ("effort", "tier"),
    [
        ("none", "low"),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "high"),
        ("max", "high"),
    ],
)
def test_each_of_the_seven_efforts_has_its_tier(effort: str, tier: Tier) -> None:
    assert resolve_tier(effort, PLAIN, "medium") == tier


@pytest.mark.parametrize("effort", ["", "High", "extreme", "none ", "0"])
def test_an_unknown_effort_has_no_tier_even_where_a_default_exists(effort: str) -> None:
    assert resolve_tier(effort, TierAlias("m", "high"), "medium") is None


@pytest.mark.parametrize("default", TIERS)
def test_without_an_effort_the_default_tier_serves(default: Tier) -> None:
    assert resolve_tier(None, PLAIN, default) == default


def test_a_model_name_with_a_tier_wins_over_the_default_and_an_effort_over_both() -> None:
    alias = TierAlias("gpt-oss-120b", "high")
    assert resolve_tier(None, alias, "low") == "high"
    assert resolve_tier("minimal", alias, "medium") == "low"


def test_a_model_is_served_under_its_name_its_aliases_and_each_with_a_tier_ending() -> None:
    names = served_names({"openai/gpt-oss-120b": ("gpt-oss", "o4-mini")})
    assert len(names) == 3 * (1 + len(TIERS))
    for name in ("openai/gpt-oss-120b", "gpt-oss", "o4-mini"):
        assert names[name] == TierAlias("openai/gpt-oss-120b")
        for tier in TIERS:
            assert names[f"{name}-{tier}"] == TierAlias("openai/gpt-oss-120b", tier)
    assert "gpt-oss-max" not in names


def test_a_configured_name_wins_over_a_tier_ending_of_another_model() -> None:
    names = served_names({"tiny": (), "tiny-high": ()})
    assert names["tiny-high"] == TierAlias("tiny-high")
    assert names["tiny-high-low"] == TierAlias("tiny-high", "low")
    assert names["tiny-low"] == TierAlias("tiny", "low")
