"""G4: more is offered than can be served, for long and in a burst."""

import asyncio
import math
from typing import Any

from autoscaling.simulator.compare import interval, ratio
from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.summary import keeps
from benchmarks.routing_cases.context import Context, goodput
from benchmarks.routing_cases.measured import what_bounds, what_wastes
from benchmarks.routing_cases.rows import Row, Target
from benchmarks.routing_cases.scenarios import (
    FILL_FACTOR,
    FILL_S,
    OURS,
    WEIGHTS,
    mixed_tiers,
    open_loop,
    scenario,
)
from benchmarks.routing_cases.search import ENOUGH
from cluster.config import TIERS

NEAR = (1.0, 1.25, 1.5)
"""Parts of the capacity at which the peak of the goodput is looked for, besides the overloads."""

OVERLOADS = ((3.0, 0.90), (10.0, 0.80))
SHORT: dict[str, Any] = {"duration_s": 300.0, "warmup_s": 120.0, "cooldown_s": 20.0}

TOP, TOP_PART = "top", 0.1

BEFORE, BURST = 0.8, 3.0
BURST_AT_S, BURST_S, AFTER_S = 300.0, 60.0, 120.0
NORMAL_WITHIN_S = 10.0
"""It is normal again from the first second in which the next ten keep the objectives."""


async def overload(context: Context) -> list[Row]:
    """Goodput and waste at multiples of the capacity, and how soon a burst is over."""
    capacity = await context.capacity_per_s()
    factors = (*NEAR, *(factor for factor, _ in OVERLOADS))
    every = await asyncio.gather(
        *(context.by_seed(mixed_tiers(**SHORT).at_rate(each * capacity)) for each in factors),
    )
    by_factor = dict(zip(factors, every, strict=True))
    mean = {factor: interval(list(goodput(runs).values())) for factor, runs in by_factor.items()}
    top = max(mean, key=lambda factor: mean[factor].mean)
    rows = [
        Row("G4", f"goodput at {factor:g}× capacity", mean[factor], unit="req/s",
            note=what_bounds(by_factor[factor].values()))
        for factor in factors
    ]  # fmt: skip
    for factor, least in OVERLOADS:
        part = ratio(goodput(by_factor[factor]), goodput(by_factor[top]))
        what = f"goodput at {factor:g}× capacity, part of the peak"
        rows.append(Row("G4", what, part, Target(least), "%", f"peak: at {top:g}×"))
    for factor, _ in OVERLOADS:
        wasted = interval([run.wasted_share for run in by_factor[factor].values()])
        what = f"tokens wasted at {factor:g}× capacity"
        note = what_wastes(by_factor[factor].values())
        rows.append(Row("G4", what, wasted, Target(0.03, at_most=True), "%", note))
    return [*rows, await _recovery(context, capacity), await _top_priority(context, capacity)]


async def _recovery(context: Context, capacity: float) -> Row:
    found = await asyncio.gather(
        *(context.runs.get(burst(capacity), OURS, seed, normal_after_s) for seed in context.seeds)
    )
    what = f"normal again after {BURST_S:g} s at {BURST:g}× capacity"
    note = f"{BEFORE:.0%} before and after; every tier ≥ {ENOUGH:.0%} over {NORMAL_WITHIN_S:g} s"
    return Row("G4", what, interval(found), Target(10.0, at_most=True), "s", note)


async def _top_priority(context: Context, capacity: float) -> Row:
    """A tenant that asks for a tenth of the capacity, among others that ask for nearly thrice."""
    crowded = mixed_tiers(
        tenants=[{"name": TOP, "share": TOP_PART}, {"name": "others", "share": 3.0 - TOP_PART}],
        priority_tenants=[TOP],
        **SHORT,
    ).at_rate(3.0 * capacity)
    found = await asyncio.gather(
        *(context.runs.get(crowded, OURS, seed, attained_by_top) for seed in context.seeds)
    )
    what = "SLO of the top-priority tenant at 3× capacity"
    note = f"it goes ahead of all others and asks for {TOP_PART:.0%} of the capacity"
    return Row("G4", what, interval(found), Target(0.99), "%", note)


def attained_by_top(result: RunResult, scenario: Scenario) -> float:
    """The share of the top tenant's requests that kept their objectives."""
    start_s, end_s = scenario.measured_s
    own = [
        keeps(each, scenario.slo(each.arrival.tier))
        for each in result.outcomes
        if each.arrival.tenant == TOP and start_s <= each.arrival.at_s < end_s
    ]
    return sum(own) / len(own)


def burst(capacity_per_s: float) -> Scenario:
    """A minute of three times the capacity in calmer traffic; measured from the burst's end on."""
    end_s = BURST_AT_S + BURST_S
    steps = ((0.0, BEFORE), (BURST_AT_S, BEFORE), (BURST_AT_S, BURST), (end_s, BURST),
             (end_s, BEFORE))  # fmt: skip
    shape = [{"at_s": at_s, "factor": factor} for at_s, factor in steps]
    fill = [{"at_s": 0.0, "factor": BEFORE}, {"at_s": FILL_S, "factor": BEFORE},
            {"at_s": FILL_S, "factor": 0.0}]  # fmt: skip
    asked = [
        open_loop(WEIGHTS, shape=shape),
        open_loop({"high": 1.0}, rate_per_s=FILL_FACTOR * WEIGHTS["high"], shape=fill),
    ]
    calm = scenario(
        {"open_loop": asked},
        duration_s=end_s + AFTER_S + NORMAL_WITHIN_S,
        warmup_s=end_s,
        cooldown_s=0.0,
    )
    return calm.at_rate(capacity_per_s)


def normal_after_s(result: RunResult, scenario: Scenario) -> float:
    """Seconds from the end of the burst until the requests of the next ten seconds do well.

    To the second; infinite if that never comes."""
    start_s, end_s = scenario.measured_s
    counted = [each for each in result.outcomes if each.arrival.at_s >= start_s]
    seconds = int(end_s - start_s)
    came = {tier: [0] * seconds for tier in TIERS}
    kept = {tier: [0] * seconds for tier in TIERS}
    for outcome in counted:
        tier, second = outcome.arrival.tier, int(outcome.arrival.at_s - start_s)
        if second < seconds:
            came[tier][second] += 1
            kept[tier][second] += keeps(outcome, scenario.slo(tier))
    width = int(NORMAL_WITHIN_S)
    for second in range(seconds - width + 1):
        within = slice(second, second + width)
        if all(sum(kept[tier][within]) >= ENOUGH * sum(came[tier][within]) for tier in TIERS):
            return float(second)
    return math.inf
