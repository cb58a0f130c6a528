"""What requests ask for follows the mix, the lengths and the shares that were written down."""

import math
from random import Random
from statistics import fmean, median, pstdev
from typing import Any

import pytest

from autoscaling.simulator.work import Arrival
from autoscaling.simulator.workloads.requests import CONTEXT_TOKENS, RequestDraw
from autoscaling.simulator.workloads.settings import Mix, Patience, Prompts, Tenant


def drawn(count: int, at_s: float = 0.0, workload: int = 0, **settings: Any) -> list[Arrival]:
    draw = RequestDraw(
        Mix.model_validate(settings.get("mix", {})),
        Prompts.model_validate(settings.get("prompts", {})),
        [Tenant.model_validate(each) for each in settings.get("tenants", [])],
        Patience.model_validate(settings.get("patience", {})),
        workload,
    )
    rng = Random(3)
    return [draw(rng, at_s) for _ in range(count)]


def shares(found: list[Arrival]) -> list[float]:
    return [
        sum(each.tier == tier for each in found) / len(found) for tier in ("low", "medium", "high")
    ]


def test_tiers_come_by_weight_and_lengths_with_their_mean_and_spread() -> None:
    found = drawn(40_000)
    assert shares(found) == pytest.approx([0.5, 0.35, 0.15], abs=0.01)
    for tier, mean in (("low", 400), ("medium", 1500), ("high", 6000)):
        lengths = [each.output_tokens for each in found if each.tier == tier]
        assert fmean(lengths) == pytest.approx(mean, rel=0.06)
        assert median(lengths) == pytest.approx(mean * math.exp(-0.5), rel=0.05)
        assert pstdev([math.log(length) for length in lengths]) == pytest.approx(1.0, abs=0.03)
    assert fmean(each.prompt_tokens for each in found) == pytest.approx(1200, rel=0.05)
    answers = sum(each.answer_tokens for each in found) / sum(each.output_tokens for each in found)
    assert answers == pytest.approx(0.28, abs=0.005)


def test_a_shift_moves_the_mix_at_its_time_and_linearly_over_its_length() -> None:
    mix = {"shifts": [{"at_s": 100, "over_s": 60, "high": 1}, {"at_s": 300, "low": 1, "medium": 1}]}
    assert shares(drawn(4000, 99.0, mix=mix)) == pytest.approx([0.5, 0.35, 0.15], abs=0.03)
    assert shares(drawn(4000, 130.0, mix=mix)) == pytest.approx([0.25, 0.175, 0.575], abs=0.03)
    assert shares(drawn(100, 160.0, mix=mix)) == [0, 0, 1]
    assert shares(drawn(4000, 300.0, mix=mix)) == pytest.approx([0.5, 0.5, 0], abs=0.03)


def test_a_tier_given_in_part_keeps_its_own_defaults() -> None:
    mix = Mix.model_validate({"high": {"weight": 0.9}})
    assert (mix.high.output_tokens_mean, mix.low.weight) == (6000, 0.5)


def test_prompt_and_output_fit_the_context_and_nothing_is_empty() -> None:
    mix = {"low": {"weight": 0}, "medium": {"weight": 0}, "high": {"output_tokens_mean": 90_000}}
    found = drawn(2000, mix=mix, prompts={"tokens_mean": 90_000, "tokens_max": 120_000})
    assert all(each.prompt_tokens + each.output_tokens <= CONTEXT_TOKENS for each in found)
    tiny = drawn(2000, mix={"low": {"output_tokens_mean": 0.1}}, prompts={"tokens_mean": 0.1})
    assert min(each.prompt_tokens for each in tiny) == 1
    assert min(each.output_tokens for each in tiny) == 1
    assert all(1 <= each.answer_tokens <= each.output_tokens for each in found + tiny)


def test_tenants_come_by_share_and_have_system_prompts_of_their_own() -> None:
    tenants = [{"name": "a", "share": 3}, {"name": "b", "share": 1}]
    prompts = {"system_prompts": 2, "system_tokens": 500}
    found = drawn(8000, tenants=tenants, prompts=prompts)
    assert sum(each.tenant == "a" for each in found) / 8000 == pytest.approx(0.75, abs=0.02)
    texts = {name: {e.shared for e in found if e.tenant == name} for name in ("a", "b")}
    assert len(texts["a"]) == len(texts["b"]) == 2
    assert not texts["a"] & texts["b"]
    assert all(each.shared_tokens == 500 < each.prompt_tokens for each in found)
    other = drawn(100, workload=1, tenants=tenants, prompts=prompts)
    assert not {each.shared for each in other} & (texts["a"] | texts["b"])


def test_some_clients_are_impatient_and_the_others_wait_for_ever() -> None:
    found = drawn(20_000, patience={"share": 0.25, "mean_s": 10, "sigma": 0.5})
    finite = [each.patience_s for each in found if math.isfinite(each.patience_s)]
    assert len(finite) / len(found) == pytest.approx(0.25, abs=0.015)
    assert fmean(finite) == pytest.approx(10, rel=0.05)
