"""Figures of outcomes that were made by hand, so that each can be checked with a pencil."""

import math

import pytest

from autoscaling.simulator.result import RunResult, Sample
from autoscaling.simulator.summary import MAX_SAMPLES, Summary, jain, quantile, summarise
from autoscaling.simulator.work import Outcome
from tests.autoscaling.making import lost, scenario, served
from tests.autoscaling.queue_world import run

OPEN = {"open_loop": [{}]}
TIERS = {"low": {"slo": {"ttft_s": 1.0, "tpot_ms": 15.0}}}


def summary(*outcomes: Outcome, series: list[Sample] | None = None, **settings: object) -> Summary:
    world = scenario(OPEN, tiers=TIERS, **settings)
    return summarise(RunResult(list(outcomes), 7200.0, 0.1, series or []), world)


def test_a_request_keeps_its_slo_only_in_every_part() -> None:
    found = summary(
        served(),
        served(ttft_s=1.0),
        served(ttft_s=1.001),
        served(tpot_s=0.016),
    )
    assert found.overall.attainment == 0.5
    assert found.overall.goodput_per_s == 2 / 100
    assert found.overall.wasted_share == 0.5
    assert found.tiers["low"] == found.overall
    assert found.tiers["high"].requests == 0
    assert math.isnan(found.tiers["high"].attainment)


def test_the_answer_begins_with_the_first_token_of_its_channel() -> None:
    # After half the tokens: 0.5 + 50 × 0.010 = 1.0 s.
    assert summary(served()).overall.ttfa.p50 == pytest.approx(1.0)


def test_a_reply_of_one_token_has_no_time_per_token_and_keeps_that_part() -> None:
    found = summary(served(tokens=1))
    assert found.overall.attainment == 1.0
    assert math.isnan(found.overall.tpot.p50)


def test_all_who_do_not_get_their_answer_are_missed_and_told_apart() -> None:
    statuses = ("refused", "expired", "cancelled", "failed", "unfinished")
    found = summary(served(), *(lost(1.0, status, tokens=20) for status in statuses)).overall
    assert found.requests == 6
    assert found.attainment == pytest.approx(1 / 6)
    counted = (found.refused, found.expired, found.cancelled, found.failed, found.unfinished)
    assert counted == (1, 1, 1, 1, 1)
    assert found.finished == 1
    assert found.wasted_share == pytest.approx(100 / 201)


def test_a_retry_is_the_same_request_and_its_wait_counts() -> None:
    turned_away = lost(10.0, "refused")
    soon = served(10.3, ttft_s=0.5, attempt=1, waited_s=0.3)
    late = served(15.0, ttft_s=0.5, attempt=1, waited_s=5.0)
    found = summary(turned_away, soon).overall
    assert (found.requests, found.retries, found.refused, found.attainment) == (1, 1, 1, 1.0)
    assert found.ttft.p50 == pytest.approx(0.8)
    found = summary(turned_away, late).overall
    assert (found.attainment, found.goodput_per_s) == (0.0, 0.0)
    assert found.e2e.p50 == pytest.approx(5.0 + 0.5 + 1.0)


def test_only_requests_first_asked_for_in_the_measured_window_count() -> None:
    found = summary(
        served(9.9),
        served(10.0),
        served(79.9, tier="high"),
        served(80.0),
        # First asked for before the window began.
        served(12.0, attempt=1, waited_s=3.0),
        warmup_s=10.0,
        cooldown_s=20.0,
    )
    assert found.overall.requests == 2
    assert found.overall.retries == 0
    assert found.overall.goodput_per_s == 2 / 70
    assert (found.tiers["low"].requests, found.tiers["high"].requests) == (1, 1)


def test_quantiles_are_those_of_the_values() -> None:
    found = summary(*(served(ttft_s=i / 100, tpot_s=i / 1e4) for i in range(1, 102))).overall
    assert (found.ttft.p50, found.ttft.p90) == (pytest.approx(0.51), pytest.approx(0.91))
    assert found.ttft.p99 == pytest.approx(1.0)
    assert found.tpot.p50 == pytest.approx(0.0051)
    assert list(found.ttft.curve) == sorted(found.ttft.curve)
    assert quantile([1.0, 2.0], 0.5) == 1.5
    assert math.isnan(quantile([], 0.5))


def test_cache_hits_preemptions_and_demotions_are_summed() -> None:
    hit = served(cached_tokens=80, preemptions=2)
    demoted = served(tier="high")
    demoted.served_tier = "medium"
    # Never placed, so its prompt met no cache.
    found = summary(hit, demoted, lost(0.0, "refused", prompt_tokens=10_000)).overall
    assert found.prefix_hit_rate == pytest.approx(80 / 200)
    assert (found.preemptions, found.demoted) == (2, 1)


def test_tenants_are_compared_by_served_work() -> None:
    rich = [served(tenant="a", tokens=100, prompt_tokens=100) for _ in range(3)]
    poor = [served(tenant="b", tokens=100, prompt_tokens=100), lost(0.0, "refused", tenant="b")]
    found = summary(*rich, *poor)
    assert (found.tenants["a"].work, found.tenants["b"].work) == (900, 300)
    assert (found.tenants["a"].attainment, found.tenants["b"].attainment) == (1.0, 0.5)
    assert found.jain == pytest.approx(1200**2 / (2 * (900**2 + 300**2)))
    assert jain([5, 5, 5]) == pytest.approx(1.0)
    assert jain([1, 0, 0, 0]) == pytest.approx(0.25)
    assert math.isnan(jain([0, 0]))


def test_gpu_hours_and_thinned_samples() -> None:
    series = [Sample(float(i), (0, 0, 0), 1, 0.1, 8) for i in range(10_000)]
    found = summary(served(), series=series)
    assert found.gpu_hours == 2.0
    assert MAX_SAMPLES / 2 <= len(found.series) <= MAX_SAMPLES


def test_nothing_measured_is_no_error() -> None:
    found = summary()
    assert found.overall.requests == 0
    assert math.isnan(found.jain)


def test_every_request_of_a_run_ends_in_exactly_one_way() -> None:
    clients = {"patience": {"share": 0.5, "mean_s": 3}, "retry": {"attempts": 2}}
    world = scenario({"open_loop": [{"arrivals": {"rate_per_s": 4}} | clients]})
    found = summarise(run(world, "fifo", 1), world).overall
    ends = found.finished + found.refused + found.expired + found.cancelled + found.failed
    assert ends + found.unfinished == found.requests + found.retries
    assert found.retries > 0
    assert 0 < found.attainment < 1
    assert found.cancelled > 0
