"""What the fleet could serve at best if every replica had one tier only and load never varied."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoscaling.simulator.scenario import Pool, Scenario
from benchmarks.routing_cases.scenarios import OUTPUTS, PROMPT_TOKENS, SIGMA, WEIGHTS
from cluster.config import TIERS, Tier
from cluster.steptime import StepModel
from deployments.router.capacity import Demand, capacity


@dataclass(frozen=True, slots=True)
class Bound:
    """Requests a second: with whole replicas for each tier (``parts``), and with fractions."""

    whole_per_s: float
    fractional_per_s: float
    parts: tuple[int, ...]


def router_bound(scenario: Scenario) -> Bound:
    """The best partition of the mixed scenario's fleet by `deployments/router/capacity.py`."""
    pool, steps = _replica(scenario)
    each = {}
    for tier in TIERS:
        demand = Demand(1.0, PROMPT_TOKENS, OUTPUTS[tier])
        tpot_s, kv_tokens = scenario.slo(tier).tpot_s, pool.kv_tokens_of_a_replica()
        each[tier] = capacity(steps, demand, tpot_s, pool.max_num_seqs, kv_tokens).per_s
    return best_partition(each, WEIGHTS, pool.replicas)


def true_bound(scenario: Scenario) -> Bound:
    """The same from the step model alone, with contexts as long as they are.

    Of the requests that run at a moment, long ones are more, and each has on average written half
    of its own: with log-normal lengths that is e^σ² / 2 times the mean output, not half of it.
    """
    pool, steps = _replica(scenario)
    each = {}
    for tier in TIERS:
        context = PROMPT_TOKENS + OUTPUTS[tier] * math.exp(SIGMA**2) / 2.0
        most = min(pool.max_num_seqs, int(pool.kv_tokens_of_a_replica() / context))
        within = [
            batch
            for batch in range(1, most + 1)
            if _step_s(steps, batch, context, OUTPUTS[tier]) <= scenario.slo(tier).tpot_s
        ]
        batch = max(within, default=1)
        each[tier] = batch / (OUTPUTS[tier] * _step_s(steps, batch, context, OUTPUTS[tier]))
    return best_partition(each, WEIGHTS, pool.replicas)


def _replica(scenario: Scenario) -> tuple[Pool, StepModel]:
    pool = scenario.fleet.pools[0]
    return pool, pool.steps()


def _step_s(steps: StepModel, batch: int, context: float, output_tokens: float) -> float:
    """Mean step of a steady batch: for each that ends, a prompt comes in."""
    prompts = batch / output_tokens
    mixed_s = steps.mixed_s * min(1.0, prompts)
    prefill_s = steps.prefill_token_s * PROMPT_TOKENS * prompts
    return steps.step_s(batch, batch * context) + mixed_s + prefill_s


def best_partition(
    each_per_s: Mapping[Tier, float], shares: Mapping[Tier, float], replicas: int
) -> Bound:
    """``each_per_s``: what one replica serves of a tier alone; ``shares`` of the requests."""
    fractional = replicas / sum(shares[tier] / each_per_s[tier] for tier in each_per_s)
    best = max(
        _partitions(replicas, len(each_per_s)),
        key=lambda parts: _served(parts, each_per_s, shares),
    )
    return Bound(_served(best, each_per_s, shares), fractional, best)


def _served(
    parts: tuple[int, ...], each_per_s: Mapping[Tier, float], shares: Mapping[Tier, float]
) -> float:
    return min(
        part * each_per_s[tier] / shares[tier] for part, tier in zip(parts, each_per_s, strict=True)
    )


def _partitions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _partitions(total - first, parts - 1):
            yield first, *rest
