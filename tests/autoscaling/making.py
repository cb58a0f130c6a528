"""Arrivals, outcomes and scenarios for tests, with what a test does not care about filled in."""

from typing import Any

from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.work import Arrival, Outcome


def scenario(workload: dict[str, Any], **rest: Any) -> Scenario:
    settings = {"duration_s": 100.0, "warmup_s": 0.0, "workload": workload, **rest}
    return Scenario.model_validate(settings)


def served(
    at_s: float = 0.0,
    *,
    ttft_s: float = 0.5,
    tpot_s: float = 0.010,
    tokens: int = 101,
    cached_tokens: int = 0,
    preemptions: int = 0,
    **arrival: Any,
) -> Outcome:
    """A request that finished, its answer beginning halfway."""
    asked = Arrival(
        at_s, **{"tier": "low", "prompt_tokens": 100, "output_tokens": tokens} | arrival
    )
    first_s = at_s + ttft_s
    return Outcome(
        asked,
        number=0,
        gateway=0,
        status="finished",
        served_tier=asked.tier,
        placed_s=at_s,
        first_token_s=first_s,
        first_answer_s=first_s + tpot_s * (tokens // 2),
        ended_s=first_s + tpot_s * (tokens - 1),
        tokens=tokens,
        cached_tokens=cached_tokens,
        preemptions=preemptions,
        replica="r0",
    )


def lost(at_s: float, status: Any, *, tokens: int = 0, **arrival: Any) -> Outcome:
    """A request that did not finish: nothing reached its client, or `tokens` did."""
    asked = Arrival(at_s, **{"tier": "low", "prompt_tokens": 100, "output_tokens": 100} | arrival)
    return Outcome(asked, number=0, gateway=0, status=status, ended_s=at_s + 1.0, tokens=tokens)
