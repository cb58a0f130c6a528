"""The tick model against the event simulator: the same requests, the same policy, both ways."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoscaling.policy import PolicySettings
from autoscaling.simulator.scaling import days
from autoscaling.simulator.scaling.days import HOUR_S, TICK_S, Arrivals, Shape
from autoscaling.simulator.scaling.runs import (
    GPU,
    LENGTHS,
    MAX_NUM_SEQS,
    SLOS,
    TP,
    Case,
    kind_of,
    ours,
    play,
)
from autoscaling.simulator.scaling.world import Resizing, run_autoscaled
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.summary import summarise
from autoscaling.simulator.work import Outcome
from autoscaling.simulator.workloads import Traffic
from cluster.config import TIERS, Tier


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares of requests whose first token came in time, GPU-hours and mean sizes, by both. (The
    pace objective is the router's business: the tick model takes it as kept.)"""

    requests: int
    events_attained: float
    ticks_attained: float
    events_gpu_hours: float
    ticks_gpu_hours: float
    events_mean_size: float
    ticks_mean_size: float
    events_by_tier: dict[Tier, float]


def scenario_of(
    shape: Shape, seed: int, first_s: float, hours: float, cold_start_s: float, replicas: int
) -> Scenario:
    """Hours of the days, as a scenario of single requests: a stream of bursts for each tier."""
    rates = days.rates(shape, np.random.default_rng(seed))
    first, last = round(first_s / TICK_S), round((first_s + hours * HOUR_S) / TICK_S)
    part = rates[first:last]
    every = round(60.0 / TICK_S)
    points = [
        {"at_s": index * TICK_S, "factor": float(part[index : index + every].mean())}
        for index in range(0, len(part), every)
    ]
    whole = sum(shape.mix)
    loops = [
        {
            "arrivals": {"rate_per_s": weight / whole, "cv": shape.gap_cv, "shape": points},
            "mix": {
                each: {
                    "weight": float(each == tier),
                    "output_tokens_mean": LENGTHS[each].output_tokens,
                    "output_sigma": LENGTHS[each].sigma,
                }
                for each in TIERS
            },
            "prompts": {"tokens_mean": LENGTHS[tier].prompt_tokens},
        }
        for tier, weight in zip(TIERS, shape.mix, strict=True)
    ]
    pool = {
        "replicas": replicas,
        "gpu": GPU,
        "tensor_parallel_size": TP,
        "max_num_seqs": MAX_NUM_SEQS,
    }
    tiers = {
        tier: {"slo": {"ttft_s": SLOS[tier].ttft_s, "tpot_ms": 1000.0 * SLOS[tier].tpot_s}}
        for tier in TIERS
    }
    return Scenario.model_validate(
        {
            "name": "agreement",
            "duration_s": hours * HOUR_S,
            "warmup_s": 600.0,
            "fleet": {"pools": [pool], "cold_start_s": cold_start_s},
            "tiers": tiers,
            "workload": {"open_loop": loops},
        }
    )


def counted(scenario: Scenario, seed: int) -> Arrivals:
    """The scenario's requests, as the event simulator will meet them, by tick and tier."""
    ticks = round(scenario.duration_s / TICK_S)
    counts = {tier: [0] * ticks for tier in TIERS}
    for arrival in Traffic(scenario.workload, seed, scenario.duration_s).first():
        counts[arrival.tier][min(ticks - 1, int(arrival.at_s / TICK_S))] += 1
    every = np.sum([np.array(each) for each in counts.values()], axis=0)
    return Arrivals(TICK_S, every / TICK_S, counts)


def compare(
    scenario: Scenario, seed: int, settings: PolicySettings, clock_s: float = 0.0
) -> Agreement:
    """Both on the same requests, from the same size."""
    result, world = run_autoscaled(scenario, seed, Resizing(settings, clock_s=clock_s))
    summary = summarise(result, scenario)
    met = [each for each in result.outcomes if each.arrival.at_s >= scenario.warmup_s]
    cold_start_s = scenario.fleet.cold_start_s
    case = Case(counted(scenario, seed), kind_of(), cold_start_s, seed, scenario.warmup_s)
    score = play(case, ours(case, settings), scenario.fleet.pools[0].replicas)
    # The event simulator adds up all hours; the tick model those after the warm-up.
    whole = play(
        Case(case.arrivals, case.kind, cold_start_s, seed),
        ours(case, settings),
        scenario.fleet.pools[0].replicas,
    )
    gpus = case.kind.gpus
    return Agreement(
        summary.overall.requests,
        in_time(met),
        score.attained,
        summary.gpu_hours,
        whole.gpu_hours,
        float(np.mean([size for _, size in world.sizes])),
        whole.gpu_hours / gpus / (scenario.duration_s / HOUR_S),
        {tier: in_time([each for each in met if each.arrival.tier == tier]) for tier in TIERS},
    )


def in_time(outcomes: Sequence[Outcome]) -> float:
    """The share whose first token came within its tier's objective; NaN for none."""
    if not outcomes:
        return math.nan
    kept = sum(each.ttft_s <= SLOS[each.arrival.tier].ttft_s for each in outcomes)
    return kept / len(outcomes)
