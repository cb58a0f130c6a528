"""Sizes that the policy asks for: at once upwards, late and rarely downwards, never blind."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from autoscaling.policy import Policy, PolicySettings
from autoscaling.signals import PoolSignals, Signals
from autoscaling.simulator.scaling.runs import SLOS, kind_of
from autoscaling.steady import ReversalBudget
from cluster.schedule import parse_rule
from tests.autoscaling.scaling_world import INTERVAL_S, QUICK, capacity, clock, pool, signals


class Cluster:
    """Replicas that are ready at once, resized by the policy; ``step`` is one interval."""

    def __init__(self, policy: Policy, replicas: int = 1) -> None:
        self.policy = policy
        self.now = 0.0
        self.sizes = {each.name: replicas for each in policy.pools}

    def step(self, load: float, **more: object) -> int:
        there = {name: (size, 0) for name, size in self.sizes.items()}
        found = signals(self.now, load, pools=there, **more)  # type: ignore[arg-type]
        decision = self.policy.decide(found, clock(self.now))
        self.sizes = {each.pool: each.wanted for each in decision.pools}
        self.now += INTERVAL_S
        return next(iter(self.sizes.values()))

    def steps(self, seconds: float, load: float, **more: object) -> list[int]:
        return [self.step(load, **more) for _ in range(round(seconds / INTERVAL_S))]


def cluster(settings: PolicySettings = QUICK, replicas: int = 1, **changes: object) -> Cluster:
    return Cluster(Policy([pool(**changes)], SLOS, settings), replicas)  # type: ignore[arg-type]


def test_a_steady_load_gets_what_it_fills_and_headroom() -> None:
    size = cluster().steps(1800, 10.0)[-1]
    assert 10 < size <= 15


def test_a_jump_is_followed_in_one_step_and_not_one_by_one() -> None:
    world = cluster(cold_start_s=300.0)
    before = world.steps(1800, 4.0)[-1]
    jumped = world.steps(90, 20.0)
    assert max(after - earlier for earlier, after in itertools.pairwise(jumped)) >= 3
    assert jumped[-1] >= before + 10


def test_what_waits_counts_before_any_rate_was_learned() -> None:
    world = cluster(cold_start_s=300.0)
    world.steps(1800, 2.0)
    # As many as ten replicas serve from now until a new one would help.
    waits = 10.0 * capacity("low").per_s * (300.0 + INTERVAL_S)
    assert world.step(2.0, queued=waits, running=0.0) >= 10


def test_a_queue_that_is_gone_before_a_replica_could_help_buys_none() -> None:
    world = cluster(cold_start_s=300.0)
    before = world.steps(1800, 2.0)[-1]
    seats = capacity("low").batch
    assert world.step(2.0, queued=3.0 * seats, running=1.0 * seats) == before


def test_shrinking_waits_for_the_hold_time_and_then_goes_in_one_step() -> None:
    world = cluster(replace(QUICK, hold_s=600.0))
    high = world.steps(3600, 12.0)[-1]
    after = world.steps(1800, 3.0)
    kept_s = sum(size == high for size in after) * INTERVAL_S
    assert kept_s >= 600.0
    assert min(after) <= 6
    assert max(a - b for a, b in itertools.pairwise(after)) >= 3


@pytest.mark.parametrize("freshness", ["partial", "stale", "missing"])
def test_without_fresh_signals_nothing_shrinks(freshness: str) -> None:
    world = cluster()
    size = world.steps(3600, 12.0)[-1]
    assert world.steps(3600, 0.0, freshness=freshness) == [size] * 240
    assert world.policy.decisions
    assert next(iter(world.policy.decisions)).pools[0].limit == ("stale_signals")


def test_after_a_blind_time_the_hold_time_begins_anew() -> None:
    world = cluster()
    size = world.steps(3600, 12.0)[-1]
    world.steps(3600, 0.0, freshness="stale")
    assert world.step(1.0) == size


def test_a_part_of_the_gateways_can_still_make_it_grow() -> None:
    world = cluster()
    size = world.steps(1800, 4.0)[-1]
    assert world.steps(300, 15.0, freshness="partial")[-1] > size


def test_a_policy_that_was_just_started_keeps_what_is_there() -> None:
    world = cluster(replicas=9)
    assert world.step(0.5) == 9


def test_replicas_that_never_get_ready_are_not_asked_for_twice() -> None:
    policy = Policy([pool()], SLOS, QUICK)
    sizes = []
    for step in range(240):
        there = {"main": (4, max(0, (sizes or [4])[-1] - 4))}
        found = signals(step * INTERVAL_S, 10.0, pools=there)
        sizes.append(policy.decide(found, clock(found.at_s)).of("main").wanted)
    assert max(sizes) <= 16


def test_bounds_hold_and_say_so() -> None:
    world = cluster(at_least=3, at_most=6)
    assert world.steps(3600, 0.1)[-1] == 3
    world.steps(300, 30.0)
    (found,) = next(iter(world.policy.decisions)).pools
    assert (found.wanted, found.limit, found.limited_by) == (6, "at_most", "max_replicas")


def test_a_schedule_raises_the_least_while_it_holds() -> None:
    rule = parse_rule("weekdays 08:00-19:00 >= 4")
    world = cluster(rules=(rule,))
    world.steps(3600, 0.5)
    world.now = 8 * 3600.0
    assert world.step(0.5) == 4
    assert next(iter(world.policy.decisions)).pools[0].limited_by == rule.text
    world.now = 19 * 3600.0
    assert world.steps(3600, 0.5)[-1] < 4


def test_no_request_for_long_means_no_replica_and_the_first_one_wakes_it() -> None:
    world = cluster(replace(QUICK, idle_s=600.0), at_least=0)
    world.steps(600, 1.0)
    sizes = world.steps(3600, 0.0)
    assert sizes[-1] == 0
    assert sizes.index(0) * INTERVAL_S >= 600.0
    assert world.step(0.0, queued=1.0) >= 1


def test_one_replica_stays_where_zero_is_not_allowed() -> None:
    assert cluster(at_least=1).steps(7200, 0.0)[-1] == 1


def test_misses_raise_the_headroom_and_calm_lowers_it() -> None:
    calm, missing = cluster(), cluster()
    for world, attained in ((calm, 1.0), (missing, 0.9)):
        for hour in range(12):
            world.steps(1800, 10.0, attained=attained)
            world.steps(1800, 11.0 + hour % 3, attained=attained)
    found = [next(iter(world.policy.decisions)) for world in (calm, missing)]
    assert found[0].level < found[1].level
    assert found[0].headroom < found[1].headroom


def test_standbys_cover_what_is_rare_and_the_awake_what_is_near() -> None:
    plain = cluster(cold_start_s=300.0)
    resting = cluster(cold_start_s=300.0, max_asleep=50)
    for _ in range(24):
        for world in (plain, resting):
            world.steps(1500, 10.0, attained=0.995)
            world.steps(300, 16.0, attained=0.995)
    (awake,) = next(iter(resting.policy.decisions)).pools
    (whole,) = next(iter(plain.policy.decisions)).pools
    assert awake.wanted <= whole.wanted
    assert awake.asleep > 0


def test_a_tier_moves_into_a_pool_that_has_room_before_anything_is_bought() -> None:
    pools = [
        pool("quick", tiers=frozenset(["low"]), lends_to=frozenset(["medium", "high"])),
        pool("deep", tiers=frozenset(["medium", "high"]), lends_to=frozenset(["low"])),
    ]
    policy = Policy(pools, SLOS, QUICK)
    world = Cluster(policy)
    world.sizes = {"quick": 20, "deep": 1}
    world.step(8.0)
    # A pool that is larger than its own tiers need lends: nothing is bought beside it.
    assert world.sizes["deep"] == 1
    world.sizes = {"quick": 1, "deep": 1}
    fresh = Cluster(Policy(pools, SLOS, QUICK))
    fresh.steps(600, 8.0)
    assert fresh.sizes["deep"] > 1


def test_what_is_cheaper_for_a_tier_is_bought_first() -> None:
    dear = pool("dear", gpu_cost=10.0)
    cheap = pool("cheap", kind=kind_of("H200", 1), gpu_cost=1.0)
    world = Cluster(Policy([dear, cheap], SLOS, QUICK))
    world.steps(1800, 8.0)
    assert world.sizes["cheap"] > world.sizes["dear"] == 1


def test_a_decision_tells_what_it_followed_from() -> None:
    world = cluster()
    world.steps(600, 8.0)
    told = next(iter(world.policy.decisions)).as_dict()
    assert told["freshness"] == "fresh"
    assert told["expected"] > 0  # type: ignore[operator]
    assert "expected within" in str(told["pools"])
    assert len(world.policy.decisions) == 40


def test_reversals_are_paid_before_they_are_made() -> None:
    budget = ReversalBudget(per_h=1.0, saved=2.0)
    assert budget.allows_shrinking(0.0)
    budget.moved(5, 4)
    assert budget.allows_shrinking(15.0)  # further down is no reversal
    budget.moved(4, 5)
    assert not budget.allows_shrinking(30.0)
    assert not budget.allows_shrinking(3600.0)
    assert budget.allows_shrinking(7300.0)


@effort(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.0, 30.0), min_size=30, max_size=90))
def test_however_load_jumps_it_never_turns_more_often_than_allowed(loads: list[float]) -> None:
    world = cluster()
    sizes = [size for load in loads for size in world.steps(120, load)]
    moves = [b - a for a, b in itertools.pairwise(sizes) if a != b]
    turns = sum(a * b < 0 for a, b in itertools.pairwise(moves))
    hours = len(sizes) * INTERVAL_S / 3600.0
    assert turns <= hours + 3.0


@effort(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0.0, 60.0), st.sampled_from(["fresh", "stale", "partial"]))))
def test_sizes_keep_their_bounds_whatever_is_told(told: list[tuple[float, str]]) -> None:
    world = cluster(at_least=2, at_most=9)
    world.sizes = {"main": 5}
    for load, freshness in told:
        assert 2 <= world.step(load, freshness=freshness) <= 9


def test_signals_without_tiers_decide_nothing_new() -> None:
    policy = Policy([pool()], SLOS, QUICK)
    found = Signals("model", 0.0, 0.0, "missing", {}, {"main": PoolSignals("main", 3)})
    assert policy.decide(found, clock(0.0)).of("main").wanted == 3
