"""The policy that Trireme exists for: by effort tier, predicted work, and what is in the caches."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cluster.config import TIERS, Tier
from deployments.router.capacity import Slo
from deployments.router.columns import Columns
from deployments.router.fleet import AHEAD_BIT, TIER_INDEX, Fleet, Replica, Request
from deployments.router.no_room import NoRoom
from deployments.router.policies.choice import (
    NOTHING,
    Candidates,
    Choice,
    Considered,
    Verdict,
    tie_break,
)
from deployments.router.prefixes import PrefixIndex
from deployments.router.zones import Zones

OUTSIDE_S = 1e5
"""Added to the cost of a replica outside of the tier's zone: it is taken only when the tier's own
have no room, or would be late."""

LATE_S = 1e6
"""Added where the first token would come too late: taken only when there is no other."""

HOME, SPILL, LATE, SLOW, FULL, MEMORY = list(Verdict)

MARGIN = 0.92
"""Share of a TPOT objective that a step may take, as batches vary around the prediction
(docs/decisions.md §9 has the figures)."""

AHEAD_MARGIN = 0.8
"""The same for those who do not go ahead, where somebody is who does: it gets what they leave. In
the simulator, at three times the capacity, that keeps 99.7 % of its objectives instead of 97 %."""

MANY = 96
"""From so many replicas on they are looked at as columns: about where the two take equally long."""

SPILL_SLACK = 0.75
"""A looser tier enters a stricter tier's zone only while its step has so much of the objective."""


MOST_TTFTS = 5.0
"""Who has waited for so many times its tier's TTFT objective has lost more than its own pace is
worth: that holds it up no longer, only that of those who run there. Otherwise a strict tier could
starve where looser ones keep all replicas a little above its pace, for as long as they write."""

EVERYBODY, UNHINDERED = 15, 15 - AHEAD_BIT
"""Which bits of a replica's ``tiers_here`` count."""

UNLIMITED = [math.inf] * 16


class EffortPolicy:
    """Least delay, its own and what it causes, among replicas that keep everybody's objectives.

    A request joins a replica only if the step with it is within its own TPOT objective and within
    those of all that run there; otherwise it waits in its queue. An objective that a replica could
    not keep for even a few requests is not enforced there, and who has waited for far too long does
    not ask for its own.

    A request in the middle of its reply goes where it writes on soonest: its client sees a pause.
    If it has lost its replica already, that is worse than longer steps for all, and no TPOT
    objective holds it up.
    """

    name = "effort"

    def __init__(self, slos: Mapping[Tier, Slo]) -> None:
        self._slos = [slos[tier] for tier in TIERS]
        # By the bits of the tiers present: the strictest of their objectives.
        self._limits = [
            (AHEAD_MARGIN if mask & AHEAD_BIT else MARGIN)
            * min((self._slos[i].tpot_s for i in range(3) if mask >> i & 1), default=math.inf)
            for mask in range(16)
        ]
        self._slack = [SPILL_SLACK * slo.tpot_s for slo in self._slos]
        self._limit_of, self._slack_of = np.array(self._limits), np.array(self._slack)
        self._prefixes = PrefixIndex()
        self._no_room: dict[tuple[str, Tier, bool, bool], NoRoom] = {}
        self._zones: dict[str, Zones] = {}
        self._tiers = slos

    def zones(self, model: str) -> Zones:
        found = self._zones.get(model)
        if found is None:
            found = self._zones[model] = Zones(self._tiers)
        return found

    def held(self, request: Request) -> Mapping[str, int]:
        return self._prefixes.match(request.blocks) if request.blocks else NOTHING

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
        cached = self.held(request)
        seen: Sequence[Considered]
        if request.written:
            seen, best = self._soonest(replicas, request, cached)
        elif self._still_no_room(fleet, replicas, request, homes, now):
            return None
        elif len(replicas) < MANY:
            seen, best = self._look(replicas, request, homes, cached, now)
        else:
            columns = fleet.columns(request.model, request.tier)
            seen, best = self._look_at_many(columns, request, homes, cached, now)
        if best is None:
            if not request.written:
                self._note_no_room(fleet, replicas, request, homes, now)
            return None
        replica, finish_s, verdict = best
        return Choice(replica, finish_s, verdict, seen, cached.get(replica.replica_id, 0))

    def _still_no_room(
        self,
        fleet: Fleet,
        replicas: Sequence[Replica],
        request: Request,
        homes: Mapping[str, int],
        now: float,
    ) -> bool:
        """Whether one like it, and no larger, found no room, and those that have changed since have
        none either. A queue's head is asked for at every frame."""
        known = self._no_room.get(self._kind(request, now))
        if known is None or known.replicas is not replicas or known.homes is not homes:
            return False
        if request.prompt_tokens + request.predicted < known.need_tokens:
            return False
        fleet.tell()
        if 2 * len(known.changed) > len(replicas):
            return False  # one look at all is no more work
        if known.changed:
            _, best = self._look([*known.changed], request, homes, NOTHING, now)
            if best is not None:
                return False
            known.changed.clear()
        return True

    def _note_no_room(
        self,
        fleet: Fleet,
        replicas: Sequence[Replica],
        request: Request,
        homes: Mapping[str, int],
        now: float,
    ) -> None:
        kind = self._kind(request, now)
        found = NoRoom(request.prompt_tokens + request.predicted, replicas, homes)
        self._no_room[kind] = found
        fleet.watch((self, *kind), found)

    def _look(
        self,
        replicas: Sequence[Replica],
        request: Request,
        homes: Mapping[str, int],
        cached: Mapping[str, int],
        now: float,
    ) -> tuple[list[Considered], Considered | None]:
        """Every replica with the verdict on it, and the one that costs the fewest seconds: until
        the request's end, and what it takes from those who run there, each of whom waits for its
        prompt and then has longer steps. The hot loop: once per replica and request."""
        seen: list[Considered] = []
        best, best_s = None, math.inf
        tier = TIER_INDEX[request.tier]
        limits, bit, left_s = self._limits, self._bit(request, now), self._left_s(request, now)
        mask = UNHINDERED if request.ahead else EVERYBODY
        prompt, predicted, pooled = request.prompt_tokens, request.predicted, request.tier
        for replica in replicas:
            step_s, running = replica.next_step_s, replica.in_flight
            limit_s = limits[replica.tiers_here & mask | bit]
            outside = False
            if step_s > limit_s and replica.floor_step_s < limit_s and running >= 0.5:
                verdict = SLOW
            elif running >= replica.seats or replica.refusing:
                verdict = FULL
            elif running >= 0.5 and replica.kv_left < prompt + predicted:
                verdict = MEMORY
            elif homes:
                home = homes.get(replica.replica_id, tier)
                outside = home != tier
                strained = tier > home and step_s > self._slack[home]
                verdict = SLOW if strained else SPILL if outside else HOME
            else:
                # No zones, but the configuration's own pools may say that this one only lends.
                outside = pooled not in replica.traits.tiers
                verdict = SPILL if outside else HOME
            token_s = replica.prefill_token_s
            own_s = (prompt - cached.get(replica.replica_id, 0) if cached else prompt) * token_s
            prefill_s = replica.awaiting_prefill * token_s + own_s
            finish_s = prefill_s + predicted * step_s
            if verdict > SPILL:
                seen.append((replica, finish_s, verdict))
                continue
            cost_s = finish_s + running * own_s + predicted * replica.crowding_s
            if outside:
                cost_s += OUTSIDE_S
            if prefill_s > left_s:
                verdict = LATE
                cost_s += LATE_S
            considered = replica, finish_s, verdict
            seen.append(considered)
            if cost_s < best_s or (
                cost_s == best_s and best is not None and first(request, replica, best[0])
            ):
                best, best_s = considered, cost_s
        return seen, best

    def _look_at_many(
        self,
        columns: Columns,
        request: Request,
        homes: Mapping[str, int],
        cached: Mapping[str, int],
        now: float,
    ) -> tuple[Candidates, Considered | None]:
        """As ``_look``, to the last bit, for all replicas at once."""
        tier, mask = TIER_INDEX[request.tier], UNHINDERED if request.ahead else EVERYBODY
        prompt, predicted = request.prompt_tokens, request.predicted
        step_s, running, token_s = columns.next_step_s, columns.in_flight, columns.prefill_token_s
        limit_s = self._limit_of[columns.tiers_here & mask | self._bit(request, now)]
        busy = running >= 0.5
        slow = (step_s > limit_s) & (columns.floor_step_s < limit_s) & busy
        memory = (columns.kv_left < prompt + predicted) & busy
        own_s = (prompt - columns.spread(cached) if cached else prompt) * token_s
        prefill_s = columns.awaiting_prefill * token_s + own_s
        finish_s = prefill_s + predicted * step_s
        cost_s = finish_s + running * own_s + predicted * columns.crowding_s
        strained = None
        if homes:
            home = columns.home(homes)
            outside = (home != tier) & (home >= 0)
            strained = outside & (home < tier) & (step_s > self._slack_of[home])
        else:
            outside = columns.lent(request.tier)
        late = prefill_s > self._left_s(request, now)
        cost_s[outside] += OUTSIDE_S
        cost_s[late] += LATE_S
        # What counts most comes last.
        verdicts = outside.astype(np.int8)  # HOME or SPILL
        verdicts[late] = LATE
        if strained is not None:
            verdicts[strained] = SLOW
        verdicts[memory] = MEMORY
        verdicts[running >= columns.seats] = FULL
        verdicts[slow] = SLOW
        cost_s[verdicts > LATE] = math.inf
        seen = Candidates(columns.replicas, finish_s, verdicts)
        least_s = cost_s.min()
        if least_s == math.inf:
            return seen, None
        best, *equal = np.flatnonzero(cost_s == least_s).tolist()
        for each in equal:
            if first(request, columns.replicas[each], columns.replicas[best]):
                best = each
        return seen, seen[best]

    def _soonest(
        self, replicas: Sequence[Replica], request: Request, cached: Mapping[str, int]
    ) -> tuple[list[Considered], Considered | None]:
        """As ``_look``, for a reply that goes on: the one that computes its prompt first."""
        seen: list[Considered] = []
        best, best_s = None, math.inf
        limits = self._limits if request.lost_s is None else UNLIMITED
        bit = 1 << TIER_INDEX[request.tier]
        mask = UNHINDERED if request.ahead else EVERYBODY
        for replica in replicas:
            step_s, running = replica.next_step_s, replica.in_flight
            limit_s = limits[replica.tiers_here & mask | bit]
            if step_s > limit_s and replica.floor_step_s < limit_s and running >= 0.5:
                verdict = SLOW
            elif running >= replica.seats or replica.refusing:
                verdict = FULL
            elif running >= 0.5 and replica.kv_left < request.prompt_tokens + request.predicted:
                verdict = MEMORY
            else:
                verdict = HOME if request.tier in replica.traits.tiers else SPILL
            new_tokens = request.prompt_tokens - cached.get(replica.replica_id, 0)
            resume_s = (replica.awaiting_prefill + new_tokens) * replica.prefill_token_s + step_s
            considered = replica, resume_s + request.predicted * step_s, verdict
            seen.append(considered)
            if verdict <= SPILL and (
                resume_s < best_s
                or (resume_s == best_s and best is not None and first(request, replica, best[0]))
            ):
                best, best_s = considered, resume_s
        return seen, best

    def _desperate(self, request: Request, now: float) -> bool:
        longest_s = MOST_TTFTS * self._slos[TIER_INDEX[request.tier]].ttft_s
        return now - request.arrived_s >= longest_s

    def _bit(self, request: Request, now: float) -> int:
        """The bit of the tier whose pace the request itself wants."""
        return 0 if self._desperate(request, now) else 1 << TIER_INDEX[request.tier]

    def _kind(self, request: Request, now: float) -> tuple[str, Tier, bool, bool]:
        """What found no room finds none for as long as it is of this kind."""
        return request.model, request.tier, request.ahead, self._desperate(request, now)

    def _left_s(self, request: Request, now: float) -> float:
        """Seconds in which the first token would be in time."""
        return self._slos[TIER_INDEX[request.tier]].ttft_s - (now - request.arrived_s)


def first(request: Request, one: Replica, other: Replica) -> bool:
    """Whether ``one`` goes before ``other`` where they look the same."""
    return tie_break(request.request_id, one.replica_id) < tie_break(
        request.request_id, other.replica_id
    )
