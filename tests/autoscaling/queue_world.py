"""A small cluster to test workloads and figures with: one queue, `k` servers, constant speeds."""

import heapq
import itertools
import math

from autoscaling.simulator.result import RunResult, Sample
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads import Traffic
from cluster.config import TIERS

PREFILL_S_PER_TOKEN = 1e-4
STEP_S = 0.01
MAX_QUEUED = 50


def run(scenario: Scenario, policy: str, seed: int) -> RunResult:
    """Serves first come first ("fifo") or last come first ("lifo"); refuses from 50 queued on."""
    if policy == "broken":
        raise RuntimeError("this policy is broken")
    traffic = Traffic(scenario.workload, seed, scenario.duration_s)
    servers = scenario.fleet.replicas()
    free, running = servers, 0
    queue: list[Outcome] = []
    outcomes: list[Outcome] = []
    series: list[Sample] = []
    order = itertools.count()
    first = traffic.first()
    events: list[tuple[float, int, Outcome | None, Arrival | None]] = []

    def push_next() -> None:
        arrival = next(first, None)
        if arrival is not None:
            heapq.heappush(events, (arrival.at_s, next(order), None, arrival))

    def follow(outcome: Outcome, now: float) -> None:
        outcomes.append(outcome)
        for arrival in traffic.after(outcome, now):
            assert arrival.at_s >= now
            heapq.heappush(events, (arrival.at_s, next(order), None, arrival))

    push_next()
    while events:
        now, number, ended, arrival = heapq.heappop(events)
        if ended is not None:
            free, running = free + 1, running - 1
            follow(ended, now)
        elif arrival is not None:
            push_next()
            outcome = Outcome(arrival, number, 0, served_tier=arrival.tier)
            if len(queue) >= MAX_QUEUED:
                outcome.status, outcome.ended_s, outcome.retry_after_s = "refused", now, 3.0
                follow(outcome, now)
            else:
                queue.append(outcome)
        while queue and free:
            outcome = queue.pop(0 if policy == "fifo" else -1)
            free, running = free - 1, running + 1
            heapq.heappush(events, (_serve(outcome, now), next(order), outcome, None))
        counts = [sum(each.arrival.tier == tier for each in queue) for tier in TIERS]
        series.append(Sample(now, (counts[0], counts[1], counts[2]), running, 0.5, servers))
    return RunResult(outcomes, servers * scenario.duration_s, 0.1, series)


def _serve(outcome: Outcome, now: float) -> float:
    arrival = outcome.arrival
    outcome.placed_s, outcome.replica = now, "r0"
    outcome.first_token_s = now + PREFILL_S_PER_TOKEN * arrival.prompt_tokens
    outcome.first_answer_s = outcome.first_token_s + STEP_S * (
        arrival.output_tokens - arrival.answer_tokens
    )
    outcome.tokens = min(arrival.output_tokens, arrival.max_tokens)
    outcome.ended_s = outcome.first_token_s + STEP_S * (outcome.tokens - 1)
    outcome.status = "finished"
    leaves_s = arrival.at_s + arrival.patience_s
    if leaves_s < outcome.ended_s:
        outcome.status, outcome.ended_s = "cancelled", max(leaves_s, now)
        if outcome.first_token_s > outcome.ended_s:
            outcome.first_token_s, outcome.tokens = math.nan, 0
        else:
            outcome.tokens = 1 + int((outcome.ended_s - outcome.first_token_s) / STEP_S)
        if outcome.first_answer_s > outcome.ended_s:
            outcome.first_answer_s = math.nan
    return outcome.ended_s
