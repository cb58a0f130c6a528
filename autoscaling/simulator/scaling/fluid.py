"""A pool of replicas by the tick: how many requests of each tier run and wait, not which.

Each tier's running requests take seats: a request of tier k takes 1 / B_k of a replica, where B_k
is the batch at which a replica keeps the tier's objective (the router's capacity model). A fuller
cluster runs slower, as the step model says. A request that does not find its seats within the tick
has missed its objective of a second or so. Lengths are log-normal in the event simulator and a mix
of two exponentials with the same mean and variance here, so that a tier is two numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from autoscaling.simulator.scaling.days import TICK_S, Arrivals
from autoscaling.sizing import Sizing
from cluster.config import TIERS, Tier
from deployments.router.capacity import Demand, step_at

LEVELS = 64
"""Steps of the table of speeds."""

MOST_WAITING_S = {"low": 30.0, "medium": 60.0, "high": 120.0}
"""Longest waits in the queues, as a gateway has them by default; then a request is refused."""

DRAIN_S = 30.0
"""A leaving replica is paid for so much longer: what runs on it moves to others."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean prompt and output tokens of a tier, and σ of the output's logarithm."""

    prompt_tokens: float
    output_tokens: float
    sigma: float = 1.0


class _Flow:
    """One tier: what runs, in two phases, and what waits."""

    def __init__(self, tier: Tier, sizing: Sizing, lengths: Lengths, tick_s: float) -> None:
        each = sizing.of(tier, lengths.prompt_tokens, lengths.output_tokens)
        self.tier = tier
        self.batch = each.batch
        self.lengths = lengths
        self.tick_s = tick_s
        demand = Demand(1.0, lengths.prompt_tokens, lengths.output_tokens)
        steps = sizing.kind.steps
        self.leaves_per_s = [
            1.0
            / (
                lengths.output_tokens
                * step_at(steps, max(1, round(self.batch * level / LEVELS)), demand)
            )
            for level in range(LEVELS + 1)
        ]
        spread = math.exp(lengths.sigma**2) - 1.0
        short = 0.5 * (1.0 + math.sqrt(max(0.0, spread - 1.0) / (spread + 1.0)))
        self.short_share = short
        self.speeds = (2.0 * short, 2.0 * (1.0 - short))
        # By level: the parts of both phases that end within a tick, and those that are still there
        # of what has entered in its middle, on average.
        self.parts = [self._parts(rate) for rate in self.leaves_per_s]
        self.kept = [self._kept(rate) for rate in self.leaves_per_s]
        self.running = [0.0, 0.0]
        self.waiting = 0.0
        self.longest_s = MOST_WAITING_S[tier]
        self.lately_per_s = 0.0

    def _parts(self, per_s: float) -> tuple[float, float]:
        first, second = (1.0 - math.exp(-per_s * self.tick_s * speed) for speed in self.speeds)
        return first, second

    def _kept(self, per_s: float) -> tuple[float, float]:
        first, second = (math.exp(-0.5 * per_s * self.tick_s * speed) for speed in self.speeds)
        return self.short_share * first, (1.0 - self.short_share) * second

    @property
    def count(self) -> float:
        return self.running[0] + self.running[1]

    def leave(self, level: int, slowdown: float, rng: Random) -> float:
        """Those that end within the tick, with the fluctuation that single requests would have.
        Returns the replicas that the others fill."""
        parts = self.parts[level]
        if slowdown > 1.0:
            parts = self._parts(self.leaves_per_s[level] / slowdown)
        running = self.running
        for phase in (0, 1):
            here = running[phase]
            if here > 0.0:
                gone = here * parts[phase]
                gone += math.sqrt(gone * (1.0 - parts[phase])) * rng.gauss(0.0, 1.0)
                running[phase] = min(here, max(0.0, here - gone))
        return (running[0] + running[1]) / self.batch

    def enter(self, count: float, level: int) -> None:
        kept = self.kept[level]
        self.running[0] += count * kept[0]
        self.running[1] += count * kept[1]


@dataclass(slots=True)
class Tally:
    """What a run adds up to. ``moves`` are (time, replicas wanted, sleepers too) at changes."""

    requests: float = 0.0
    missed: float = 0.0
    refused: float = 0.0
    awake_s: float = 0.0
    asleep_s: float = 0.0
    moves: list[tuple[float, int]] = field(default_factory=list)

    @property
    def attained(self) -> float:
        return 1.0 - self.missed / self.requests if self.requests else math.nan


@dataclass(frozen=True, slots=True)
class Seen:
    """One tier over the time since it was last asked for."""

    arrived: float
    missed: float
    refused: float
    running: float
    waiting: float
    lengths: Lengths


class Pool:
    """The replicas and their load. ``tick`` plays a tick; ``resize`` asks for a size."""

    def __init__(
        self,
        sizing: Sizing,
        lengths: Mapping[Tier, Lengths],
        replicas: int,
        cold_start_s: float,
        wake_s: float,
        seed: int,
        tick_s: float = TICK_S,
    ) -> None:
        self.sizing = sizing
        self.now = 0.0
        self.ready = replicas
        self.asleep = 0
        self.falling_asleep = 0
        self.cold_start_s = cold_start_s
        self.wake_s = wake_s
        self.tally = Tally(moves=[(0.0, replicas)])
        self._starting: list[tuple[float, int]] = []
        self._preparing: list[tuple[float, int]] = []
        self._leaving: list[tuple[float, int]] = []
        self._flows = [_Flow(tier, sizing, lengths[tier], tick_s) for tier in TIERS]
        self._rng = Random(seed)
        self._since = {tier: [0.0, 0.0, 0.0] for tier in TIERS}

    # -------------------------------------------------------------- size

    @property
    def starting(self) -> int:
        return sum(count for _, count in self._starting)

    @property
    def owned(self) -> int:
        return self.ready + self.starting

    def resize(self, wanted: int, asleep: int = 0) -> None:
        """``wanted`` awake, ``asleep`` besides. Sleepers wake first; the newest go first."""
        if wanted > self.owned:
            self._grow(wanted - self.owned)
        elif wanted < self.owned:
            self._shrink(self.owned - wanted, asleep)
        if self.tally.moves[-1][1] != wanted + asleep:
            self.tally.moves.append((self.now, wanted + asleep))
        preparing = sum(count for _, count in self._preparing)
        if asleep > self.asleep + preparing:
            # One that shall sleep has to start like any other first.
            more = asleep - self.asleep - preparing
            self._preparing.append((self.now + self.cold_start_s, more))
        elif asleep < self.asleep:
            self.asleep = asleep

    def _grow(self, more: int) -> None:
        woken = min(more, self.asleep)
        self.asleep -= woken
        if woken:
            self._starting.append((self.now + self.wake_s, woken))
        if more > woken:
            self._starting.append((self.now + self.cold_start_s, more - woken))

    def _shrink(self, fewer: int, asleep: int) -> None:
        while fewer and self._starting:
            at_s, count = self._starting.pop()
            if count > fewer:
                self._starting.append((at_s, count - fewer))
            fewer -= min(fewer, count)
        fewer = min(fewer, self.ready)
        if fewer:
            self.ready -= fewer
            kept = min(fewer, max(0, asleep - self.asleep))
            self.asleep += kept
            if fewer > kept:
                self._leaving.append((self.now + DRAIN_S, fewer - kept))

    # -------------------------------------------------------------- time

    def tick(self, arrivals: Arrivals, index: int) -> None:
        tick_s = arrivals.tick_s
        self._come_and_go()
        tally = self.tally
        paid = self.ready
        # One that shall sleep loads its weights on its GPUs first.
        for waiting in (self._starting, self._leaving, self._preparing):
            for _, count in waiting:
                paid += count
        tally.awake_s += paid * tick_s
        tally.asleep_s += self.asleep * tick_s
        flows, ready = self._flows, self.ready
        seats = 0.0
        for flow in flows:
            seats += (flow.running[0] + flow.running[1]) / flow.batch
        use = seats / ready if ready else 1.0
        level = min(LEVELS, max(1, round(use * LEVELS)))
        slowdown = max(1.0, use)
        filled = came = behind = 0.0
        for flow in flows:
            filled += flow.leave(level, slowdown, self._rng)
            came += arrivals.counts[flow.tier][index] / flow.batch
            behind += flow.waiting / flow.batch
        # Who is late already stands behind those who can be in time (`FairQueue.late`).
        free = max(0.0, ready - filled)
        in_time = 1.0 if came <= free else free / came
        free = max(0.0, free - came)
        late = 1.0 if behind <= free else free / behind
        for flow in flows:
            self._admit(flow, in_time, late, level, arrivals.counts[flow.tier][index], tick_s)
        self.now += tick_s

    def _admit(
        self, flow: _Flow, in_time: float, late: float, level: int, came: int, tick_s: float
    ) -> None:
        """``in_time`` is the part of those that came that finds seats, ``late`` that of those that
        wait."""
        flow.enter(came * in_time + flow.waiting * late, level)
        missed = came * (1.0 - in_time)
        flow.waiting += missed - flow.waiting * late
        flow.lately_per_s += 0.1 * (came / tick_s - flow.lately_per_s)
        refused = max(0.0, flow.waiting - max(1.0, flow.lately_per_s) * flow.longest_s)
        flow.waiting -= refused
        tally, since = self.tally, self._since[flow.tier]
        tally.requests += came
        tally.missed += missed
        tally.refused += refused
        since[0] += came
        since[1] += missed
        since[2] += refused

    def _come_and_go(self) -> None:
        now = self.now
        if self._starting:
            self.ready += sum(count for at_s, count in self._starting if at_s <= now)
            self._starting = [each for each in self._starting if each[0] > now]
        if self._preparing:
            self.asleep += sum(count for at_s, count in self._preparing if at_s <= now)
            self._preparing = [each for each in self._preparing if each[0] > now]
        if self._leaving:
            self._leaving = [each for each in self._leaving if each[0] > now]

    # -------------------------------------------------------------- what is seen of it

    def seen(self) -> dict[Tier, Seen]:
        """Each tier since the last call."""
        found = {}
        for flow in self._flows:
            came, late, refused = self._since[flow.tier]
            self._since[flow.tier] = [0.0, 0.0, 0.0]
            found[flow.tier] = Seen(came, late, refused, flow.count, flow.waiting, flow.lengths)
        return found
