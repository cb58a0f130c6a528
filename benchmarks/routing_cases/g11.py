"""G11: tenants that always have requests waiting, of very different sizes, share equally."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autoscaling.simulator.compare import interval, ratio
from autoscaling.simulator.gateway import SimGateway, Stream
from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.summary import jain
from autoscaling.simulator.work import Outcome
from autoscaling.simulator.world import World
from benchmarks.routing_cases.context import Context
from benchmarks.routing_cases.rows import Row, Target
from benchmarks.routing_cases.scenarios import OURS, scenario
from cluster.config import POLICIES
from cluster.facts import KV_BLOCK_TOKENS
from deployments.router.fair import OUTPUT_WORK, PROMPT_WORK, work
from deployments.router.fleet import Flight
from deployments.router.queues import QUANTUM

SIZES = ((300.0, 150.0), (1500.0, 800.0), (6000.0, 3000.0))
"""Mean prompt tokens of their own and mean output tokens of the three tenants' requests."""

TENANTS = ("short", "middle", "long")
SYSTEM_PROMPTS, SYSTEM_TOKENS = 16, 4000
FLEET, SEATS, CLIENTS = 2, 64, 150
"""Two replicas of 64 seats, and more clients of each tenant than there are seats: each always has
requests waiting, whatever the policy does."""

START_S, END_S = 120.0, 720.0


def backlogged(tenants: Sequence[str]) -> Scenario:
    """The clients under these tenants' names; the system prompts stay apart if names do not."""
    loops = [
        {
            "clients": CLIENTS,
            "ramp_s": 10.0,
            "tenants": [{"name": name}],
            "prompts": {
                "tokens_mean": prompt,
                "sigma": 0.7,
                "system_prompts": SYSTEM_PROMPTS,
                "system_tokens": SYSTEM_TOKENS,
            },
            "mix": {
                "low": {"weight": 0.0},
                "medium": {"weight": 1.0, "output_tokens_mean": output, "output_sigma": 0.7},
                "high": {"weight": 0.0},
            },
        }
        for name, (prompt, output) in zip(tenants, SIZES, strict=True)
    ]
    made = scenario(
        {"closed_loop": loops},
        replicas=FLEET,
        kv_tokens=800_000,
        duration_s=END_S,
        warmup_s=START_S,
        cooldown_s=0.0,
        tiers={"medium": {"max_queued": 1000, "max_queue_wait_s": 3600.0}},
    )
    pool = made.fleet.pools[0].model_copy(update={"max_num_seqs": SEATS})
    return made.model_copy(update={"fleet": made.fleet.model_copy(update={"pools": [pool]})})


# ---------------------------------------------------------------- what tenants are charged


@dataclass(frozen=True, slots=True)
class WatchedResult(RunResult):
    """With what was charged: by request, predicted tokens and prompt tokens found cached."""

    charged: dict[int, tuple[float, int]]


class WatchedGateway(SimGateway):
    """Notes what the router charges at dispatch."""

    charged: dict[int, tuple[float, int]]

    def _submit(self, what: tuple[Stream, Flight]) -> None:
        request = what[1].request
        made = next(each for each in self.router.decisions if each.request_id == request.request_id)
        number = what[0].outcome.number
        self.charged[number] = made.predicted_tokens, made.choice.cached_tokens
        super()._submit(what)


def run_watched(scenario: Scenario, policy: str, seed: int) -> WatchedResult:
    """As `autoscaling.simulator.world.run`, with what was charged."""
    name = next(each for each in POLICIES if each == policy)
    started = time.perf_counter()
    world = World(scenario, name, seed)
    watched = WatchedGateway(0, scenario, name, world.agenda, world._on_end)
    watched.charged = {}
    world.gateways = [watched]  # in place of the one that it has made; nothing has happened yet
    for replica in world.replicas:
        watched.joined(replica)
    world.run()
    plain = world.result(time.perf_counter() - started)
    return WatchedResult(
        plain.outcomes, plain.replica_seconds, plain.wall_s, plain.series, watched.charged
    )


# ---------------------------------------------------------------- how fair it was


@dataclass(frozen=True, slots=True)
class Fairness:
    """Gaps are of work: the largest of any two tenants over any part of the time.

    ``dispatched`` and its ``bound`` speak of the real work of what was dispatched (see
    `deployments/router/fair.py`), ``served`` and ``paper_bound`` of tokens as they were written
    (Sheng et al., OSDI 2024). ``hit_rate`` is the part of the system prompts' tokens found cached.
    """

    dispatched: float
    bound: float
    served: float
    paper_bound: float
    jain: float
    hit_rate: float
    turned_away: int


@dataclass(frozen=True, slots=True)
class _Served:
    """A request with its charged and real work."""

    outcome: Outcome
    tenant: int
    charged: float
    real: float
    uncached: int


def fairness(result: RunResult, scenario: Scenario) -> Fairness:
    """How equally the clients of the three loops were served while all of them waited."""
    assert isinstance(result, WatchedResult)
    start_s, end_s = scenario.measured_s
    every = sorted((_served(result, each) for each in result.outcomes if each.tokens),
                   key=lambda each: each.outcome.placed_s)  # fmt: skip
    placed = [each for each in every if start_s <= each.outcome.placed_s < end_s]
    largest = max(max(each.charged, each.real) for each in placed)
    off = _most_off(every)
    tenants = len(SIZES)
    sums = [[0.0] for _ in range(tenants)]
    for each in placed:
        for tenant in range(tenants):
            sums[tenant].append(sums[tenant][-1] + (each.real if tenant == each.tenant else 0.0))
    seconds, in_flight = _second_by_second(every, end_s)
    since = [[each[second] for second in range(int(start_s), int(end_s))] for each in seconds]
    longest = max(each.uncached for each in every)
    most = max(in_flight[int(start_s) : int(end_s)])
    shared = sum(each.outcome.arrival.shared_tokens // KV_BLOCK_TOKENS for each in placed)
    hits = sum(
        min(each.outcome.cached_tokens, each.outcome.arrival.shared_tokens) // KV_BLOCK_TOKENS
        for each in placed
    )
    return Fairness(
        dispatched=_gap(sums),
        bound=2.0 * (largest + QUANTUM + 2.0 * off),
        served=_gap(since),
        paper_bound=2.0 * max(PROMPT_WORK * longest, OUTPUT_WORK * most),
        jain=jain([each[-1] - each[0] for each in since]),
        hit_rate=hits / shared,
        turned_away=sum(each.status in ("refused", "expired") for each in result.outcomes),
    )


def _served(result: WatchedResult, outcome: Outcome) -> _Served:
    predicted, cached = result.charged[outcome.number]
    uncached = max(0, outcome.arrival.prompt_tokens - cached)
    return _Served(
        outcome,
        outcome.arrival.workload,
        work(uncached, predicted),
        work(uncached, outcome.tokens),
        uncached,
    )


def _gap(sums: Sequence[Sequence[float]]) -> float:
    """The most by which any two of these growing sums differ in what they gain in any time."""
    widest = 0.0
    for one, other in itertools.combinations(sums, 2):
        apart = [a - b for a, b in zip(one, other, strict=True)]
        widest = max(widest, max(apart) - min(apart))
    return widest


def _most_off(every: Sequence[_Served]) -> float:
    """The most by which charges and real work of a tenant's requests in flight ever differed."""
    changes = sorted(
        change
        for each in every
        for change in (
            (each.outcome.placed_s, each.tenant, each.charged - each.real),
            (each.outcome.ended_s, each.tenant, each.real - each.charged),
        )
    )
    now = [0.0] * len(SIZES)
    most = 0.0
    for _, tenant, change in changes:
        now[tenant] += change
        most = max(most, abs(now[tenant]))
    return most


def _second_by_second(
    every: Sequence[_Served], end_s: float
) -> tuple[list[list[float]], list[float]]:
    """Each tenant's work served by each second, and all tokens in flight then.

    Prompts count at the first token; output tokens evenly from there to the end."""
    seconds = int(end_s) + 1
    gained = [[0.0] * (seconds + 1) for _ in SIZES]
    in_flight = [0.0] * (seconds + 1)
    for each in every:
        outcome = each.outcome
        first_s, took_s = outcome.first_token_s, outcome.ended_s - outcome.first_token_s
        if first_s >= seconds:
            continue
        gained[each.tenant][int(first_s) + 1] += PROMPT_WORK * each.uncached
        before = 0.0
        for second in range(int(first_s) + 1, min(seconds, int(outcome.ended_s) + 1) + 1):
            written = outcome.tokens * min(1.0, (second - first_s) / took_s) if took_s else 1.0
            gained[each.tenant][second] += OUTPUT_WORK * (written - before)
            before = written
            if second <= outcome.ended_s:
                in_flight[second] += outcome.arrival.prompt_tokens + written
    return [list(itertools.accumulate(each)) for each in gained], in_flight


# ---------------------------------------------------------------- the rows


async def tenants(context: Context) -> list[Row]:
    """Gaps against their bounds, Jain's index, and what fairness costs in cache hits."""

    async def by_seed(names: Sequence[str]) -> dict[int, Fairness]:
        found = await asyncio.gather(
            *(
                context.runs.get(backlogged(names), OURS, seed, fairness, run_watched)
                for seed in context.seeds
            )
        )
        return dict(zip(context.seeds, found, strict=True))

    fair, unfair = await asyncio.gather(by_seed(TENANTS), by_seed(["all"] * len(TENANTS)))

    def mean(what: str, runs: dict[int, Fairness], name: str, target: Target | None) -> Row:
        return Row("G11", what, interval([getattr(run, name) for run in runs.values()]), target)

    def over(what: str, gap: str, bound: str) -> Row:
        gaps = {seed: getattr(run, gap) for seed, run in fair.items()}
        bounds = {seed: getattr(run, bound) for seed, run in fair.items()}
        note = f"bound: {interval(list(bounds.values())).mean / 1000:.0f}k weighted tokens"
        return Row("G11", what, ratio(gaps, bounds), Target(1.5, at_most=True), "×", note)

    hits = ratio(
        {seed: run.hit_rate for seed, run in fair.items()},
        {seed: run.hit_rate for seed, run in unfair.items()},
    )
    turned_away = sum(run.turned_away for run in fair.values())
    return [
        over("gap of work dispatched, part of the bound in fair.py", "dispatched", "bound"),
        over("gap of work served, part of the VTC paper's bound", "served", "paper_bound"),
        mean("Jain's index of the work served", fair, "jain", Target(0.98)),
        mean("the same without fairness", unfair, "jain", None),
        Row("G11", "prefix-hit rate, part of that without fairness", hits, Target(0.95), "%",
            f"{interval([run.hit_rate for run in fair.values()]).mean:.1%} of the shared tokens"),
        Row("G11", "requests turned away (each must stay backlogged)",
            interval([float(turned_away)]), Target(0.0, at_most=True)),
    ]  # fmt: skip
