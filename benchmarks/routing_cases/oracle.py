"""Must-show 5: what it costs not to know how long outputs will be."""

import asyncio
import time

from autoscaling.simulator.compare import interval
from autoscaling.simulator.gateway import SimGateway
from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.work import Outcome
from autoscaling.simulator.world import World
from benchmarks.routing_cases.context import Context, goodput
from benchmarks.routing_cases.g3 import lost
from benchmarks.routing_cases.measured import measure, what_bounds
from benchmarks.routing_cases.rows import Row
from benchmarks.routing_cases.scenarios import OURS, mixed_tiers
from cluster.config import POLICIES
from deployments.router.predict import Key, LengthPredictor

LOADS = (0.95, 1.25)
"""Parts of our capacity: where nearly all is served, and where it must choose."""


class Oracle(LengthPredictor):
    """Knows the length of the request that is admitted next, and learns nothing."""

    output_tokens = 1

    def expected(self, key: Key, max_tokens: int) -> float:
        return float(min(self.output_tokens, max_tokens))

    def learn(self, key: Key, output_tokens: int, *, complete: bool) -> None: ...


class InformedGateway(SimGateway):
    """The production router, told the true length of each request as it comes."""

    def receive(self, outcome: Outcome) -> None:
        oracle = self.router.predictor
        if not isinstance(oracle, Oracle):
            oracle = self.router.predictor = Oracle({})
        oracle.output_tokens = outcome.arrival.output_tokens
        super().receive(outcome)


def run_informed(scenario: Scenario, policy: str, seed: int) -> RunResult:
    """As `autoscaling.simulator.world.run`, with all lengths known."""
    name = next(each for each in POLICIES if each == policy)
    started = time.perf_counter()
    world = World(scenario, name, seed)
    # In place of the gateways that it has made; nothing has happened yet.
    world.gateways = [
        InformedGateway(each.index, scenario, name, world.agenda, world._on_end)
        for each in world.gateways
    ]
    for gateway in world.gateways:
        for replica in world.replicas:
            if replica.up:
                gateway.joined(replica)
    world.run()
    return world.result(time.perf_counter() - started)


async def regret(context: Context) -> list[Row]:
    """The part of the goodput with known lengths that prediction does not reach."""
    capacity = await context.capacity_per_s()
    rows = []
    for load in LOADS:
        scenario = mixed_tiers().at_rate(load * capacity)
        predicted, known = await asyncio.gather(
            context.by_seed(scenario),
            asyncio.gather(
                *(context.runs.get(scenario, OURS, seed, measure, run_informed)
                  for seed in context.seeds)
            ),
        )  # fmt: skip
        informed = dict(zip(context.seeds, known, strict=True))
        at = f"at {load:g}× our capacity"
        rows += [
            Row("predict", f"goodput {at}, lengths predicted",
                interval(list(goodput(predicted).values())), unit="req/s",
                note=what_bounds(predicted.values())),
            Row("predict", f"goodput {at}, lengths known",
                interval(list(goodput(informed).values())), unit="req/s",
                note=what_bounds(informed.values())),
            Row("predict", f"regret {at}: goodput lost to not knowing lengths",
                lost(predicted, informed), unit="%", note="reported; the issue sets no target"),
        ]  # fmt: skip
    return rows
