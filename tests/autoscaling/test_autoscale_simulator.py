"""Days by the tick, who knows them all, and the event simulator with its fleet resized."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoscaling.policy import PolicySettings
from autoscaling.simulator.scaling import agree, days, oracle, study
from autoscaling.simulator.scaling.days import DAY_S, TICK_S, Arrivals, Shape
from autoscaling.simulator.scaling.fluid import Pool
from autoscaling.simulator.scaling.runs import (
    LENGTHS,
    SLOS,
    WAKE_S,
    Case,
    kind_of,
    ours,
    plan_of,
    play,
    reversals,
)
from autoscaling.simulator.scaling.scalers import (
    OneByOne,
    OngoingRequests,
    Ours,
    QueueLength,
    Static,
)
from autoscaling.simulator.scaling.world import Resizing, run_autoscaled
from autoscaling.simulator.summary import summarise
from autoscaling.sizing import Sizing
from cluster.cli.app import run
from cluster.config import TIERS
from tests.autoscaling.scaling_world import per_s_of

KIND = kind_of()
REACTIVE = PolicySettings(forecast=False)


def even(per_s: dict[str, float], hours: float) -> Arrivals:
    """The same number in every tick, fractions carried over."""
    ticks = round(hours * 3600.0 / TICK_S)
    counts = {}
    for tier in TIERS:
        whole = np.floor(np.arange(ticks + 1) * per_s[tier] * TICK_S).astype(int)
        counts[tier] = [int(each) for each in np.diff(whole)]
    return Arrivals(TICK_S, np.full(ticks, sum(per_s.values())), counts)


def case(arrivals: Arrivals, cold_start_s: float = 100.0, warmup_s: float = 0.0) -> Case:
    return Case(arrivals, KIND, cold_start_s, 1, warmup_s)


def test_the_days_have_the_statistics_that_they_are_drawn_by() -> None:
    found = days.statistics(days.arrivals(Shape(), 1))
    assert 2.5 < found["largest_15s_over_mean"] < 3.6
    assert 8.0 < found["busiest_over_quietest_hour"] < 16.0
    counts = days.arrivals(Shape(days=1, bursts_a_day=0.0, wander_sigma=0.0), 1)
    noon = np.array(counts.part(9.9 * 3600, 10.1 * 3600).counts["low"])
    assert noon.var() / noon.mean() > 4.0


def test_the_same_seed_brings_the_same_days() -> None:
    first, again, other = (days.arrivals(Shape(days=1), seed).counts for seed in (1, 1, 2))
    assert first == again != other


def test_a_pool_at_its_capacity_holds_and_beyond_it_serves_what_fits() -> None:
    # Late ones stand behind: of 1.3 times the capacity, 1 / 1.3 are served in time and not none.
    for load, low, high in ((0.85, 0.999, 1.0), (1.3, 0.68, 0.80)):
        score = play(case(even(per_s_of(10.0 * load), 1.0)), Static(10), 10)  # type: ignore[arg-type]
        assert low <= score.attained <= high


def test_starting_replicas_are_paid_and_do_not_serve() -> None:
    pool = Pool(Sizing(KIND, SLOS), LENGTHS, 2, 100.0, WAKE_S, 1)
    nothing = even(dict.fromkeys(TIERS, 0.0), 1.0)  # type: ignore[arg-type]
    pool.resize(5)
    assert (pool.ready, pool.starting) == (2, 3)
    for index in range(21):
        pool.tick(nothing, index)
    assert (pool.ready, pool.starting) == (5, 0)
    assert pool.tally.awake_s == pytest.approx(21 * TICK_S * 5)


def test_a_sleeper_wakes_quickly_and_a_shrinking_pool_keeps_the_wanted_sleepers() -> None:
    pool = Pool(Sizing(KIND, SLOS), LENGTHS, 6, 300.0, WAKE_S, 1)
    nothing = even(dict.fromkeys(TIERS, 0.0), 1.0)  # type: ignore[arg-type]
    pool.resize(3, 2)
    assert (pool.ready, pool.asleep) == (3, 2)
    pool.resize(5, 0)
    for index in range(3):
        pool.tick(nothing, index)
    assert pool.ready == 5


def test_the_clairvoyant_bridges_short_gaps_and_leaves_long_ones() -> None:
    need = np.array([2.0] * 10 + [0.5] * 10 + [2.0] * 10 + [0.5] * 100 + [2.0] * 10)
    found = oracle.sizes(need, 5.0, 100.0)
    assert found[:30] == [2] * 30
    assert found[30:130] == [1] * 100
    assert oracle.replica_seconds(found, 5.0, 100.0) == 5.0 * sum(found) + 100.0
    assert max(oracle.smoothed(np.array([1.0, 1.0, 9.0, 1.0, 1.0]), 2)) == 1.0


def test_nobody_beats_the_clairvoyant_while_keeping_as_much() -> None:
    from autoscaling.simulator.scaling.runs import clairvoyant

    found = case(days.arrivals(Shape(days=1), 3), 300.0)
    known = clairvoyant(found)
    assert known.least.attained >= study.TARGET
    assert known.least.gpu_hours <= known.whole.gpu_hours * 1.05
    for scaler in (Static(known.peak), ours(found, REACTIVE)):
        score = play(found, scaler, 16)
        assert score.attained < study.TARGET or score.gpu_hours > known.least.gpu_hours


def test_the_policy_needs_far_less_than_a_static_peak() -> None:
    found = case(days.arrivals(Shape(days=2), 4), 100.0, 0.5 * DAY_S)
    mine = play(found, ours(found, REACTIVE), 16)
    need = oracle.need(found.arrivals, found.sizing(), LENGTHS)
    static = play(found, Static(int(need.max()) + 1), 16)
    assert mine.attained > 0.98
    assert mine.gpu_hours < 0.8 * static.gpu_hours
    assert mine.reversals_per_h <= 1.2


@pytest.mark.parametrize(
    "scaler",
    [OngoingRequests(60), QueueLength(3, 60), OneByOne(300.0, 0.6)],
    ids=lambda scaler: type(scaler).__name__,
)  # fmt: skip
def test_every_baseline_follows_the_day(scaler: object) -> None:
    found = case(days.arrivals(Shape(days=1), 5))
    score = play(found, scaler, 16)  # type: ignore[arg-type]
    sizes = [size for _, size in score.sizes]
    assert min(sizes) < 12 < max(sizes)


def test_without_signals_the_size_is_kept_and_the_load_is_served() -> None:
    rates = per_s_of(8.0)
    arrivals = even(rates, 3.0)  # type: ignore[arg-type]
    found = case(arrivals)
    silent = ((3600.0, 7200.0),)
    scaler = Ours(plan_of(found), SLOS, replace(REACTIVE, hold_s=120.0), silent)
    score = play(found, scaler, 12)
    sizes_then = {size for at_s, size in score.sizes if 3600.0 <= at_s < 7200.0}
    assert not sizes_then
    assert score.attained > 0.99


def test_turns_are_counted_at_changes_of_direction_only() -> None:
    moves = [(0.0, 4), (1.0, 5), (2.0, 6), (3.0, 3), (4.0, 2), (5.0, 4)]
    assert reversals(moves) == [3.0, 5.0]


# ------------------------------------------------------------------ single requests


def small(**changes: object):  # type: ignore[no-untyped-def]
    settings: dict[str, object] = {
        "shape": Shape(per_s=6.0, gap_cv=1.0, bursts_a_day=0.0),
        "seed": 1,
        "first_s": 9 * 3600.0,
        "hours": 0.3,
        "cold_start_s": 60.0,
        "replicas": 3,
        **changes,
    }
    return agree.scenario_of(**settings)  # type: ignore[arg-type]


def test_both_simulators_agree_on_what_the_policy_does() -> None:
    found = agree.compare(small(), 1, REACTIVE, 9 * 3600.0)
    assert found.requests > 2000
    assert found.events_attained > 0.97
    assert abs(found.ticks_attained - found.events_attained) < 0.03
    assert found.ticks_gpu_hours == pytest.approx(found.events_gpu_hours, rel=0.3)


def test_a_shrinking_fleet_cuts_no_request_and_frees_replicas_within_half_a_minute() -> None:
    scenario = small(replicas=9)
    result, world = run_autoscaled(
        scenario, 1, Resizing(replace(REACTIVE, hold_s=60.0), at_least=2)
    )
    assert min(size for _, size in world.sizes) <= 5
    assert world.freed_s
    assert max(world.freed_s) <= 30.0
    assert {each.status for each in result.outcomes} == {"finished"}
    whole = [each for each in result.outcomes if each.arrival.tier == "high"]
    assert all(each.tokens == each.arrival.output_tokens for each in whole)
    assert summarise(result, scenario).overall.attainment > 0.95


def test_while_metrics_are_gone_nothing_shrinks_and_then_it_does() -> None:
    scenario = small(replicas=9)
    gone = ((40.0, 700.0),)
    _, world = run_autoscaled(
        scenario, 1, Resizing(replace(REACTIVE, hold_s=60.0), at_least=2, gone=gone)
    )
    sizes = dict(world.sizes)
    before = [size for at_s, size in sizes.items() if 55.0 <= at_s < 700.0]
    assert set(before) == {9}
    assert list(sizes.values())[-1] < max(before)


def test_replicas_that_never_get_ready_or_find_no_place_are_asked_for_once() -> None:
    for resizing in (
        Resizing(REACTIVE, at_most=12, never_ready=100),
        Resizing(REACTIVE, at_most=12, place=2),
    ):
        _, world = run_autoscaled(small(replicas=1, hours=0.2), 1, resizing)
        assert max(size for _, size in world.sizes) <= 12
        assert sum(each.up for each in world.replicas) <= 2
        assert len(world.replicas) <= 14


def test_the_command_prints_every_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "BASELINES", {"TTFT ±1": study.BASELINES["TTFT ±1"]})
    asked = ["autoscale", "simulate", "--days", "2", "--rate", "20", "--json", "found.json"]
    assert run(asked) == 0
    printed = capsys.readouterr().out
    for name in (study.ORACLE, study.STATIC, study.OURS, study.STANDBYS, "TTFT ±1"):
        assert name in printed
    figures = json.loads(Path("found.json").read_text())
    assert all(each["gpu_hours"] > 0 for each in figures)


def test_the_log_of_a_cluster_that_is_not_up_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIREME_HOME", str(tmp_path))
    assert run(["autoscale", "log"]) == 1
    assert "is not up" in capsys.readouterr().err
