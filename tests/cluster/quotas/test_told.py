import pytest

from cluster.quotas.told import duration, error_of, headers_of
from cluster.quotas.work import Refused, Subject, Uses, Verdict
from cluster.tenants.caller import Limits


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.12, "120ms"), (1.0, "1s"), (59.2, "1m0s"), (360.0, "6m0s"), (3723, "1h2m3s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_bound_with_least_left_is_told() -> None:
    subjects = [
        Subject("tenant:a", Limits(requests_per_minute=100, tokens_per_minute=1000)),
        Subject("key:k", Limits(requests_per_minute=10)),
    ]
    uses = (Uses(95, 200, newest_slot=200), Uses(2, 200, newest_slot=200))
    told = headers_of(subjects, Verdict(None, uses, 200, 100.0))
    assert told == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "1m1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "800",
        "x-ratelimit-reset-tokens": "1m1s",
    }


def test_nothing_is_told_where_nothing_is_limited_by_the_minute() -> None:
    subject = Subject("tenant:a", Limits(tokens_per_day=5))
    assert headers_of([subject], Verdict(None, (Uses(),), 1, 1.0)) == {}


def test_refusals_are_openais() -> None:
    minute = error_of(Refused("key:k", "requests_per_minute", 60, 12.3))
    assert (minute.status, minute.type, minute.code) == (
        429, "rate_limit_error", "rate_limit_exceeded",
    )  # fmt: skip
    assert minute.headers() == {"retry-after": "13"}
    month = error_of(Refused("tenant:a", "cost_per_month", 99.5, 86_400.0))
    assert (month.status, month.type, month.code) == (
        429, "insufficient_quota", "insufficient_quota",
    )  # fmt: skip
    assert month.headers() == {"retry-after": "86400", "x-should-retry": "false"}
    assert "99.50 cost per month" in month.message
    assert "tenant:a" not in month.message
