"""The routing benchmark finds capacities that are known, and leaves no figure out."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from msgspec import structs

from autoscaling.simulator.compare import Interval
from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.work import Outcome
from autoscaling.simulator.world import run as simulate
from benchmarks import routing
from benchmarks.routing_cases import g2, g4, g11, oracle
from benchmarks.routing_cases.context import Context
from benchmarks.routing_cases.fluid import best_partition, router_bound, true_bound
from benchmarks.routing_cases.g4 import attained_by_top, burst, normal_after_s
from benchmarks.routing_cases.g11 import Fairness, backlogged, fairness, run_watched
from benchmarks.routing_cases.measured import Measured, Miss, OfTier, measure, what_bounds
from benchmarks.routing_cases.oracle import Oracle, run_informed
from benchmarks.routing_cases.rows import Row, Target
from benchmarks.routing_cases.runs import Runs
from benchmarks.routing_cases.scenarios import (
    MIXED,
    OTHERS,
    OURS,
    Case,
    mixed_tiers,
    regimes,
    with_times,
)
from benchmarks.routing_cases.search import Search, crossing
from tests.autoscaling import queue_world
from tests.autoscaling.making import lost, scenario, served

# ---------------------------------------------------------------- the search


def search(attained: Callable[[float], float], start: int) -> tuple[float | None, int]:
    """What is found on the grid of whole rates from 1, and in how many runs."""
    asked: list[float] = []

    async def run(rate: float) -> float:
        asked.append(rate)
        return attained(rate)

    found = asyncio.run(crossing(run, lambda index: 1.0 + index, start, 1, 100))
    assert len(asked) == len(set(asked)), "a rate was run twice"
    return found.per_s if found else None, len(asked)


@pytest.mark.parametrize("start", [0, 3, 36, 37, 38, 39, 90])
def test_the_search_finds_the_crossing_from_either_side(start: int) -> None:
    found, runs = search(lambda rate: 1.0 - 0.05 * rate / 38.4, start)
    assert found == pytest.approx(38.4)
    assert runs <= 14


def test_the_search_gives_up_where_no_rate_is_low_enough_and_ends_where_all_are() -> None:
    assert search(lambda rate: 0.5, 50)[0] is None
    found, runs = search(lambda rate: 1.0, 0)
    assert found is not None
    assert found >= 100.0
    assert runs < 12


def md1_waits_at_most(rate: float, service_s: float, wait_s: float) -> float:
    """The share of customers of an M/D/1 queue that wait so long at most (Erlang 1909)."""
    total = sum(
        (-rate * (wait_s - k * service_s)) ** k
        / math.factorial(k)
        * math.exp(rate * (wait_s - k * service_s))
        for k in range(int(wait_s / service_s + 1e-9) + 1)
    )
    return (1.0 - rate * service_s) * total


def test_the_capacity_of_a_queue_is_that_of_the_textbook() -> None:
    # A prompt of 1,000 tokens takes 0.1 s in queue_world, and one token is the whole reply.
    low = {"weight": 1.0, "output_tokens_mean": 1.0, "output_sigma": 0.0}
    none = {"weight": 0.0}
    asked = {
        "arrivals": {"rate_per_s": 1.0, "cv": 1.0},
        "prompts": {"tokens_mean": 1000.0, "sigma": 0.0},
        "mix": {"low": low, "medium": none, "high": none},
    }
    md1 = scenario(
        {"open_loop": [asked]},
        duration_s=2000.0,
        tiers={"low": {"slo": {"ttft_s": 0.4 + 1e-9, "tpot_ms": 1000.0}}},
    )
    low_rate, high_rate = 1.0, 9.9
    for _ in range(60):
        middle = (low_rate + high_rate) / 2.0
        if md1_waits_at_most(middle, 0.1, 0.3) >= 0.95:
            low_rate = middle
        else:
            high_rate = middle
    case = Case("M/D/1", md1, 5.0, 5.0)
    with Runs(1, runner=queue_world.run) as runs:
        found = asyncio.run(Search(runs, 1.05).capacity(case, "fifo", [1, 2, 3]))
    mean = sum(found.per_s.values()) / 3
    assert mean == pytest.approx(low_rate, rel=0.03)
    assert set(found.per_s) == {1, 2, 3}
    assert what_bounds(found.above).endswith("100% first token late")


# ---------------------------------------------------------------- the figures


def test_a_miss_is_put_down_to_its_first_cause() -> None:
    outcomes = [
        served(10.0),
        served(11.0, ttft_s=1.5, tpot_s=0.050),
        served(12.0, tpot_s=0.050),
        lost(13.0, "refused"),
        lost(14.0, "failed", tokens=60),
    ]
    asked = scenario({"open_loop": [{}]})
    found = measure(RunResult(outcomes, 0.0, 0.1, []), asked)
    assert found.tiers == {
        "low": OfTier(
            5,
            1,
            {Miss.TURNED_AWAY: 1, Miss.UNFINISHED: 1, Miss.LATE: 1, Miss.SLOW: 1},
            {Miss.TURNED_AWAY: 0, Miss.UNFINISHED: 60, Miss.LATE: 101, Miss.SLOW: 101},
        )
    }
    assert found.worst == 0.2
    assert found.goodput_per_s == 0.01
    assert found.offered_per_s == 0.05
    assert found.wasted_share == pytest.approx(1.0 - 101 / (3 * 101 + 60))


def test_it_is_normal_again_from_the_second_whose_next_ten_do_well() -> None:
    asked = burst(20.0)
    end_s, _ = asked.measured_s

    def outcomes(good_from_s: float) -> list[Outcome]:
        return [
            served(end_s + tenth / 10.0)
            if tenth / 10.0 >= good_from_s
            else lost(end_s + tenth / 10.0, "refused")
            for tenth in range(1300)
        ]

    def after(good_from_s: float) -> float:
        return normal_after_s(RunResult(outcomes(good_from_s), 0.0, 0.1, []), asked)

    assert after(0.0) == 0.0
    assert after(6.0) == 6.0  # one second of ten that fails is 10 %, and 5 % are allowed
    assert after(5.5) == 5.0
    assert after(1e9) == math.inf


def test_the_fluid_bound_is_the_best_partition() -> None:
    bound = best_partition({"low": 8.0, "high": 1.0}, {"low": 0.8, "high": 0.2}, 3)
    assert bound.parts == (1, 2)
    assert bound.whole_per_s == pytest.approx(min(8.0 / 0.8, 2.0 / 0.2))
    assert bound.fractional_per_s == pytest.approx(3.0 / (0.1 + 0.2))
    routers = router_bound(MIXED.scenario)
    true = true_bound(MIXED.scenario)
    assert true.fractional_per_s <= routers.fractional_per_s
    assert true.whole_per_s <= true.fractional_per_s


def test_verdicts_say_when_the_interval_reaches_across_the_target() -> None:
    def verdict(mean: float, half_width: float, target: Target | None) -> str:
        return Row("G", "what", Interval(mean, half_width, 10), target).says()

    assert verdict(1.6, 0.05, Target(1.5)) == "met"
    assert verdict(1.4, 0.05, Target(1.5)) == "not met"
    assert verdict(1.52, 0.05, Target(1.5)) == "met?"
    assert verdict(1.52, 0.05, Target(1.5, at_most=True)) == "not met?"
    assert verdict(1.52, math.nan, Target(1.5)) == "met"
    assert verdict(1.52, 0.05, None) == ""


def test_the_scenarios_have_the_steady_part_of_their_clients_in_every_regime() -> None:
    names = [case.name for case in (MIXED, *regimes())]
    assert len(set(names)) == 7
    for case in (MIXED, *regimes()):
        start_s, end_s = case.scenario.measured_s
        assert end_s - start_s >= 120.0, case.name
        for tier in ("low", "medium", "high"):
            # Who has waited longer has missed the first token's objective anyway.
            wait_s = case.scenario.tiers.of(tier).max_queue_wait_s
            assert wait_s == case.scenario.slo(tier).ttft_s, case.name


def test_only_the_top_tenants_own_requests_count_for_it() -> None:
    asked = scenario({"open_loop": [{}]})
    top = [
        replace(each, arrival=structs.replace(each.arrival, tenant=g4.TOP))
        for each in (served(10.0), served(11.0), served(12.0, ttft_s=9.0), served(13.0))
    ]
    outcomes = [*top, lost(14.0, "refused"), lost(15.0, "failed", tokens=60)]
    assert attained_by_top(RunResult(outcomes, 0.0, 0.1, []), asked) == 0.75


# ---------------------------------------------------------------- parts of real runs


def test_with_an_oracle_every_placement_expects_what_is_then_written() -> None:
    seen: dict[str, float] = {}
    true: dict[str, int] = {}

    class Watching(oracle.InformedGateway):
        def receive(self, outcome: Outcome) -> None:
            true[str(outcome.number)] = outcome.arrival.output_tokens
            super().receive(outcome)
            assert isinstance(self.router.predictor, Oracle)
            seen.update({d.request_id: d.predicted_tokens for d in self.router.decisions})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(oracle, "InformedGateway", Watching)
        small = mixed_tiers(replicas=1, duration_s=20.0, warmup_s=0.0, cooldown_s=0.0)
        result = run_informed(small.at_rate(3.0), OURS, 1)
    assert len(seen) > 20
    assert all(true[each] == expected for each, expected in seen.items())
    assert len(result.outcomes) == len(true)


def test_backlogged_tenants_stay_within_the_bound_of_the_fair_queue() -> None:
    short = backlogged(g11.TENANTS).model_copy(update={"duration_s": 150.0, "warmup_s": 60.0})
    found = fairness(run_watched(short, OURS, 1), short)
    assert found.turned_away == 0
    assert 0.0 < found.dispatched <= found.bound
    assert found.served > 0.0
    assert found.jain > 0.9
    assert 0.0 < found.hit_rate <= 1.0


# ---------------------------------------------------------------- the whole table


class Imagined(Runs):
    """Runs of a made-up cluster: at a policy's capacity, exactly 95 % of a tier do well."""

    CAPACITY: ClassVar = {OURS: 30.0, "round-robin": 25.0}

    def __init__(self) -> None:
        self.policies: set[str] = set()

    async def get(
        self,
        scenario: Scenario,
        policy: str,
        seed: int,
        figures: Callable[[RunResult, Scenario], Any],
        runner: Any = None,
    ) -> Any:
        self.policies.add(policy)
        if figures is normal_after_s:
            return 4.0
        if figures is attained_by_top:
            return 0.97
        if figures is fairness:
            return Fairness(10.0, 20.0, 10.0, 40.0, 0.99, 0.8, 0)
        workload = scenario.workload
        asked = workload.open_loop[0] if workload.open_loop else workload.sessions[0]
        rate = asked.arrivals.rate_per_s
        capacity = self.CAPACITY.get(policy, 20.0) * (1.0 + 0.01 * seed)
        kept = max(0, round(1e6 * (1.0 - 0.05 * rate / capacity)))
        missed = {Miss.SLOW: 1_000_000 - kept}
        return Measured({"low": OfTier(1_000_000, kept, missed, missed)}, 1e6, 0.01, 0.0, 0.1)


def imagined_table(goals: Sequence[str]) -> tuple[dict[str, Row], Imagined]:
    runs = Imagined()
    context = Context(runs, Search(runs, 1.05), range(1, 11), range(1, 4), OTHERS)
    tables = asyncio.run(routing.table(context, list(goals)))
    routing.show(tables)
    return {row.name: row for _, rows in tables for row in rows}, runs


def test_every_goal_has_its_rows_and_ten_seeds() -> None:
    rows, runs = imagined_table(list(routing.GOALS))
    assert runs.policies == {OURS, *OTHERS}
    for other in OTHERS:
        row = rows[f"G2: capacity, times that of {other}"]
        expected = 30.0 / Imagined.CAPACITY.get(other, 20.0)
        assert row.figure is not None
        assert row.figure.mean == pytest.approx(expected, rel=1e-3)
        assert row.figure.n == 10
    assert rows["G2: capacity, times that of power-of-two"].says().startswith("met")
    assert rows["G2: capacity, times that of round-robin"].says() == "not met"
    for case in regimes():
        row = rows[f"G2: {case.name}: capacity, times the best other's"]
        assert row.figure is not None
        assert row.figure.mean == pytest.approx(1.2, rel=1e-3)
        assert "best other: round-robin" in row.note
    targets = [name for name, row in rows.items() if row.target is not None]
    wanted = {"G2": 4 + 2 + 6, "G3": 3, "G4": 6, "G11": 5}
    assert {goal: sum(n.startswith(goal + ":") for n in targets) for goal in wanted} == wanted
    assert sum(name.startswith("predict:") for name in rows) == 6
    assert rows["G4: SLO of the top-priority tenant at 3× capacity"].says() == "not met"
    assert all(row.figure is None or row.figure.n for row in rows.values())


def test_the_json_figures_carry_interval_target_and_verdict() -> None:
    runs = Imagined()
    context = Context(runs, Search(runs, 1.05), [1, 2], [1], OTHERS)
    tables = asyncio.run(routing.table(context, ["g11"]))
    found = routing.figures(tables)["G11: Jain's index of the work served"]
    assert found["mean"] == pytest.approx(0.99)
    assert (found["n"], found["target"], found["verdict"]) == (2, 0.98, "met")


def test_the_runners_of_the_benchmark_are_the_simulators_own_with_more_told() -> None:
    small = mixed_tiers(replicas=2, duration_s=30.0, warmup_s=0.0, cooldown_s=0.0).at_rate(4.0)
    plain = measure(simulate(small, OURS, 3), small)
    watched = measure(run_watched(small, OURS, 3), small)
    assert plain.tiers == watched.tiers
    assert Target(1.5) == g2.AGAINST_OTHERS
    assert g4.OVERLOADS == ((3.0, 0.90), (10.0, 0.80))


def test_a_quick_run_keeps_the_proportions_of_time() -> None:
    shifting = next(case.scenario for case in regimes() if case.name == "mix shifts")
    quick = with_times(shifting, 0.25)
    assert quick.duration_s == 0.25 * shifting.duration_s
    assert quick.measured_s == tuple(0.25 * each for each in shifting.measured_s)
    shift, shorter = (each.workload.open_loop[0].mix.shifts[0] for each in (shifting, quick))
    assert (shorter.at_s, shorter.over_s) == (0.25 * shift.at_s, 0.25 * shift.over_s)
    assert shorter.weights() == shift.weights()
    assert quick.tiers == shifting.tiers
    assert quick.workload.open_loop[0].arrivals == shifting.workload.open_loop[0].arrivals


def test_prefix_affinity_is_least_requests_where_prompts_share_nothing() -> None:
    assert [case.name for case in (MIXED, *regimes()) if case.shares_prefixes] == [
        "prefix-heavy sessions"
    ]
    small = mixed_tiers(replicas=4, duration_s=30.0, warmup_s=0.0, cooldown_s=0.0).at_rate(8.0)
    one, other = (simulate(small, name, 1) for name in ("prefix-affinity", "least-requests"))
    placed = [[outcome.replica for outcome in run.outcomes] for run in (one, other)]
    assert placed[0] == placed[1]
    assert len(set(placed[0])) == 4
