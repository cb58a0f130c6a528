"""Factors on the load now: by the week, by the day, by the trend, or none."""

import math

import pytest

from autoscaling.forecast import DAY_S, LEAST, MOST, WEEK_S, Forecast
from autoscaling.headroom import AIM, Headroom

STEP_S = 60.0


def daily(at_s: float) -> float:
    return 10.0 + 6.0 * math.sin(2.0 * math.pi * at_s / DAY_S)


def taught(days: float, load=daily) -> Forecast:  # type: ignore[no-untyped-def]
    forecast = Forecast()
    for step in range(round(days * DAY_S / STEP_S)):
        forecast.learn(step * STEP_S, load(step * STEP_S))
    return forecast


def test_nothing_is_forecast_from_nothing() -> None:
    assert Forecast().outlook(0.0, 300.0).factor == 1.0


@pytest.mark.parametrize("hour", [2.0, 6.5, 13.0, 20.0])
def test_after_a_day_the_same_hour_is_known(hour: float) -> None:
    forecast = taught(2.0)
    now = 2 * DAY_S + hour * 3600.0
    found = forecast.outlook(now, 1800.0)
    assert found.source == "day"
    assert found.factor == pytest.approx(daily(now + 1800.0) / daily(now), rel=0.03)


def test_after_a_week_weekends_are_known_as_such() -> None:
    def load(at_s: float) -> float:
        return daily(at_s) * (0.4 if at_s % WEEK_S >= 5 * DAY_S else 1.0)

    friday = 11.9 * DAY_S
    found = taught(7.5, load).outlook(friday, 0.2 * DAY_S)
    assert found.source == "week"
    # By the day alone it would be twice as much.
    assert found.factor == pytest.approx(load(friday + 0.2 * DAY_S) / load(friday), rel=0.03)


def test_a_ramp_that_no_profile_knows_is_seen_as_a_trend() -> None:
    forecast = Forecast()
    for step in range(60):
        forecast.learn(step * STEP_S, 10.0 + step * 0.2)
    found = forecast.outlook(3600.0, 600.0)
    assert found.source == "trend"
    assert 1.02 < found.factor < 1.12


def test_factors_are_bounded() -> None:
    forecast = taught(2.0, lambda at_s: 1.0 if at_s % DAY_S < DAY_S / 2 else 100.0)
    assert forecast.outlook(2.45 * DAY_S, 3600.0 * 3).factor == MOST
    assert forecast.outlook(2.95 * DAY_S, 3600.0 * 3).factor == LEAST


def test_a_clock_that_is_set_back_teaches_nothing() -> None:
    forecast = taught(2.0)
    before = forecast.outlook(2.2 * DAY_S, 600.0)
    forecast.learn(1.0 * DAY_S, 1e6)
    assert forecast.outlook(2.2 * DAY_S, 600.0) == before


def test_headroom_becomes_the_excess_that_forecasts_had() -> None:
    headroom = Headroom(0.005)
    for step in range(20_000):
        now = step * 15.0
        headroom.expect(now, 16.0)
        # Every window of 300 s holds one peak of 20.
        headroom.seen(now, 20.0 if step % 20 == 0 else 15.0, 300.0)
    assert headroom.over(16.0) == pytest.approx(4.0, abs=0.5)
    assert headroom.over(64.0) > headroom.over(16.0)


def test_headroom_may_be_below_zero_where_forecasts_are_too_high() -> None:
    headroom = Headroom(0.005)
    for step in range(20_000):
        headroom.expect(step * 15.0, 20.0)
        headroom.seen(step * 15.0, 15.0, 300.0)
    assert headroom.over(20.0) < 0.0


def test_misses_settle_below_the_share_that_is_allowed() -> None:
    headroom = Headroom(0.01, gain=30.0)
    level = headroom.level
    for _ in range(400):
        headroom.missed(0.01 * AIM, 1.0)
    assert headroom.level == pytest.approx(level)
    headroom.missed(0.01, 1.0)
    assert headroom.level > level
    headroom.missed(1.0, 0.1)
    assert headroom.level > level
    for _ in range(2_000):
        headroom.missed(0.0, 1.0)
    assert headroom.level < level
