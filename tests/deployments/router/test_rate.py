"""The rate of output as a fading average."""

import pytest

from deployments.router.rate import HALF_LIFE_S, RateMeter


def test_a_steady_stream_shows_its_rate() -> None:
    meter = RateMeter()
    for step in range(2000):
        meter.add(5.0, now=0.1 * step)
    assert meter.per_s(now=200.0) == pytest.approx(50.0, rel=0.02)


def test_the_rate_halves_with_each_half_life_of_silence() -> None:
    meter = RateMeter()
    meter.add(1000.0, now=0.0)
    before = meter.per_s(now=0.0)
    assert meter.per_s(now=HALF_LIFE_S) == pytest.approx(before / 2)
    assert meter.per_s(now=3 * HALF_LIFE_S) == pytest.approx(before / 8)


def test_nothing_seen_is_a_rate_of_zero() -> None:
    assert RateMeter().per_s(now=5.0) == 0.0


def test_reading_the_rate_does_not_change_it() -> None:
    meter = RateMeter()
    meter.add(10.0, now=5.0)
    assert meter.per_s(now=6.0) == meter.per_s(now=6.0) > 0.0
