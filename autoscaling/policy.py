"""How many replicas each pool of a model should have: decided in one step, from what is known.

The load is measured in replicas: every tier's arrivals, carried through the time that its requests
run, over what a replica serves of them within the tier's objectives (the router's capacity model).
What it can become before a replica that is asked for now would help is forecast (see ``forecast``),
and the excess that forecasts like this one had is kept as headroom (see ``headroom``). Growing
happens at once; shrinking waits until the smaller size would have been enough for a while, and for
the budget of reversals. On signals that are not fresh nothing shrinks.

Plain state and rules: no clock, no Ray, no I/O.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from autoscaling.decision import Decision, Decisions, Wanted
from autoscaling.forecast import Forecast, Outlook
from autoscaling.headroom import GAIN, LEVEL, Headroom
from autoscaling.signals import PoolSignals, Signals, TierSignals
from autoscaling.sizing import ReplicaKind, Sizing, seconds_in_service
from autoscaling.steady import ReversalBudget, Steady
from cluster.config import TIERS, Tier
from cluster.schedule import Bounds, Rule, bounds
from deployments.router.capacity import Demand, Slo

RATE_MEMORY = 0.5
"""Time constant of the arrival rates that are projected ahead, of the time they are projected: a
replica that takes minutes to start cannot follow what lasts for seconds."""

LEAST_MEMORY_S = 15.0

SURGE_MEMORY_S = 20.0
SURGE = 1.6
"""A rate over so short a time that is so many times the slow one is no chance (bursts of single
clients make 1.4): the slow one is then not waited for."""

WAKING_HOLD_S = 30.0
"""Hold time of the replicas that are awake where others sleep: those wake in seconds."""

EPSILON = 0.02
"""So much of a replica is not worth one."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool as the policy needs to know it. ``gpu_cost`` is per GPU and hour, in any currency.

    ``cold_start_s`` and ``wake_s`` are assumed until measured. ``standby``: whether replicas can
    sleep; at most ``max_asleep`` then do.
    """

    name: str
    kind: ReplicaKind
    tiers: frozenset[Tier]
    lends_to: frozenset[Tier]
    at_least: int = 1
    at_most: int = 64
    cold_start_s: float = 300.0
    wake_s: float = 10.0
    max_asleep: int = 0
    gpu_cost: float = 1.0
    rules: tuple[Rule, ...] = ()

    def serves(self, tier: Tier) -> bool:
        return tier in self.tiers or tier in self.lends_to


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """``target`` is the share of requests to keep in their objectives; ``hold_s`` how long a size
    must have been too large; ``reversals_per_h`` and ``saved_reversals`` bound changes of
    direction; ``idle_s`` without any request comes before zero replicas."""

    target: float = 0.995
    forecast: bool = True
    hold_s: float = 1200.0
    reversals_per_h: float = 1.0
    saved_reversals: float = 6.0
    interval_s: float = 15.0
    idle_s: float = 900.0
    level: float = LEVEL
    gain: float = GAIN


@dataclass(slots=True)
class _TierLoad:
    """One tier's arrivals: their rate, and those that would run at the objective's pace."""

    per_s: float = 0.0
    quick_per_s: float = 0.0
    filled: float = 0.0
    in_service_s: float = 1.0
    demand: Demand = field(default_factory=lambda: Demand(0.0, 1.0, 1.0))

    def note(
        self, signals: TierSignals, in_service_s: float, interval_s: float, memory_s: float
    ) -> None:
        """``filled`` is the rate averaged over the time in service, which is what seats follow."""
        self.demand = Demand(signals.arrivals_per_s, signals.prompt_tokens, signals.output_tokens)
        self.in_service_s = in_service_s
        came = signals.arrivals_per_s
        self.per_s += _share(interval_s, memory_s) * (came - self.per_s)
        self.quick_per_s += _share(interval_s, SURGE_MEMORY_S) * (came - self.quick_per_s)
        keep = math.exp(-interval_s / in_service_s)
        self.filled = signals.arrivals_per_s + (self.filled - signals.arrivals_per_s) * keep

    def ahead(self, seconds: float, factor: float, *, surging: bool = False) -> Demand:
        rate = (self.quick_per_s if surging else self.per_s) * factor
        filled = rate + (self.filled - rate) * math.exp(-seconds / self.in_service_s)
        return Demand(max(0.0, filled), self.demand.prompt_tokens, self.demand.output_tokens)

    def now(self) -> Demand:
        return Demand(self.filled, self.demand.prompt_tokens, self.demand.output_tokens)


class _PoolState:
    """What the policy remembers of one pool: what it asked for, and how long that lasts.

    Where replicas sleep, ``whole`` steadies all of them together and ``awake`` the part that
    serves.
    """

    def __init__(self, settings: PolicySettings, *, sleeps: bool) -> None:
        self.wanted: int | None = None
        self.asleep = 0
        budget = ReversalBudget(settings.reversals_per_h, settings.saved_reversals)
        self.whole = Steady(settings.hold_s, budget)
        self.awake = Steady(WAKING_HOLD_S, None) if sleeps else self.whole


@dataclass(frozen=True, slots=True)
class _Need:
    """Load in replicas of the first pool: now, expected within the horizon, kept beyond it."""

    load: float
    expected: float
    headroom: float
    backlog: float
    outlook: Outlook
    horizon_s: float

    @property
    def total(self) -> float:
        return max(self.expected + self.headroom, self.backlog)


class Policy:
    """The policy of one model. ``pools`` in the order of the configuration; the first is the unit
    in which loads are told. ``decide`` once every interval."""

    def __init__(
        self,
        pools: Sequence[PoolPlan],
        slos: Mapping[Tier, Slo],
        settings: PolicySettings | None = None,
    ) -> None:
        if not pools:
            raise ValueError("a model has at least one pool")
        self.settings = settings or PolicySettings()
        self.pools = tuple(pools)
        self.decisions = Decisions()
        self._sizings = {pool.name: Sizing(pool.kind, slos) for pool in pools}
        self._tiers = {tier: _TierLoad() for tier in TIERS}
        self._states = {
            pool.name: _PoolState(self.settings, sleeps=pool.max_asleep > 0) for pool in pools
        }
        self._forecast = Forecast()
        allowed = 1.0 - self.settings.target
        self._long = Headroom(allowed, self.settings.level, self.settings.gain)
        self._short = Headroom(allowed, self.settings.level, self.settings.gain)
        self._idle_since_s: float | None = None

    def restore(self, sizes: Mapping[str, int]) -> None:
        """What was wanted before this policy was started; replicas may still be starting."""
        for name, size in sizes.items():
            if name in self._states:
                self._states[name].wanted = size

    # -------------------------------------------------------------- deciding

    def decide(self, signals: Signals, clock: datetime) -> Decision:
        """``clock`` is the local wall-clock time, for schedules and for the time of day."""
        fresh = signals.freshness == "fresh"
        if signals.freshness in ("fresh", "partial") and signals.interval_s > 0.0:
            self._note(signals, _clock_s(clock), fresh)
        need = self._need(signals, _clock_s(clock), self._horizon_s(signals, asleep=False))
        awake = need
        if any(pool.max_asleep for pool in self.pools):
            awake = self._need(
                signals, _clock_s(clock), self._horizon_s(signals, asleep=True), self._short
            )
        pools = self._size(signals, clock, need, awake)
        decision = self._record(signals, clock, need, pools)
        self.decisions.add(decision)
        return decision

    def _horizon_s(self, signals: Signals, *, asleep: bool) -> float:
        """How far ahead a replica that is asked for now is wanted: its start, and an interval."""
        first = self.pools[0]
        if asleep:
            return first.wake_s + 2.0 * self.settings.interval_s
        known = signals.pools.get(first.name)
        measured = math.nan if known is None else known.cold_start_s
        start_s = first.cold_start_s if math.isnan(measured) else measured
        return start_s + self.settings.interval_s

    def _memory_s(self, signals: Signals) -> float:
        return max(LEAST_MEMORY_S, RATE_MEMORY * self._horizon_s(signals, asleep=False))

    def _note(self, signals: Signals, clock_s: float, fresh: bool) -> None:
        sizing = self._sizings[self.pools[0].name]
        memory_s = self._memory_s(signals)
        for tier, each in signals.tiers.items():
            at = sizing.of(tier, each.prompt_tokens, each.output_tokens, self._pace(signals))
            load = self._tiers[tier]
            if fresh or each.arrivals_per_s > load.per_s:  # a part of the gateways tells no less
                load.note(each, seconds_in_service(at), signals.interval_s, memory_s)
        if not fresh:
            return
        busy = any(
            each.arrivals_per_s or each.running or each.queued for each in signals.tiers.values()
        )
        if busy:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = signals.at_s
        load_now = self._load(signals)
        self._forecast.learn(clock_s, sum(load.per_s for load in self._tiers.values()))
        self._long.seen(signals.at_s, load_now, self._horizon_s(signals, asleep=False))
        self._short.seen(signals.at_s, load_now, self._horizon_s(signals, asleep=True))
        self._learn_misses(signals)

    def _learn_misses(self, signals: Signals) -> None:
        arrived = sum(each.arrivals_per_s for each in signals.tiers.values())
        if arrived <= 0.0:
            return
        missed = sum(
            (1.0 - each.ttft_attained) * each.arrivals_per_s
            for each in signals.tiers.values()
            if not math.isnan(each.ttft_attained)
        )
        for headroom in (self._long, self._short):
            headroom.missed(missed / arrived, signals.interval_s / 3600.0)

    def _pace(self, signals: Signals) -> float:
        known = signals.pools.get(self.pools[0].name)
        return 1.0 if known is None else known.pace

    def _load(self, signals: Signals) -> float:
        """Replicas of the first pool that what has come so far fills."""
        demands = {tier: load.now() for tier, load in self._tiers.items()}
        return self._sizings[self.pools[0].name].fluid(demands, self._pace(signals))

    def _surging(self, signals: Signals) -> bool:
        """Whether far more work comes than a while ago, by output tokens."""
        if self._memory_s(signals) < 2.0 * SURGE_MEMORY_S:
            return False  # the slow rate is quick enough itself
        loads = self._tiers.values()
        quick = sum(load.quick_per_s * load.demand.output_tokens for load in loads)
        return quick > SURGE * sum(load.per_s * load.demand.output_tokens for load in loads)

    def _need(
        self,
        signals: Signals,
        clock_s: float,
        horizon_s: float,
        headroom: Headroom | None = None,
    ) -> _Need:
        headroom = headroom or self._long
        sizing, pace = self._sizings[self.pools[0].name], self._pace(signals)
        outlook = Outlook(1.0, "nothing")
        if self.settings.forecast:
            outlook = self._forecast.outlook(clock_s, horizon_s)
        load = self._load(signals)
        surging = self._surging(signals)
        ahead = {
            tier: each.ahead(horizon_s, outlook.factor, surging=surging)
            for tier, each in self._tiers.items()
        }
        # What comes in this very moment is noise by the time that a replica has started.
        expected = sizing.fluid(ahead, pace)
        if signals.freshness == "fresh":
            headroom.expect(signals.at_s, expected)
        return _Need(
            load,
            expected,
            max(headroom.over(expected), sizing.staffed(ahead, pace) - expected),
            self._backlog(signals, sizing, pace, horizon_s),
            outlook,
            horizon_s,
        )

    @staticmethod
    def _backlog(signals: Signals, sizing: Sizing, pace: float, horizon_s: float) -> float:
        """Replicas that would hold all that runs and, where something waits, serve that by the time
        that a new one helps: what is short takes its seats one after the other meanwhile."""
        if not any(each.queued > 0.0 for each in signals.tiers.values()):
            return 0.0
        filled = 0.0
        for tier, each in signals.tiers.items():
            at = sizing.of(tier, each.prompt_tokens, each.output_tokens, pace)
            part = min(1.0, seconds_in_service(at) / horizon_s)
            filled += (each.running + part * each.queued) / at.batch
        return filled

    # -------------------------------------------------------------- sizes

    def _size(
        self, signals: Signals, clock: datetime, need: _Need, awake: _Need
    ) -> tuple[Wanted, ...]:
        targets = self._spread(signals, clock, awake.total)
        totals = self._spread(signals, clock, max(need.total, awake.total))
        return tuple(
            self._wanted(
                pool,
                signals,
                bounds(pool.rules, pool.at_least, pool.at_most, clock),
                targets[pool.name],
                totals[pool.name],
                need,
            )
            for pool in self.pools
        )

    def _spread(self, signals: Signals, clock: datetime, total: float) -> dict[str, int]:
        """Replicas of each pool so that all tiers' loads find room: a tier's own pools first, then
        those that lend, each in the order of cost; what is there is filled before more is bought.
        """
        if len(self.pools) == 1:
            return {self.pools[0].name: max(0, math.ceil(total - EPSILON))}
        expected = {tier: each.ahead(0.0, 1.0) for tier, each in self._tiers.items()}
        unit = self._sizings[self.pools[0].name].fluid(expected, self._pace(signals))
        scale = total / unit if unit > 0.0 else 1.0
        room = {pool.name: float(self._owned(pool, signals)) for pool in self.pools}
        used = dict.fromkeys(room, 0.0)
        for tier in TIERS:
            left = expected[tier].per_s * scale
            for pool in self._by_cost(tier, expected[tier], own_first=True):
                each = self._per_s(pool, expected[tier], tier)
                taken = min(left, max(0.0, room[pool.name] - used[pool.name]) * each)
                used[pool.name] += taken / each
                left -= taken
            for pool in self._by_cost(tier, expected[tier], own_first=True):
                if left <= 0.0:
                    break
                each = self._per_s(pool, expected[tier], tier)
                most = bounds(pool.rules, pool.at_least, pool.at_most, clock).at_most
                taken = min(left, max(0.0, most - used[pool.name]) * each)
                used[pool.name] += taken / each
                left -= taken
        return {name: max(0, math.ceil(filled - EPSILON)) for name, filled in used.items()}

    def _per_s(self, pool: PoolPlan, demand: Demand, tier: Tier) -> float:
        return self._sizings[pool.name].of(tier, demand.prompt_tokens, demand.output_tokens).per_s

    def _by_cost(self, tier: Tier, demand: Demand, *, own_first: bool) -> list[PoolPlan]:
        """Pools that serve ``tier``: its own before lenders, then by cost of a request."""
        return sorted(
            (pool for pool in self.pools if pool.serves(tier)),
            key=lambda pool: (
                own_first and tier not in pool.tiers,
                pool.kind.gpus * pool.gpu_cost / self._per_s(pool, demand, tier),
            ),
        )

    def _owned(self, pool: PoolPlan, signals: Signals) -> int:
        known = signals.pools.get(pool.name)
        wanted = self._states[pool.name].wanted
        if wanted is not None:
            return wanted
        return pool.at_least if known is None else known.owned

    def _wanted(
        self,
        pool: PoolPlan,
        signals: Signals,
        limits: Bounds,
        target: int,
        total: int,
        need: _Need,
    ) -> Wanted:
        state, now = self._states[pool.name], signals.at_s
        known = signals.pools.get(pool.name, PoolSignals(pool.name, 0))
        before = self._owned(pool, signals)
        target = self._for_zero(pool, signals, target)
        stale = "" if signals.freshness == "fresh" else signals.freshness
        settled = state.awake.settle(now, before, target, limits, stale)
        asleep = 0
        if pool.max_asleep:
            room = replace(limits, at_most=limits.at_most + pool.max_asleep)
            whole = max(total, settled.size)
            kept = state.whole.settle(now, before + state.asleep, whole, room, stale)
            asleep = min(pool.max_asleep, max(0, kept.size - settled.size))
        state.wanted, state.asleep = settled.size, asleep
        return Wanted(
            pool.name,
            known.ready,
            known.starting,
            before,
            settled.size,
            asleep,
            _why(before, settled.size, target, need),
            settled.limit,
            settled.limited_by,
        )

    def _for_zero(self, pool: PoolPlan, signals: Signals, target: int) -> int:
        """At least one while anything was asked for lately; none after a long silence."""
        since_s = self._idle_since_s
        idle = since_s is not None and signals.at_s - since_s >= self.settings.idle_s
        return 0 if idle and pool.at_least == 0 else max(1, target)

    def _record(
        self, signals: Signals, clock: datetime, need: _Need, pools: tuple[Wanted, ...]
    ) -> Decision:
        attained = [
            each.ttft_attained
            for each in signals.tiers.values()
            if not math.isnan(each.ttft_attained)
        ]
        backlog_s = signals.backlog_s()
        return Decision(
            signals.at_s,
            clock.isoformat(timespec="seconds"),
            signals.model,
            signals.freshness,
            need.load,
            need.expected,
            need.headroom,
            need.backlog,
            min(backlog_s, 1e9),
            need.outlook.factor,
            need.outlook.source,
            self._long.level,
            need.horizon_s,
            min(attained) if attained else None,
            pools,
        )


def _why(before: int, size: int, target: int, need: _Need) -> str:
    verb = "grows" if size > before else "shrinks" if size < before else "stays"
    if need.backlog >= need.expected + need.headroom:
        return f"{verb}: what waits and runs fills {need.backlog:.1f}"
    return (
        f"{verb}: {need.expected:.1f} expected within {need.horizon_s:.0f} s and "
        f"{need.headroom:.1f} of headroom make {target}"
    )


def _clock_s(clock: datetime) -> float:
    """Seconds since Monday 00:00 of the week, plus whole weeks since some Monday."""
    days = clock.toordinal() - 1  # 0001-01-01 was a Monday
    seconds = clock.hour * 3600 + clock.minute * 60 + clock.second + clock.microsecond / 1e6
    return days * 86_400.0 + seconds


def _share(interval_s: float, memory_s: float) -> float:
    return 1.0 - math.exp(-interval_s / memory_s)
