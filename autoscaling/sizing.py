"""How much of a replica each tier's requests take: the router's capacity model, as the policy, the
planner and the simulator of autoscaling all use it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config import TIERS, Tier
from cluster.steptime import StepModel
from deployments.router.capacity import Capacity, Demand, Slo, capacity, mixed, staffed

LENGTH_STEP = 0.02
"""Mean lengths are rounded to 2 % before capacities are looked up: they change that slowly."""

MAX_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class ReplicaKind:
    """One replica of a pool: its step times, limits and KV cache, and the GPUs it takes."""

    steps: StepModel
    max_num_seqs: int
    kv_tokens: int
    gpus: int = 1


class Sizing:
    """Capacities of one kind of replica within ``slos``; looked up again where they are known."""

    def __init__(self, kind: ReplicaKind, slos: Mapping[Tier, Slo]) -> None:
        self.kind = kind
        self.slos = slos
        self._known: dict[tuple[Tier, int, int, int], Capacity] = {}

    def of(
        self, tier: Tier, prompt_tokens: float, output_tokens: float, pace: float = 1.0
    ) -> Capacity:
        """What one replica serves of such requests alone; ``pace``: how much slower it is."""
        key = (tier, _rounded(prompt_tokens), _rounded(output_tokens), _rounded(pace))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = self._known[key] = self._work_out(*key)
        return found

    def _work_out(self, tier: Tier, prompt: int, output: int, pace: int) -> Capacity:
        slower = _value(pace)
        demand = Demand(1.0, _value(prompt), max(1.0, _value(output)))
        kind = self.kind
        at = capacity(
            kind.steps, demand, self.slos[tier].tpot_s / slower, kind.max_num_seqs, kind.kv_tokens
        )
        return Capacity(at.per_s / slower, at.batch)

    def fluid(self, demands: Mapping[Tier, Demand], pace: float = 1.0) -> float:
        """Replicas that the demands fill on average, each tier on replicas of its own."""
        return sum(
            demand.per_s / self.of(tier, demand.prompt_tokens, demand.output_tokens, pace).per_s
            for tier, demand in demands.items()
            if demand.per_s > 0.0
        )

    def staffed(self, demands: Mapping[Tier, Demand], pace: float = 1.0) -> float:
        """Replicas that the demands need, chance fluctuations included: with the tiers on replicas
        of their own or all on all, whichever needs fewer (the router's zones do the same)."""
        wanted = {tier: demand for tier, demand in demands.items() if demand.per_s > 0.0}
        if not wanted:
            return 0.0
        apart = sum(
            staffed(demand, self.of(tier, demand.prompt_tokens, demand.output_tokens, pace))
            for tier, demand in wanted.items()
        )
        strictest = min(wanted, key=lambda tier: self.slos[tier].tpot_s)
        all_in_one = mixed(list(wanted.values()))
        each = self.of(strictest, all_in_one.prompt_tokens, all_in_one.output_tokens, pace)
        return min(apart, staffed(all_in_one, each))


def seconds_in_service(each: Capacity) -> float:
    """How long a request runs on a replica that is at its capacity (Little's law)."""
    return each.batch / each.per_s


def demands_at(
    per_s: float, mix: Mapping[Tier, float], prompt_tokens: float, output: Mapping[Tier, float]
) -> dict[Tier, Demand]:
    """``per_s`` requests split by the weights of ``mix``."""
    whole = sum(mix.values())
    return {
        tier: Demand(per_s * mix[tier] / whole, prompt_tokens, output[tier])
        for tier in TIERS
        if mix.get(tier, 0.0) > 0.0
    }


def _rounded(value: float) -> int:
    return round(math.log(max(value, 1e-6)) / LENGTH_STEP)


def _value(rounded: int) -> float:
    return math.exp(rounded * LENGTH_STEP)
