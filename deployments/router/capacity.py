"""How many requests a second a replica can serve within its latency objectives (fluid model).

With B requests running, each writing L tokens, B/L requests end per step, and as many prompts come
in. A step therefore takes base(B) + p·P·B/L: the decode step of the step model, and the prefill of
the prompts that come per step. The largest B whose step is within the TPOT objective gives the
rate B / (L · step).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.config import TIERS, Tier
from cluster.steptime import StepModel

LENGTH_BIAS = 0.5
"""Tokens that a running request has written on average, over the mean length. Long requests are met
more often while they run (E[L²] / 2E[L], so 1.36 for log-normal lengths with σ = 1), but planning
with that moved borders back and forth and lost 3 % of the capacity in the simulator."""

STAFFING_Z = 1.5
"""Deviations of head room: a burst beyond it is rarer than one in 15, and queues only then."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Latency objectives of a tier: time to first token and mean time per output token."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Demand:
    """Arrivals of one kind: requests per second, mean uncached prompt and output tokens."""

    per_s: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a replica can do: requests per second at ``batch`` running ones."""

    per_s: float
    batch: int


def step_at(steps: StepModel, batch: int, demand: Demand) -> float:
    """Seconds of a step in steady state, prefill included."""
    context = demand.prompt_tokens + LENGTH_BIAS * demand.output_tokens
    decode = steps.step_s(batch, batch * context)
    prompts = batch / demand.output_tokens
    mixing = steps.mixed_s * min(1.0, prompts)
    return decode + mixing + steps.prefill_token_s * demand.prompt_tokens * prompts


def capacity(
    steps: StepModel, demand: Demand, tpot_s: float, max_num_seqs: int, kv_tokens: int
) -> Capacity:
    """The largest steady load of ``demand``'s kind within ``tpot_s``; of one request at least."""
    context = demand.prompt_tokens + LENGTH_BIAS * demand.output_tokens
    most = max(1, min(max_num_seqs, int(kv_tokens / context)))
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if step_at(steps, middle, demand) <= tpot_s:
            low = middle
        else:
            high = middle - 1
    return Capacity(low / (demand.output_tokens * step_at(steps, low, demand)), low)


def staffed(demand: Demand, each: Capacity) -> float:
    """Replicas that ``demand`` needs, fluctuations included.

    N requests running on average vary by about √N, so N + z·√N seats are wanted (square-root
    staffing, Halfin and Whitt, Operations Research 29, 1981). A tier with small batches needs
    relatively more.
    """
    fluid = demand.per_s / each.per_s
    return fluid + STAFFING_Z * math.sqrt(fluid / each.batch)


def mixed(demands: Sequence[Demand]) -> Demand:
    """All demands together, as one kind of request."""
    per_s = sum(demand.per_s for demand in demands)
    return Demand(
        per_s,
        sum(demand.per_s * demand.prompt_tokens for demand in demands) / per_s,
        sum(demand.per_s * demand.output_tokens for demand in demands) / per_s,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Replicas of each tier's own (none: every replica serves every tier), and what is used.

    ``needs`` are the replicas that each tier would fill alone, ``busiest`` the share of its
    capacity that the busiest zone uses under this plan, ``together`` the same if every replica
    served every tier.
    """

    zones: Mapping[Tier, int]
    needs: Mapping[Tier, float]
    busiest: float
    together: float


def plan(
    demands: Mapping[Tier, Demand],
    slos: Mapping[Tier, Slo],
    steps: StepModel,
    max_num_seqs: int,
    kv_tokens: int,
    replicas: int,
) -> Plan:
    """The whole replicas for each tier that leave the busiest tier the least busy.

    Greedy, one replica at a time to the busiest tier; that is optimal for a minimum of the largest
    share.
    """
    wanted = [tier for tier in TIERS if tier in demands and demands[tier].per_s > 0.0]
    strictest = min(slos[tier].tpot_s for tier in wanted)
    all_in_one = mixed([demands[tier] for tier in wanted])
    whole = capacity(steps, all_in_one, strictest, max_num_seqs, kv_tokens)
    together = staffed(all_in_one, whole) / replicas
    if len(wanted) < 2 or replicas < len(wanted):
        return Plan({}, {}, together, together)
    needs = {
        tier: staffed(
            demands[tier],
            capacity(steps, demands[tier], slos[tier].tpot_s, max_num_seqs, kv_tokens),
        )
        for tier in wanted
    }
    zones = dict.fromkeys(wanted, 1)
    for _ in range(replicas - len(wanted)):
        zones[max(wanted, key=lambda tier: needs[tier] / zones[tier])] += 1
    return Plan(zones, needs, max(needs[tier] / zones[tier] for tier in wanted), together)
