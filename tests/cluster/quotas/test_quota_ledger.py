"""The books of one process: windows, budgets, reservations."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.quotas.ledger import DAY_S, Change, Ledger, booked, month_begins, month_of
from cluster.quotas.work import Subject, Work, is_behind, local_share, subjects_of
from cluster.tenants.caller import Limited, Limits

NOON = 1_795_348_800.0 + 100.25  # some time after 12:00 UTC on 2026-11-22


def subject(name: str = "tenant:a", **limits: float) -> Subject:
    return Subject(name, Limits(**limits))  # type: ignore[arg-type]


def work(tokens: int = 10, cost: float = 0.0, requests: int = 1) -> Work:
    return Work(requests, tokens, float(tokens), cost)


def test_no_minute_holds_more_requests_than_the_limit() -> None:
    ledger, limited, admitted = Ledger(), subject(requests_per_minute=10), []
    for tick in range(4000):  # 4 a second for 1000 s
        now = NOON + tick / 4
        if ledger.reserve([limited], work(), now).refused is None:
            admitted.append(now)
    busiest = max(sum(t <= each < t + 60.0 for each in admitted) for t in admitted)
    assert busiest == 10
    assert len(admitted) >= 0.98 * 10 * 1000 / 60


def test_what_is_told_to_wait_gets_in_after_the_wait_and_not_before() -> None:
    ledger, limited = Ledger(), subject(tokens_per_minute=100)
    ledger.reserve([limited], work(60), NOON)
    ledger.reserve([limited], work(40), NOON + 20)
    refused = ledger.reserve([limited], work(50), NOON + 30).refused
    assert refused is not None
    assert refused.kind == "tokens_per_minute"
    at = NOON + 30 + refused.wait_s
    assert ledger.reserve([limited], work(50), at - 0.6).refused is not None
    assert ledger.reserve([limited], work(50), at).refused is None


def test_one_subject_without_room_refuses_for_all_and_nothing_is_booked() -> None:
    ledger = Ledger()
    wide, narrow = (
        subject("tenant:a", requests_per_minute=5),
        subject("key:k", requests_per_minute=1),
    )
    assert ledger.reserve([wide, narrow], work(), NOON).refused is None
    refused = ledger.reserve([wide, narrow], work(), NOON).refused
    assert refused is not None
    assert refused.name == "key:k"
    assert ledger.uses("tenant:a", NOON).requests == 1


def test_tiers_are_counted_apart() -> None:
    limited = (
        Limited("tenant:a", None, Limits(requests_per_minute=9)),
        Limited("tenant:a", "high", Limits(requests_per_minute=1)),
    )
    assert [each.name for each in subjects_of(limited, "low")] == ["tenant:a"]
    assert [each.name for each in subjects_of(limited, "high")] == ["tenant:a", "tenant:a/high"]


def test_a_burst_cannot_overdraw_a_budget_and_gets_back_what_it_did_not_use() -> None:
    ledger, limited = Ledger(), subject(tokens_per_day=1000)
    slots = []
    for _ in range(50):
        verdict = ledger.reserve([limited], work(300), NOON)
        if verdict.refused is None:
            slots.append(verdict.slot)
    assert len(slots) == 3
    for slot in slots:
        ledger.change(["tenant:a"], Change(slot, 0, -200, -1, held=-300.0, used=100.0), NOON + 100)
    assert ledger.uses("tenant:a", NOON + 100).day_weighted == pytest.approx(300)
    assert ledger.reserve([limited], work(700), NOON + 100).refused is None
    assert ledger.reserve([limited], work(1), NOON + 100).refused is not None


def test_concurrency_is_freed_by_the_end_of_a_request_only() -> None:
    ledger, limited = Ledger(), subject(concurrent_requests=2)
    slots = [ledger.reserve([limited], work(), NOON).slot for _ in range(2)]
    assert ledger.reserve([limited], work(), NOON + 3600).refused is not None
    ledger.change(["tenant:a"], Change(slots[0], concurrent=-1), NOON + 3600)
    assert ledger.reserve([limited], work(), NOON + 3600).refused is None


def test_budgets_begin_anew_with_their_day_and_month() -> None:
    ledger = Ledger()
    limited = subject(tokens_per_day=100, cost_per_month=5.0)
    verdict = ledger.reserve([limited], work(100, cost=4.0), NOON)
    ledger.change(["tenant:a"], Change(verdict.slot, 0, 0, -1, -100, -4.0, 100, 4.0), NOON)
    refused = ledger.reserve([limited], work(1), NOON).refused
    assert refused is not None
    assert (NOON + refused.wait_s) % DAY_S == 0
    tomorrow = NOON + refused.wait_s
    assert ledger.reserve([limited], work(1, cost=0.5), tomorrow).refused is None
    dear = ledger.reserve([limited], work(1, cost=2.0), tomorrow).refused
    assert dear is not None
    assert dear.kind == "cost_per_month"
    first = datetime.fromtimestamp(tomorrow + dear.wait_s, UTC)
    assert (first.day, first.hour, first.minute) == (1, 0, 0)


def test_what_is_larger_than_the_limit_gets_in_alone() -> None:
    ledger, limited = Ledger(), subject(tokens_per_minute=100)
    assert ledger.reserve([limited], work(13_000), NOON).refused is None
    assert ledger.reserve([limited], work(1), NOON + 1).refused is not None


def test_a_limit_of_nothing_lets_nothing_in() -> None:
    assert Ledger().reserve([subject(tokens_per_day=0)], work(), NOON).refused is not None


def test_what_a_long_request_owes_counts_when_it_ends() -> None:
    ledger, limited = Ledger(), subject(tokens_per_minute=1000)
    slot = ledger.reserve([limited], work(500), NOON).slot
    late = NOON + 300
    ledger.change(["tenant:a"], Change(slot, tokens=200), late)
    assert ledger.uses("tenant:a", late).tokens == 200
    ledger.change(["tenant:a"], Change(slot, tokens=-50), late)  # nothing to give back any more
    assert ledger.uses("tenant:a", late).tokens == 200


def test_requests_stand_behind_from_the_soft_share_on() -> None:
    ledger = Ledger()
    limited = subject(requests_per_minute=10, soft_share=0.8)
    behind = [
        is_behind(limited, ledger.reserve([limited], work(), NOON).uses[0]) for _ in range(10)
    ]
    assert behind == [False] * 8 + [True] * 2


def test_shares_add_up_to_no_more_than_the_limit_and_are_never_nothing() -> None:
    limits = Limits(requests_per_minute=100, concurrent_requests=2, cost_per_day=9.0)
    share = local_share(limits, 3)
    assert share.requests_per_minute == 33
    assert share.concurrent_requests == 1
    assert share.cost_per_day == pytest.approx(3.0)
    assert local_share(Limits(tokens_per_day=0), 3).tokens_per_day == 0


def test_books_are_bounded() -> None:
    ledger = Ledger(max_books=10)
    for number in range(100):
        ledger.reserve([subject(f"key:{number}", requests_per_minute=1)], work(), NOON)
    assert len(ledger) == 10


def test_months_follow_the_calendar() -> None:
    for year, month in ((2026, 11), (2026, 12), (2027, 1), (2028, 2)):
        begins = datetime(year, month, 1, tzinfo=UTC).timestamp()
        assert month_begins(month_of(begins)) == begins
        assert month_of(begins - 1) == month_of(begins) - 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 40), st.integers(1, 60), st.integers(0, 90), st.floats(0, 200)),
        max_size=60,
    )
)
def test_everything_is_booked_once_and_leaves_the_books_again(
    steps: list[tuple[float, int, int, float]],
) -> None:
    """Each step: a pause, tokens reserved, tokens really used, and how long after."""
    ledger, limited, now = Ledger(), subject(tokens_per_minute=200, concurrent_requests=4), NOON
    running: list[tuple[float, int, int, int]] = []
    used = 0
    for pause, tokens, real, takes in steps:
        now += pause
        for entry in sorted(each for each in running if each[0] <= now):
            running.remove(entry)
            _, slot, reserved, spent = entry
            ledger.change(
                ["tenant:a"], Change(slot, 0, spent - reserved, -1, -reserved, 0.0, spent), now
            )
            used += spent
        verdict = ledger.reserve([limited], work(tokens), now)
        if verdict.refused is None:
            running.append((now + takes, verdict.slot, tokens, real))
        uses = ledger.uses("tenant:a", now)
        assert uses.concurrent == len(running) <= 4
        assert uses.held == pytest.approx(sum(each[2] for each in running))
        assert uses.month_weighted - uses.held == pytest.approx(used)
        assert uses.tokens >= 0
    later = now + 1000
    for _, slot, reserved, spent in running:
        change = Change(slot, 0, spent - reserved, -1, -reserved, 0.0, spent)
        ledger.change(["tenant:a"], change, later)
    end = ledger.uses("tenant:a", later + 61)
    assert (end.requests, end.tokens, end.concurrent) == (0, 0, 0)
    assert end.held == pytest.approx(0.0)


def test_an_admission_is_the_change_that_undoes_it() -> None:
    change = booked(work(7, cost=0.5), 12)
    assert (change.slot, change.tokens, change.held_cost) == (12, 7, 0.5)
