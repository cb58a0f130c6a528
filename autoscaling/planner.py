"""How many replicas of which GPUs a load needs, before there is a cluster.

Sizes come from the capacity model that the router and the autoscaler use, for every kind of replica
whose step times were measured. Batches beyond the measured ones are extrapolated, and a plan says
so: MLPerf's runs on eight H200s show that real replicas fall far short there (`docs/autoscaling.md`
has the figures), so plans keep to the measured ones unless told otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autoscaling.sizing import ReplicaKind, Sizing
from cluster.config import Tier
from cluster.facts import (
    GPT_OSS_120B,
    gpu_bytes_of,
    kv_bytes_per_token,
    kv_pool_bytes,
    weights_fit,
)
from cluster.steptime import MEASURED_GPUS, MEASURED_SEQS, measured, step_model
from deployments.router.capacity import Demand, Slo, step_at

GPU_MEMORY_UTILIZATION = 0.9
STEPS_TO_FIRST_TOKEN = 1.5
"""A request waits for the step under way (half of one), and its first token comes a step after its
prompt is computed, as vLLM schedules asynchronously."""

MAX_RATE_PER_S = 1e6


class UnknownGpu(ValueError):
    """Step times of this GPU were not measured; ``str()`` names those that were."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be served at the busiest time."""

    demands: Mapping[Tier, Demand]

    @property
    def per_s(self) -> float:
        return sum(demand.per_s for demand in self.demands.values())

    def scaled(self, factor: float) -> "Load":
        """The same mix, ``factor`` times as often."""
        return Load(
            {
                tier: replace(demand, per_s=demand.per_s * factor)
                for tier, demand in self.demands.items()
            }
        )


@dataclass(frozen=True, slots=True)
class Latency:
    """What a tier's requests are expected to see: means, in seconds."""

    ttft_s: float
    tpot_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class Point:
    """The fleet at one load: the share of its capacity in use, and the tiers' latencies."""

    per_s: float
    use: float
    latency: Mapping[Tier, Latency]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to serve the load. ``knee_per_s`` is the rate at which it stops holding.

    ``extrapolated``: some tier runs batches larger than any that was measured.
    """

    gpu: str
    tp: int
    replicas: int
    needed: float
    knee_per_s: float
    gpu_hours_a_day: float
    cost_a_day: float
    at: Point
    curve: tuple[Point, ...]
    extrapolated: bool

    @property
    def gpus(self) -> int:
        return self.replicas * self.tp


def gpu_named(name: str) -> str:
    """The measured GPU that ``name`` means, whatever its case. Raises ``UnknownGpu``."""
    found = next((gpu for gpu in MEASURED_GPUS if gpu.lower() == name.strip().lower()), None)
    if found is None:
        raise UnknownGpu(
            f"gpt-oss-120b's step times on '{name[:40]}' were not measured; "
            f"known are {', '.join(MEASURED_GPUS)}"
        )
    return found


def kinds_of(gpu: str, max_num_seqs: int, max_num_batched_tokens: int = 8192) -> list[ReplicaKind]:
    """Every measured replica on ``gpu`` that holds the model, by tensor parallel size."""
    return [
        ReplicaKind(steps, max_num_seqs, kv_tokens_on(gpu, tp, max_num_batched_tokens), tp)
        for known, tp in measured()
        if known == gpu
        and (steps := step_model(gpu, tp)) is not None
        and weights_fit(
            GPT_OSS_120B,
            gpu_bytes_of(gpu) or 0,
            tp,
            gpu_memory_utilization=GPU_MEMORY_UTILIZATION,
            max_num_batched_tokens=max_num_batched_tokens,
        )
    ]


def kv_tokens_on(gpu: str, tp: int, max_num_batched_tokens: int = 8192) -> int:
    """KV cache of one replica of gpt-oss-120b, in tokens."""
    free_bytes = kv_pool_bytes(
        GPT_OSS_120B,
        gpu_bytes_of(gpu) or 0,
        tp,
        GPU_MEMORY_UTILIZATION,
        max_num_batched_tokens,
    )
    return max(0, free_bytes // kv_bytes_per_token(GPT_OSS_120B, tp=tp))


def options(
    load: Load,
    slos: Mapping[Tier, Slo],
    gpus: Sequence[str],
    *,
    max_num_seqs: int = MEASURED_SEQS,
    gpu_cost_per_h: Mapping[str, float] | None = None,
) -> list[Option]:
    """Every way to serve ``load``, the cheapest first. Raises ``UnknownGpu``."""
    costs = gpu_cost_per_h or {}
    found = []
    for name in gpus:
        gpu = gpu_named(name)
        for kind in kinds_of(gpu, max_num_seqs):
            option = _option(gpu, kind, load, slos, costs.get(gpu, 1.0))
            if option is not None:
                found.append(option)
    return sorted(found, key=lambda option: (option.cost_a_day, option.gpus))


def _option(
    gpu: str, kind: ReplicaKind, load: Load, slos: Mapping[Tier, Slo], cost_per_h: float
) -> Option | None:
    """None where not even one request keeps its pace on such a replica."""
    sizing = Sizing(kind, slos)
    if not _holds_alone(sizing, load, slos):
        return None
    needed = sizing.staffed(load.demands)
    replicas = max(1, math.ceil(needed - 1e-9))
    knee = knee_per_s(sizing, load, replicas)
    hours = 24.0 * replicas * kind.gpus
    at = point(sizing, load, replicas)
    shares = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1)
    curve = tuple(
        point(sizing, load.scaled(share * knee / load.per_s), replicas) for share in shares
    )
    largest = max(
        sizing.of(tier, demand.prompt_tokens, demand.output_tokens).batch
        for tier, demand in load.demands.items()
    )
    return Option(
        gpu,
        kind.gpus,
        replicas,
        needed,
        knee,
        hours,
        hours * cost_per_h,
        at,
        curve,
        largest * min(1.0, at.use) > MEASURED_SEQS,
    )


def _holds_alone(sizing: Sizing, load: Load, slos: Mapping[Tier, Slo]) -> bool:
    return all(
        step_at(sizing.kind.steps, 1, demand) <= slos[tier].tpot_s
        and first_token_s(sizing.kind, demand, 1) <= slos[tier].ttft_s
        for tier, demand in load.demands.items()
    )


def knee_per_s(sizing: Sizing, load: Load, replicas: int) -> float:
    """The largest rate of this mix that the replicas hold, requests per second."""
    low, high = 0.0, load.per_s
    while sizing.staffed(load.scaled(high / load.per_s).demands) <= replicas:
        low, high = high, 2.0 * high
        if high > MAX_RATE_PER_S:
            return low
    for _ in range(40):
        middle = 0.5 * (low + high)
        if sizing.staffed(load.scaled(middle / load.per_s).demands) <= replicas:
            low = middle
        else:
            high = middle
    return low


def point(sizing: Sizing, load: Load, replicas: int) -> Point:
    """The fleet under ``load``, each tier on its share of the replicas.

    Beyond the capacity queues grow without end: times are infinite then.
    """
    use = sizing.fluid(load.demands) / replicas
    latency = {}
    for tier, demand in load.demands.items():
        if demand.per_s <= 0.0:
            continue
        if use > 1.0:
            latency[tier] = Latency(math.inf, math.inf, math.inf)
            continue
        batch = batch_at(sizing, tier, demand, use)
        ttft_s = first_token_s(sizing.kind, demand, batch)
        tpot_s = step_at(sizing.kind.steps, batch, demand)
        latency[tier] = Latency(ttft_s, tpot_s, ttft_s + tpot_s * demand.output_tokens)
    return Point(load.per_s, use, latency)


def batch_at(sizing: Sizing, tier: Tier, demand: Demand, use: float) -> int:
    """Requests that run on a replica at ``use`` of its capacity.

    Fewer run than in proportion, as a smaller batch is also quicker: the one whose own rate
    (batch over length and step) is ``use`` of the capacity.
    """
    each = sizing.of(tier, demand.prompt_tokens, demand.output_tokens)
    wanted = use * each.per_s
    low, high = 1, each.batch
    while low < high:
        middle = (low + high) // 2
        rate = middle / (demand.output_tokens * step_at(sizing.kind.steps, middle, demand))
        if rate >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


def first_token_s(kind: ReplicaKind, demand: Demand, batch: int) -> float:
    """Mean time to first token of a request that finds a seat at once."""
    steps = kind.steps
    prompt = demand.prompt_tokens
    pairs = 0.5 * prompt * prompt
    # The prompt's own steps hold the decoding requests of the batch as well.
    chunks = steps.step_s(batch, batch * prompt, 1, 0.0) - steps.prefill_token_s
    own = steps.prefill_token_s * prompt + steps.prefill_pair_s * pairs
    waiting = STEPS_TO_FIRST_TOKEN * step_at(steps, batch, demand)
    return steps.request_overhead_s(round(prompt)) + waiting + chunks + own
