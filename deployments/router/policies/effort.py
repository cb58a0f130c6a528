"""The policy that Trireme exists for: by effort tier, predicted work, and what is in the caches."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cluster.config import TIERS, Tier
from deployments.router.capacity import Slo
from deployments.router.fleet import TIER_INDEX, Fleet, Replica, Request
from deployments.router.policies.choice import Choice, Considered, Verdict, tie_break
from deployments.router.prefixes import PrefixIndex
from deployments.router.zones import Zones

RANK_S = {Verdict.HOME: 0.0, Verdict.SPILL: 1e5, Verdict.LATE: 1e6}
"""Added to the predicted finish: a replica outside of the tier's zone is taken only when its own
have no room, and one where the first token would come too late only when there is no other."""

HOME, SPILL, LATE, SLOW, FULL, MEMORY = list(Verdict)[:6]
NOTHING: Mapping[str, int] = MappingProxyType({})

MARGIN = 0.92
"""Share of a TPOT objective that a step may take, as batches vary around the prediction. At three
times the capacity, with 0.97, 15 % of the low tier's tokens went to requests that missed; with
0.92, 7 %, and at capacity nothing is lost (`benchmarks.routing`)."""

SPILL_SLACK = 0.75
"""A looser tier enters a stricter tier's zone only while its step has so much of the objective."""


class EffortPolicy:
    """Least delay, its own and what it causes, among replicas that keep everybody's objectives.

    A request joins a replica only if the step with it is within its own TPOT objective and within
    those of all that run there; otherwise it waits in its queue. An objective that a replica could
    not keep for even a few requests is not enforced there.
    """

    name = "effort"

    def __init__(self, slos: Mapping[Tier, Slo]) -> None:
        self._slos = [slos[tier] for tier in TIERS]
        # By the bits of the tiers present: the strictest of their objectives.
        self._limits = [
            MARGIN
            * min((self._slos[i].tpot_s for i in range(3) if mask >> i & 1), default=math.inf)
            for mask in range(8)
        ]
        self._slack = [SPILL_SLACK * slo.tpot_s for slo in self._slos]
        self._prefixes = PrefixIndex()
        self._zones: dict[str, Zones] = {}
        self._tiers = slos

    def zones(self, model: str) -> Zones:
        found = self._zones.get(model)
        if found is None:
            found = self._zones[model] = Zones(self._tiers)
        return found

    def note(self, request: Request, now: float) -> None:
        zones = self.zones(request.model)
        zones.note(request.tier, request.prompt_tokens, request.predicted, now)

    def placed(self, request: Request, replica: Replica, now: float) -> None:
        if request.blocks:
            traits = replica.traits
            self._prefixes.record(request.blocks, traits.replica_id, traits.kv_tokens)

    def lost(self, replica_id: str) -> None:
        self._prefixes.forget(replica_id)

    def choose(self, request: Request, fleet: Fleet, now: float) -> Choice | None:
        replicas = fleet.open_to(request.model, request.tier)
        if not replicas:
            return None
        homes = NOTHING
        if fleet.shared(request.model):  # else the configuration's own pools divide them
            homes = self.zones(request.model).home_of(replicas, now)
        cached = self._prefixes.match(request.blocks) if request.blocks else NOTHING
        tier = TIER_INDEX[request.tier]
        left_s = self._slos[tier].ttft_s - (now - request.arrived_s)
        seen, costs_s = self._look(replicas, request, tier, homes, cached, left_s)
        best: Considered | None = None
        best_s = math.inf
        for each, cost_s in zip(seen, costs_s, strict=True):
            replica, _, verdict = each
            if verdict > LATE:
                continue
            cost_s += RANK_S[verdict]
            if cost_s < best_s:
                best, best_s = each, cost_s
            elif cost_s == best_s and best is not None and first(request, replica, best[0]):
                best = each
        if best is None:
            return None
        replica, finish_s, verdict = best
        return Choice(replica, finish_s, verdict, seen, cached.get(replica.replica_id, 0))

    def _look(
        self,
        replicas: Sequence[Replica],
        request: Request,
        tier: int,
        homes: Mapping[str, int],
        cached: Mapping[str, int],
        left_s: float,
    ) -> tuple[list[Considered], list[float]]:
        """Every replica with the verdict on it, and the seconds that its choice would cost: until
        the request's end, and what it takes from those who run there, each of whom waits for its
        prompt and then has longer steps. The hot loop: once per replica and request."""
        seen: list[Considered] = []
        costs_s: list[float] = []
        limits, bit = self._limits, 1 << tier
        prompt, predicted = request.prompt_tokens, request.predicted
        need = prompt + predicted
        pooled = request.tier
        for replica in replicas:
            step_s = replica.next_step_s
            limit_s = limits[replica.tiers_here | bit]
            running = replica.in_flight
            if step_s > limit_s and replica.floor_step_s < limit_s and running >= 0.5:
                verdict = SLOW
            elif running >= replica.seats or replica.refusing:
                verdict = FULL
            elif running >= 0.5 and replica.kv_left < need:
                verdict = MEMORY
            elif homes:
                home = homes.get(replica.replica_id, tier)
                if home == tier:
                    verdict = HOME
                elif tier > home and step_s > self._slack[home]:
                    verdict = SLOW
                else:
                    verdict = SPILL
            else:
                # No zones, but the configuration's own pools may say that this one only lends.
                verdict = HOME if pooled in replica.traits.tiers else SPILL
            token_s = replica.prefill_token_s
            own_s = (prompt - cached.get(replica.replica_id, 0) if cached else prompt) * token_s
            prefill_s = replica.awaiting_prefill * token_s + own_s
            if prefill_s > left_s and verdict is HOME:
                verdict = LATE
            finish_s = prefill_s + predicted * step_s
            seen.append((replica, finish_s, verdict))
            costs_s.append(finish_s + running * own_s + predicted * replica.crowding_s)
        return seen, costs_s


def first(request: Request, one: Replica, other: Replica) -> bool:
    """Whether ``one`` goes before ``other`` where they look the same."""
    return tie_break(request.request_id, one.replica_id) < tie_break(
        request.request_id, other.replica_id
    )
