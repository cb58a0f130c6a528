"""One policy on one seed's days: what users got, what it cost, and how often it turned."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from autoscaling.policy import PolicySettings, PoolPlan
from autoscaling.simulator.scaling import oracle
from autoscaling.simulator.scaling.days import HOUR_S, Arrivals, Floats
from autoscaling.simulator.scaling.fluid import DRAIN_S, Lengths, Pool, Tally
from autoscaling.simulator.scaling.scalers import Look, Ours, Scaler
from autoscaling.sizing import ReplicaKind, Sizing
from cluster.config import TIERS, Tier
from cluster.facts import GPT_OSS_120B, gpu_bytes_of, kv_bytes_per_token, kv_pool_bytes
from cluster.steptime import step_model
from deployments.router.capacity import Slo

SLOS: Mapping[Tier, Slo] = {
    "low": Slo(1.0, 0.015),
    "medium": Slo(2.0, 0.025),
    "high": Slo(3.0, 0.080),
}
LENGTHS: Mapping[Tier, Lengths] = {
    "low": Lengths(1200.0, 400.0),
    "medium": Lengths(1200.0, 1500.0),
    "high": Lengths(1200.0, 6000.0),
}
"""Objectives and lengths of the routing benchmark (`benchmarks/routing_cases/scenarios.py`)."""

GPU, TP = "H200", 2
MAX_NUM_SEQS = 256
WAKE_S = 10.0


def kind_of(gpu: str = GPU, tp: int = TP, max_num_seqs: int = MAX_NUM_SEQS) -> ReplicaKind:
    """A replica of gpt-oss-120b on GPUs whose step times were measured."""
    steps = step_model(gpu, tp)
    memory_bytes = gpu_bytes_of(gpu)
    if steps is None or memory_bytes is None:
        raise ValueError(f"the step times of {tp} × {gpu} are not known")
    free_bytes = kv_pool_bytes(GPT_OSS_120B, memory_bytes, tp, 0.9, 8192)
    return ReplicaKind(
        steps, max_num_seqs, free_bytes // kv_bytes_per_token(GPT_OSS_120B, tp=tp), tp
    )


@dataclass(frozen=True, slots=True)
class Case:
    """One seed's days on one kind of replica, with one cold start; nothing counts before
    ``warmup_s`` (policies that learn have learned something then, in every policy alike)."""

    arrivals: Arrivals
    kind: ReplicaKind
    cold_start_s: float
    seed: int
    warmup_s: float = 0.0

    def sizing(self) -> Sizing:
        return Sizing(self.kind, SLOS)


@dataclass(frozen=True, slots=True)
class Score:
    """``gpu_hours`` are of replicas awake, starting or leaving; ``asleep_gpu_hours`` besides.
    ``reversals_per_h`` counts changes of direction of the wanted size, ``worst_hour`` the most of
    them in a clock hour."""

    attained: float
    gpu_hours: float
    asleep_gpu_hours: float
    reversals_per_h: float
    worst_hour: int
    moves: int
    largest: int
    sizes: tuple[tuple[float, int], ...]


def play(case: Case, scaler: Scaler, replicas: int) -> Score:
    """The scaler on the case, beginning with so many replicas."""
    pool = Pool(case.sizing(), LENGTHS, replicas, case.cold_start_s, WAKE_S, case.seed)
    arrivals, every = case.arrivals, max(1, round(scaler.every_s / case.arrivals.tick_s))
    warm = round(case.warmup_s / arrivals.tick_s)
    for index in range(arrivals.ticks):
        if index == warm:
            pool.tally = Tally(moves=[(pool.now, pool.owned)])
        pool.tick(arrivals, index)
        if index % every == every - 1:
            look = Look(pool.now, every * arrivals.tick_s, pool, pool.seen())
            pool.resize(*scaler.size(look))
    return _score(case, pool)


def _score(case: Case, pool: Pool) -> Score:
    tally, gpus = pool.tally, case.kind.gpus
    hours = (case.arrivals.ticks * case.arrivals.tick_s - case.warmup_s) / HOUR_S
    turns = reversals(tally.moves)
    by_hour = Counter(int(at_s // HOUR_S) for at_s in turns)
    return Score(
        tally.attained,
        tally.awake_s * gpus / HOUR_S,
        tally.asleep_s * gpus / HOUR_S,
        len(turns) / hours,
        max(by_hour.values(), default=0),
        len(tally.moves) - 1,
        max(size for _, size in tally.moves),
        tuple(tally.moves),
    )


def reversals(moves: list[tuple[float, int]]) -> list[float]:
    """When the size turned: grew after it had shrunk, or the other way round."""
    turned, last = [], 0
    for (_, before), (at_s, after) in itertools.pairwise(moves):
        direction = (after > before) - (after < before)
        if direction and last and direction != last:
            turned.append(at_s)
        last = direction or last
    return turned


@dataclass(frozen=True, slots=True)
class Clairvoyant:
    """Without any miss of its need (``whole``), and the cheapest found that keeps ``target``."""

    whole: Score
    least: Score
    peak: int
    mean_need: float


def clairvoyant(case: Case, target: float = 0.995) -> Clairvoyant:
    """Who knows all arrivals. ``least`` shaves: peaks shorter than a time are left out, or the need
    is scaled down, as far as the share of requests in their objectives allows."""
    needed = oracle.need(case.arrivals, case.sizing(), LENGTHS)
    whole = _known(case, needed)
    best = whole
    for ticks in (1, 4):
        low, high = 0.85, 1.1
        plain = oracle.smoothed(needed, ticks)
        for _ in range(5):
            middle = 0.5 * (low + high)
            found = _known(case, plain * middle)
            if found.attained >= target:
                high = middle
                if found.gpu_hours < best.gpu_hours or best.attained < target:
                    best = found
            else:
                low = middle
    warm = round(case.warmup_s / case.arrivals.tick_s)
    return Clairvoyant(whole, best, math.ceil(needed.max()), float(needed[warm:].mean()))


def _known(case: Case, needed: Floats) -> Score:
    arrivals = case.arrivals
    ready = oracle.sizes(needed, arrivals.tick_s, case.cold_start_s)
    pool = Pool(case.sizing(), LENGTHS, ready[0], case.cold_start_s, WAKE_S, case.seed)
    warm = round(case.warmup_s / arrivals.tick_s)
    for index in range(arrivals.ticks):
        if index == warm:
            pool.tally = Tally(moves=[(pool.now, pool.ready)])
        pool.ready = ready[index]
        pool.tick(arrivals, index)
        if ready[index] != pool.tally.moves[-1][1]:
            pool.tally.moves.append((pool.now, ready[index]))
    counted = ready[warm:]
    shrunk = sum(max(0, a - b) for a, b in itertools.pairwise(counted))
    pool.tally.awake_s = (
        oracle.replica_seconds(counted, arrivals.tick_s, case.cold_start_s) + shrunk * DRAIN_S
    )
    return _score(case, pool)


def plan_of(case: Case, *, max_asleep: int = 0, at_most: int = 1000) -> PoolPlan:
    """The case's replicas as the policy knows a pool."""
    return PoolPlan(
        "main",
        case.kind,
        frozenset(TIERS),
        frozenset(TIERS),
        at_most=at_most,
        cold_start_s=case.cold_start_s,
        wake_s=WAKE_S,
        max_asleep=max_asleep,
    )


def ours(case: Case, settings: PolicySettings, *, max_asleep: int = 0) -> Ours:
    return Ours(plan_of(case, max_asleep=max_asleep), SLOS, settings)
