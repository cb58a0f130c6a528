"""Who decides the size: this project's policy, and what others do, behind one interface."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from autoscaling.policy import Policy, PolicySettings, PoolPlan
from autoscaling.signals import PoolSignals, Signals, TierSignals
from autoscaling.simulator.scaling.fluid import Pool, Seen
from cluster.config import TIERS, Tier
from deployments.router.capacity import Slo

MONDAY = datetime(2026, 1, 5)
"""The first day of a run, for the time of day and of the week."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a policy is shown: the pool, and each tier since the last look."""

    now: float
    interval_s: float
    pool: Pool
    seen: Mapping[Tier, Seen]

    @property
    def running(self) -> float:
        return sum(each.running for each in self.seen.values())

    @property
    def waiting(self) -> float:
        return sum(each.waiting for each in self.seen.values())


class Scaler(Protocol):
    """Returns the replicas wanted awake, and those wanted asleep. ``every_s`` between looks."""

    every_s: float

    def size(self, look: Look) -> tuple[int, int]: ...


class Ours:
    """The production policy on signals made from the tick model. ``silent`` are times without."""

    def __init__(
        self,
        plan: PoolPlan,
        slos: Mapping[Tier, Slo],
        settings: PolicySettings,
        silent: tuple[tuple[float, float], ...] = (),
    ) -> None:
        self.every_s = settings.interval_s
        self.policy = Policy([plan], slos, settings)
        self._plan = plan
        self._silent = silent

    def size(self, look: Look) -> tuple[int, int]:
        clock = MONDAY + timedelta(seconds=look.now)
        decision = self.policy.decide(self._signals(look), clock)
        (wanted,) = decision.pools
        return wanted.wanted, wanted.asleep

    def _signals(self, look: Look) -> Signals:
        pool, name = look.pool, self._plan.name
        if any(start <= look.now < end for start, end in self._silent):
            return Signals("model", look.now, look.interval_s, "stale")
        tiers = {tier: _tier(tier, look.seen[tier], look.interval_s) for tier in TIERS}
        there = PoolSignals(name, pool.ready, pool.starting, 0, pool.asleep)
        return Signals("model", look.now, look.interval_s, "fresh", tiers, {name: there})


def _tier(tier: Tier, seen: Seen, interval_s: float) -> TierSignals:
    return TierSignals(
        tier,
        seen.arrived / interval_s,
        seen.lengths.prompt_tokens,
        seen.lengths.output_tokens,
        running=seen.running,
        queued=seen.waiting,
        backlog_tokens=(seen.running + seen.waiting) * seen.lengths.output_tokens,
        ttft_attained=1.0 - seen.missed / seen.arrived if seen.arrived else math.nan,
        refused_per_s=seen.refused / interval_s,
    )


class Static:
    """The same size always."""

    every_s = 3600.0

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def size(self, look: Look) -> tuple[int, int]:
        return self._replicas, 0


class OngoingRequests:
    """Ray Serve's default: mean ongoing requests of ``look_back_s`` over ``target`` of a replica,
    up after 30 s, down after 600 s of wanting to (``AutoscalingConfig`` of Ray 2.60)."""

    every_s = 10.0

    def __init__(self, target: float, up_s: float = 30.0, down_s: float = 600.0) -> None:
        self._target = target
        self._delays_s = (up_s, down_s)
        self._recent: deque[float] = deque(maxlen=3)
        self._since: tuple[int, float] | None = None

    def size(self, look: Look) -> tuple[int, int]:
        self._recent.append(look.running + look.waiting)
        mean = sum(self._recent) / len(self._recent)
        wanted = max(1, math.ceil(mean / self._target - 1e-9))
        owned = look.pool.owned
        direction = (wanted > owned) - (wanted < owned)
        if direction == 0:
            self._since = None
            return owned, 0
        if self._since is None or self._since[0] != direction:
            self._since = direction, look.now
        if look.now - self._since[1] < self._delays_s[direction < 0]:
            return owned, 0
        self._since = None
        return wanted, 0


class QueueLength:
    """Kubernetes' HPA on the two signals that llm-d's guide gives it: requests waiting (their mean
    over replicas) and running, the larger of both; every 15 s, 10 % of tolerance, and down only to
    the largest of the last 300 s."""

    every_s = 15.0
    TOLERANCE = 0.1
    STABLE_S = 300.0

    def __init__(self, target_waiting: float, target_running: float) -> None:
        self._targets = (target_waiting, target_running)
        self._wanted: deque[tuple[float, int]] = deque()

    def size(self, look: Look) -> tuple[int, int]:
        # The HPA knows of no replica that is not ready yet: it counts its own last number.
        owned, ready = look.pool.owned, max(1, look.pool.ready)
        wanted = 1
        for found, target in zip((look.waiting, look.running), self._targets, strict=True):
            ratio = found / ready / target
            if abs(ratio - 1.0) > self.TOLERANCE:
                wanted = max(wanted, math.ceil(ready * ratio))
            else:
                wanted = max(wanted, owned)
        self._wanted.append((look.now, wanted))
        while look.now - self._wanted[0][0] > self.STABLE_S:
            self._wanted.popleft()
        return max(wanted, min(owned, max(size for _, size in self._wanted))), 0


class OneByOne:
    """One replica more while the share of late first tokens is above 1 %, one less after all was
    well for a while: Ray's ``TTFTAutoscalingPolicy`` and the load planner of Dynamo step so."""

    every_s = 10.0

    def __init__(self, calm_s: float, use_below: float) -> None:
        self._calm_s = calm_s
        self._use_below = use_below
        self._calm_since_s = 0.0

    def size(self, look: Look) -> tuple[int, int]:
        owned = look.pool.owned
        came = sum(each.arrived for each in look.seen.values())
        late = sum(each.missed for each in look.seen.values())
        seats = seats_of(look)
        if came and late / came > 0.01:
            self._calm_since_s = look.now
            return owned + 1, 0
        if seats > self._use_below * max(1, look.pool.ready):
            self._calm_since_s = look.now
        if look.now - self._calm_since_s >= self._calm_s and owned > 1:
            self._calm_since_s = look.now
            return owned - 1, 0
        return owned, 0


class TargetUse:
    """The share of the seats in use over ``target``, every 15 s, down only to the largest of the
    last 300 s."""

    every_s = 15.0
    STABLE_S = 300.0

    def __init__(self, target: float) -> None:
        self._target = target
        self._wanted: deque[tuple[float, int]] = deque()

    def size(self, look: Look) -> tuple[int, int]:
        seats = seats_of(look)
        wanted = max(1, math.ceil(seats / self._target))
        self._wanted.append((look.now, wanted))
        while look.now - self._wanted[0][0] > self.STABLE_S:
            self._wanted.popleft()
        return max(wanted, min(look.pool.owned, max(size for _, size in self._wanted))), 0


def seats_of(look: Look) -> float:
    """Replicas that all that runs or waits would fill at capacity."""
    return sum(
        (each.running + each.waiting)
        / look.pool.sizing.of(tier, each.lengths.prompt_tokens, each.lengths.output_tokens).batch
        for tier, each in look.seen.items()
    )
