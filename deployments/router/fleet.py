"""What a gateway knows of its replicas: its own requests at once, the rest from their frames."""

import math
from collections.abc import Hashable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from cluster.config import TIERS, Tier
from cluster.steptime import StepModel
from deployments.router.columns import Columns
from deployments.router.rate import RateMeter

TIER_INDEX = {tier: index for index, tier in enumerate(TIERS)}

PACE_MEMORY_S = 5.0
"""Time constant of a replica's pace: long enough to average over prompts, short against a mix that
shifts within a minute."""

FRESH_S = 2.0
"""Reports younger than this are taken as they are (frames come every step, at most every 50 ms)."""

PREFILL_MEMORY_S = 10.0
"""Half-life of the share of time that prompts take."""

MOST_PREFILL = 0.8
MOST_OTHERS = 16.0
"""Bounds of that share, and of how many times our own prompts others' are taken for."""

AHEAD_BIT = 8
"""Beside those of the three tiers."""

NOBODY = (0.0, 0.0, 0.0)

FEW = 8
"""A step of so few requests is as quick as a replica gets in service."""


@dataclass(slots=True)
class Request:
    """A generation to be placed. ``request_id`` is unique among those that a router holds.

    ``blocks`` are chained hashes of the prompt's leading token blocks (see ``prefixes``).
    ``predicted`` is the expected output in tokens, set at admission.

    After a fault it goes on elsewhere: ``written`` counts the output tokens of earlier attempts,
    which ``prompt_tokens`` then includes, and ``predicted`` is what is still expected.
    ``attempts`` counts placements without a new token, ``deaths`` the engines that died with it
    since it last made progress, and ``lost_s`` is when it lost its replica, None unless it waits
    since for a new token. ``alone``: it must not meet another suspect (see ``recovery``).
    ``ahead``: it is served before all that is not, whatever their tiers. ``behind``: it is served
    after others of its tier; ``spare``: engines run it after everything else.
    """

    request_id: str
    model: str
    tier: Tier
    prompt_tokens: int
    max_tokens: int
    tenant: str = ""
    tools: bool = False
    blocks: tuple[int, ...] = ()
    attempts: int = 0
    arrived_s: float = 0.0
    predicted: float = 0.0
    written: int = 0
    deaths: int = 0
    alone: bool = False
    lost_s: float | None = None
    ahead: bool = False
    behind: bool = False
    spare: bool = False


@dataclass(slots=True, eq=False)
class Flight:
    """A request on a replica. ``predicted`` is its expected output in tokens, by what is known now;
    ``to_prefill`` is what of its prompt the replica's cache does not hold, set when it is added.

    ``emitted`` counts the output tokens so far; who follows the stream writes it. Both leave out
    what the request has ``written`` in earlier attempts. ``on_trial``: the engine may die of it,
    and no other such request is on the replica.
    """

    request: Request
    replica: "Replica" = field(repr=False)
    placed_s: float
    predicted: float
    emitted: int = 0
    to_prefill: int = 0
    on_trial: bool = False

    @property
    def reserved_kv(self) -> float:
        """KV tokens that it is expected to hold at its peak."""
        return self.request.prompt_tokens + self.predicted

    @property
    def replica_id(self) -> str:
        return self.replica.traits.replica_id


@dataclass(frozen=True, slots=True)
class Traits:
    """What does not change while a replica lives."""

    replica_id: str
    model: str
    pool: str
    tiers: frozenset[Tier]
    lends_to: frozenset[Tier]
    max_num_seqs: int
    max_model_len: int
    kv_tokens: int
    steps: StepModel


class RemoteLoad(Struct, frozen=True):
    """A replica's own report: requests of all gateways, share of KV in use, mean step time.

    ``by_tier`` counts running and waiting requests of each tier, ``ours`` those among them that
    came from this gateway: so a late report still tells what belongs to others. ``steps`` counts
    the engine's steps.
    """

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    step_s: float = 0.0
    draining: bool = False
    by_tier: tuple[int, int, int] = (0, 0, 0)
    ours: tuple[int, int, int] = (0, 0, 0)
    steps: int = 0


class Replica:
    """One replica as this gateway sees it.

    ``own`` and ``others`` count requests by tier: this gateway's at once, other gateways' as of the
    last report. ``pace`` is how much longer a decode step takes here than the step model says.
    ``next_step_s`` is a step with one request more, and ``crowding_s`` what that adds to the steps
    of all that run here, summed up. ``prefill_share`` is the part of the time that goes into
    prompts, by those placed lately. ``refusing`` is true from a refusal until the next report.
    ``tiers_here`` has bit i set when requests of tier i are here, and ``AHEAD_BIT`` when some of
    ours go ahead (``ahead`` of them); ``kv_left`` are KV tokens that no
    running request is expected to need. ``shunned``: it hangs or is much too slow, and gets nothing
    new. ``trial`` is the request of ours that its engine may die of. ``changed`` is where it adds
    itself when any of these changes.
    """

    __slots__ = (
        "_few_s",
        "_prefills",
        "_reported_others",
        "ahead",
        "awaiting_prefill",
        "changed",
        "crowding_s",
        "flights",
        "floor_step_s",
        "in_flight",
        "kv_left",
        "load",
        "next_step_s",
        "others",
        "others_kv",
        "own",
        "pace",
        "paced",
        "prefill_share",
        "prefill_token_s",
        "refusing",
        "replica_id",
        "reported_own",
        "reported_s",
        "reserved_kv",
        "seats",
        "shunned",
        "tiers_here",
        "traits",
        "trial",
    )

    def __init__(self, traits: Traits) -> None:
        self.changed: set[Replica] = set()
        self.traits = traits
        self.replica_id = traits.replica_id
        self.seats = traits.max_num_seqs
        self.prefill_token_s = traits.steps.prefill_token_s
        self._few_s = traits.steps.decode_base_s(FEW)
        self.load = RemoteLoad()
        self.flights: dict[str, Flight] = {}
        self.own = [0, 0, 0]
        self.others = [0.0, 0.0, 0.0]
        self._reported_others = (0.0, 0.0, 0.0)
        self.reported_own = (0, 0, 0)
        self.reported_s = -math.inf
        self.others_kv = 0.0
        self.reserved_kv = 0.0
        self.awaiting_prefill = 0
        self.ahead = 0
        self.refusing = False
        self.shunned = False
        self.trial: str | None = None
        self.pace = 1.0
        self.paced = False
        self.prefill_share = 0.0
        self._prefills = RateMeter(PREFILL_MEMORY_S)
        self._refresh()

    def _refresh(self) -> None:
        """Work out what placements read; it changes far less often than it is read."""
        own, others = self.own, self.others
        low, medium, high = own[0] + others[0], own[1] + others[1], own[2] + others[2]
        self.in_flight = low + medium + high
        self.tiers_here = (low >= 0.5) | (medium >= 0.5) << 1 | (high >= 0.5) << 2
        if self.ahead:
            self.tiers_here |= AHEAD_BIT
        traits = self.traits
        steps, kv_tokens = traits.steps, traits.kv_tokens
        running = int(self.in_flight)
        now_s, then_s = steps.decode_base_s(running), steps.decode_base_s(running + 1)
        stretch = self.pace / (1.0 - self.prefill_share)
        self.next_step_s = stretch * (then_s + steps.kv_token_s * (self.load.kv_use * kv_tokens))
        self.crowding_s = self.in_flight * (stretch * (then_s - now_s))
        self.floor_step_s = self.pace * self._few_s
        self.kv_left = kv_tokens - self.reserved_kv - self.others_kv
        self.changed.add(self)

    # -------------------------------------------------------------- reports

    def report(self, load: RemoteLoad, now: float) -> None:
        """Take in a frame's load. What it holds beyond our own requests belongs to others."""
        since_s = now - self.reported_s
        self.load, self.refusing, self.reported_s = load, False, now
        if load.running > 0 and load.step_s > 0.0:
            self._note_pace(load, since_s)
        self._note_prefills(0.0, now)
        counts, ours = load.by_tier, load.ours
        others = NOBODY
        if counts != ours:
            low, medium, high = [
                float(max(0, count - own)) for count, own in zip(counts, ours, strict=True)
            ]
            others = low, medium, high
        self.reported_own, self._reported_others = ours, others
        self.others[:] = others
        total = load.running + load.waiting
        used = load.kv_use * self.traits.kv_tokens
        self.others_kv = used * sum(others) / total if total else 0.0
        self._refresh()

    def _note_pace(self, load: RemoteLoad, since_s: float) -> None:
        steps = self.traits.steps
        model_s = steps.step_s(load.running, load.kv_use * self.traits.kv_tokens)
        # The first measured step counts whole: until then the pace is only assumed.
        weight = 1.0 - math.exp(-since_s / PACE_MEMORY_S) if self.paced else 1.0
        self.paced = True
        self.pace += weight * (load.step_s / model_s - self.pace)

    def assume_pace(self, pace: float, weight: float) -> None:
        """Come nearer to the ``pace`` of others: idle, it has none of its own to report."""
        self.pace += weight * (pace - self.pace)
        self._refresh()

    def _note_prefills(self, prefill_s: float, now: float) -> None:
        """A prompt of so many seconds is to be computed; others' come as ours do."""
        if prefill_s:
            self._prefills.add(prefill_s, now)
        scale = min(MOST_OTHERS, self.in_flight / len(self.flights)) if self.flights else 1.0
        share = self.pace * scale * self._prefills.per_s(now)
        self.prefill_share = min(MOST_PREFILL, share)

    def age(self, now: float, growth: tuple[float, float, float]) -> None:
        """Carry an old report on: others' requests are taken to have grown as ours have.

        ``growth`` is, by tier, this gateway's requests now over those at the last reports.
        """
        if now - self.reported_s > FRESH_S and any(self._reported_others):
            self.others[:] = [
                count * factor for count, factor in zip(self._reported_others, growth, strict=True)
            ]
            self._refresh()

    # -------------------------------------------------------------- our own requests

    def refuse(self, *, refusing: bool = True) -> None:
        """It takes nothing more before its next report, or does again."""
        self.refusing = refusing
        self.changed.add(self)

    def add(self, flight: Flight, uncached_tokens: int, now: float) -> None:
        """``flight`` goes here; so much of its prompt is not in the cache."""
        request, steps = flight.request, self.traits.steps
        self._note_prefills(steps.mixed_s + uncached_tokens * steps.prefill_token_s, now)
        self.flights[request.request_id] = flight
        self.own[TIER_INDEX[request.tier]] += 1
        self.ahead += request.ahead
        self.reserved_kv += flight.reserved_kv
        flight.to_prefill = uncached_tokens
        self.awaiting_prefill += uncached_tokens
        self._refresh()

    def prefilled(self, flight: Flight) -> None:
        """Its first token has come: the prompt is computed."""
        self.awaiting_prefill -= flight.to_prefill
        flight.to_prefill = 0
        self.changed.add(self)

    def outgrew(self, flight: Flight, predicted: float) -> None:
        """It has written more than was expected; now ``predicted`` tokens in all are."""
        self.reserved_kv += predicted - flight.predicted
        flight.predicted = predicted
        self._refresh()

    def remove(self, request_id: str) -> Flight | None:
        flight = self.flights.pop(request_id, None)
        if flight is not None:
            self.reserved_kv -= flight.reserved_kv
            self.own[TIER_INDEX[flight.request.tier]] -= 1
            self.ahead -= flight.request.ahead
            self.prefilled(flight)
            if self.trial == request_id:
                self.trial = None
            self._refresh()
        return flight


class Watcher(Protocol):
    """Who is told which replicas have changed."""

    def update(self, changed: AbstractSet[Replica]) -> None: ...


class Fleet:
    """The replicas that a gateway can reach, by id."""

    def __init__(self) -> None:
        self._replicas: dict[str, Replica] = {}
        self._open: dict[tuple[str, Tier], list[Replica]] = {}
        self._shared: dict[str, bool] = {}
        self._columns: dict[tuple[str, Tier], Columns] = {}
        self._watchers: dict[Hashable, Watcher] = {}
        self._changed: set[Replica] = set()
        self._aged_s = -math.inf

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    def get(self, replica_id: str) -> Replica | None:
        return self._replicas.get(replica_id)

    def join(self, traits: Traits) -> Replica:
        """A replica has become reachable. Its id must be new."""
        if traits.replica_id in self._replicas:
            raise ValueError(f"replica {traits.replica_id} is already in the fleet")
        replica = self._replicas[traits.replica_id] = Replica(traits)
        replica.changed = self._changed
        self._forget_open()
        self._share_paces(0.0)
        return replica

    def leave(self, replica_id: str) -> Replica | None:
        self._forget_open()
        replica = self._replicas.pop(replica_id, None)
        if replica is not None:
            self._changed.discard(replica)
            replica.changed = set()
        return replica

    def report(self, replica_id: str, load: RemoteLoad, now: float) -> None:
        replica = self._replicas.get(replica_id)
        if replica is None:
            return
        if load.draining != replica.load.draining:
            self._forget_open()
        was_paced = replica.paced
        replica.report(load, now)
        if replica.paced and not was_paced:
            self._share_paces(0.0)

    def shun(self, replica: Replica, *, shunned: bool) -> None:
        """Give it nothing new, or trust it again."""
        replica.shunned = shunned
        self._forget_open()

    def open_to(self, model: str, tier: Tier) -> list[Replica]:
        """Replicas of ``model`` that take ``tier``, not draining or shunned, in the order of their
        ids.

        The caller must not change the list.
        """
        found = self._open.get((model, tier))
        if found is None:
            found = self._open[model, tier] = sorted(
                (
                    replica
                    for replica in self._replicas.values()
                    if replica.traits.model == model
                    and not replica.load.draining
                    and not replica.shunned
                    and (tier in replica.traits.tiers or tier in replica.traits.lends_to)
                ),
                key=lambda replica: replica.traits.replica_id,
            )
        return found

    def columns(self, model: str, tier: Tier) -> Columns:
        """``open_to`` as columns, up to date."""
        where = model, TIERS[0] if self.shared(model) else tier
        self.tell()
        found = self._columns.get(where)
        if found is None:
            found = self._columns[where] = Columns(self.open_to(*where))
            self.watch(where, found)
        return found

    def watch(self, key: Hashable, watcher: Watcher) -> None:
        """Tell it which replicas change, until ``open_to`` gives other lists; in the place of the
        one that had this key. It knows them as they are now."""
        self.tell()
        self._watchers[key] = watcher

    def tell(self) -> None:
        """Tell all who watch what has changed."""
        if self._changed:
            for each in self._watchers.values():
                each.update(self._changed)
            self._changed.clear()

    def shared(self, model: str) -> bool:
        """Whether all tiers may use the same replicas of ``model``."""
        found = self._shared.get(model)
        if found is None:
            low, medium, high = (self.open_to(model, tier) for tier in TIERS)
            found = self._shared[model] = low == medium == high
        return found

    def _forget_open(self) -> None:
        self._open.clear()
        self._shared.clear()
        self._columns.clear()
        self._watchers.clear()

    def age_reports(self, now: float) -> None:
        """Carry old reports on, at most twice a second."""
        if now - self._aged_s < 0.5:
            return
        # By the time that has passed: nobody asks while nothing is placed.
        self._share_paces(1.0 - math.exp((self._aged_s - now) / PACE_MEMORY_S))
        self._aged_s = now
        stale = [each for each in self._replicas.values() if now - each.reported_s > FRESH_S]
        if not stale:
            return
        growth = []
        for index in range(3):
            before = sum(each.reported_own[index] for each in stale)
            current = sum(each.own[index] for each in stale)
            # Of few requests the ratio is noise.
            growth.append(min(4.0, max(0.25, (current + 4.0) / (before + 4.0))))
        for replica in stale:
            replica.age(now, (growth[0], growth[1], growth[2]))

    def _share_paces(self, idle_weight: float) -> None:
        """A replica that has not made a step counts as quick as the quickest of its pool, and an
        idle one comes to do so: taken for slower, it would get nothing, and never show better."""
        quickest: dict[str, float] = {}
        for each in self._replicas.values():
            if each.paced:
                pool = each.traits.pool
                quickest[pool] = min(each.pace, quickest.get(pool, each.pace))
        for each in self._replicas.values():
            pace = quickest.get(each.traits.pool)
            if pace is not None and not each.paced:
                each.assume_pace(pace, 1.0)
            elif pace is not None and each.in_flight < 0.5 and idle_weight:
                each.assume_pace(pace, idle_weight)
