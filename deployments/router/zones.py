"""Soft pools: which replicas are a tier's own, when that serves more requests within their SLOs.

Where the tiers' objectives differ, mixing them makes every replica keep the strictest; with zones a
loose tier can run large batches (measured: 36 against 23 requests a second on eight replicas).
Where they do not differ, or load is light, zones only take choices away (28 % lost). So the zones
are made when they pay, with hysteresis, and they bind softly: a tier goes elsewhere when its own
replicas would miss its objectives and another would not.
"""

from collections.abc import Mapping, Sequence

from cluster.config import TIERS, Tier
from deployments.router.capacity import Demand, Plan, Slo, plan
from deployments.router.fleet import Replica
from deployments.router.rate import RateMeter

REPLAN_S = 1.0

MEMORY_S = 30.0
"""Half-life of the arrival rates: a mix that shifts within a minute is followed, noise is not."""

DIVIDE_ABOVE, UNITE_BELOW = 0.6, 0.45
"""Shares of the common capacity in use above which zones may be made, and below which they end."""

GAIN = 0.92
"""Zones are made when they leave the busiest tier at most so much of the common load share, and
given up when they do not leave it less at all."""

STEADY = 0.95
"""The zones' sizes change when that lowers the busiest share at least to this part."""

LEAST_ARRIVALS = 20.0


class _Arrivals:
    """Fading counts of one tier's requests and tokens."""

    def __init__(self) -> None:
        self.requests = RateMeter(MEMORY_S)
        self.prompts = RateMeter(MEMORY_S)
        self.outputs = RateMeter(MEMORY_S)

    def add(self, prompt_tokens: float, output_tokens: float, now: float) -> None:
        self.requests.add(1.0, now)
        self.prompts.add(prompt_tokens, now)
        self.outputs.add(output_tokens, now)

    def demand(self, now: float) -> Demand | None:
        per_s = self.requests.per_s(now)
        if per_s <= 0.0:
            return None
        prompt = self.prompts.per_s(now) / per_s
        return Demand(per_s, prompt, max(1.0, self.outputs.per_s(now) / per_s))


class Zones:
    """The zones of one model's replicas, worked out again every second."""

    def __init__(self, slos: Mapping[Tier, Slo]) -> None:
        self._slos = slos
        self._arrivals = {tier: _Arrivals() for tier in TIERS}
        self._first_s: float | None = None
        self._planned_s: float | None = None
        self._zones: dict[Tier, int] = {}
        self._home_of: dict[str, int] = {}
        self.plan: Plan | None = None

    def note(self, tier: Tier, prompt_tokens: float, output_tokens: float, now: float) -> None:
        """A request of the tier has come, of so many (expected) tokens."""
        if self._first_s is None:
            self._first_s = now
        self._arrivals[tier].add(prompt_tokens, output_tokens, now)

    def home_of(self, replicas: Sequence[Replica], now: float) -> Mapping[str, int]:
        """The tier (as an index) whose zone a replica belongs to; empty where there are no zones.

        ``replicas`` in a fixed order, so that gateways that share nothing divide them alike.
        """
        if self._planned_s is None or now - self._planned_s >= REPLAN_S:
            self._planned_s = now
            self._replan(replicas, now)
        return self._home_of

    def _replan(self, replicas: Sequence[Replica], now: float) -> None:
        demands = self._demands(replicas, now)
        if demands is None:
            self._zones, self._home_of, self.plan = {}, {}, None
            return
        pace = min(replica.pace for replica in replicas)
        traits = replicas[0].traits
        slos = {tier: Slo(slo.ttft_s / pace, slo.tpot_s / pace) for tier, slo in self._slos.items()}
        found = plan(
            demands, slos, traits.steps, traits.max_num_seqs, traits.kv_tokens, len(replicas)
        )
        self.plan = found
        self._zones = dict(self._choose(found, demands, replicas))
        self._assign(replicas)

    def _demands(self, replicas: Sequence[Replica], now: float) -> dict[Tier, Demand] | None:
        """Demand on all gateways together: our own, scaled by our share of what is running."""
        own = sum(len(replica.flights) for replica in replicas)
        total = sum(replica.in_flight for replica in replicas)
        # A fading sum that has not run for long holds only part of the rate.
        since_s = 0.0 if self._first_s is None else now - self._first_s
        filled = 1.0 - 0.5 ** (since_s / MEMORY_S)
        scale = (total / own if own else 1.0) / max(0.05, filled)
        demands = {}
        for index, (tier, arrivals) in enumerate(self._arrivals.items()):
            demand = arrivals.demand(now)
            if demand is not None and demand.per_s * MEMORY_S >= 1.0:
                per_s, output = demand.per_s * scale, demand.output_tokens
                # Tokens are being written at this rate. Lengths are learned late where they are
                # long, as short replies end first; what runs already shows in here.
                written = sum(
                    (each.own[index] + each.others[index]) / each.next_step_s for each in replicas
                )
                output = max(output, written / per_s)
                demands[tier] = Demand(per_s, demand.prompt_tokens, output)
        seen = sum(each.per_s for each in demands.values()) / scale * MEMORY_S  # about that many
        return demands if seen >= (0.5 if self._zones else 1.0) * LEAST_ARRIVALS else None

    def _choose(
        self, found: Plan, demands: Mapping[Tier, Demand], replicas: Sequence[Replica]
    ) -> Mapping[Tier, int]:
        if not found.zones:
            return {}
        divided = bool(self._zones)
        if found.together < (UNITE_BELOW if divided else DIVIDE_ABOVE):
            return {}
        if found.busiest > found.together * (1.0 if divided else GAIN):
            return {}
        fits = sum(self._zones.values()) == len(replicas) and set(self._zones) == set(found.zones)
        if fits and found.busiest > STEADY * self._busiest(found, demands):
            return self._zones
        return found.zones

    def _busiest(self, found: Plan, demands: Mapping[Tier, Demand]) -> float:
        """The busiest share were the zones left as they are."""
        return max(found.needs[tier] / self._zones[tier] for tier in demands if tier in self._zones)

    def _assign(self, replicas: Sequence[Replica]) -> None:
        """Strict tiers first, in the replicas' order: a size that changes moves one border."""
        self._home_of = {}
        names = iter(replica.traits.replica_id for replica in replicas)
        for index, tier in enumerate(TIERS):
            for _ in range(self._zones.get(tier, 0)):
                self._home_of[next(names)] = index
