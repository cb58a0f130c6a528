"""Accounts of several gateways become one picture, with what is not known said."""

import math

import pytest

from autoscaling.signals import (
    BURST_WINDOWS,
    FORGET_AFTER_S,
    STALE_AFTER_S,
    Ledger,
    PoolSignals,
    Signals,
    TierSignals,
    dispersion,
)
from cluster.accounts import GatewayAccount, ReplicaAccount, TierAccount

OBJECTIVES = {"low": (1.0, 0.015), "medium": (2.0, 0.025), "high": (3.0, 0.08)}
PRIORS = {"low": (1000.0, 1300.0), "medium": (1000.0, 4000.0), "high": (1000.0, 13000.0)}


def ledger() -> Ledger:
    return Ledger("model", ["main", "spare"], OBJECTIVES, PRIORS)  # type: ignore[arg-type]


def account(
    gateway: str,
    arrived: int,
    *replicas: ReplicaAccount,
    tokens: tuple[float, float] = (100.0, 400.0),
    **counts: float,
) -> GatewayAccount:
    """All arrivals are low-effort ones, placed at once."""
    filled = {
        "placed": arrived,
        "prompt_tokens": arrived * tokens[0],
        "expected_tokens": arrived * tokens[1],
        **counts,
    }
    return GatewayAccount(
        gateway,
        (TierAccount("model", "low", arrived, **filled),),  # type: ignore[arg-type]
        replicas,
    )


def replica(name: str, pool: str = "main", **changes: object) -> ReplicaAccount:
    return ReplicaAccount(name, "model", pool, **changes)  # type: ignore[arg-type]


def test_arrivals_of_all_gateways_add_up_over_the_interval() -> None:
    book = ledger()
    for name in ("a", "b"):
        book.take(account(name, 50), 0.0)
    book.signals(0.0)
    book.take(account("a", 80), 9.0)
    book.take(account("b", 60), 9.5)
    found = book.signals(10.0)
    assert found.freshness == "fresh"
    assert found.tiers["low"].arrivals_per_s == pytest.approx(4.0)
    assert found.tiers["high"].arrivals_per_s == 0.0


def test_a_lost_account_delays_counts_and_loses_none() -> None:
    book = ledger()
    book.take(account("a", 0), 0.0)
    book.signals(0.0)
    book.signals(5.0)  # nothing came in between
    book.take(account("a", 40), 9.0)
    assert book.signals(10.0).tiers["low"].arrivals_per_s == pytest.approx(8.0)


def test_a_gateway_that_began_anew_counts_from_its_new_beginning() -> None:
    book = ledger()
    book.take(account("a", 1000), 0.0)
    book.signals(0.0)
    book.take(account("a", 30), 9.0)
    assert book.signals(10.0).tiers["low"].arrivals_per_s == pytest.approx(3.0)


def test_the_first_account_of_a_gateway_only_tells_from_where_to_count() -> None:
    book = ledger()
    book.signals(0.0)
    book.take(account("a", 5000), 5.0)
    assert book.signals(10.0).tiers["low"].arrivals_per_s == 0.0


def test_the_picture_says_how_much_of_it_is_known() -> None:
    book = ledger()
    assert book.signals(0.0).freshness == "missing"
    book.take(account("a", 1), 1.0)
    book.take(account("b", 1), 1.0)
    assert book.signals(2.0).freshness == "fresh"
    later = 2.0 + STALE_AFTER_S
    book.take(account("a", 2), later)
    assert book.signals(later).freshness == "partial"
    assert book.signals(later + STALE_AFTER_S + 1.0).freshness == "stale"


def test_a_gateway_that_is_gone_for_good_is_missed_by_nobody() -> None:
    book = ledger()
    book.take(account("a", 1), 0.0)
    book.take(account("b", 1), 0.0)
    now = FORGET_AFTER_S + 1.0
    book.take(account("b", 1), now)
    assert book.signals(now).freshness == "fresh"
    book.forget("b")
    assert book.signals(now).freshness == "missing"


def test_lengths_are_learned_and_assumed_before() -> None:
    book = ledger()
    assert book.signals(0.0).tiers["low"].output_tokens == 1300.0
    book.take(account("a", 0), 0.0)
    book.take(account("a", 100), 1.0)
    low = book.signals(2.0).tiers["low"]
    assert (low.prompt_tokens, low.output_tokens) == pytest.approx((100.0, 400.0))
    book.take(account("a", 2100, tokens=(100.0, 800.0)), 3.0)
    assert 700.0 < book.signals(4.0).tiers["low"].output_tokens < 900.0


def test_attainment_counts_refused_requests_as_late() -> None:
    book = ledger()
    book.take(account("a", 0), 0.0)
    book.signals(0.0)
    book.take(account("a", 20, answered=10.0, first_in_time=9.0, refused=10.0), 5.0)
    low = book.signals(10.0).tiers["low"]
    assert low.ttft_attained == pytest.approx(0.45)
    assert low.refused_per_s == pytest.approx(1.0)
    assert math.isnan(book.signals(20.0).tiers["low"].ttft_attained)


def test_slack_is_below_zero_where_a_tier_is_late() -> None:
    book = ledger()
    book.take(account("a", 1, first_s=1.5, pace_s=0.012), 0.0)
    low = book.signals(1.0).tiers["low"]
    assert low.ttft_slack == pytest.approx(-0.5)
    assert low.tpot_slack == pytest.approx(0.2)
    assert math.isnan(book.signals(2.0).tiers["high"].ttft_slack)


def test_a_replica_that_two_gateways_see_is_one_and_draining_ones_are_not_ready() -> None:
    book = ledger()
    book.take(account("a", 1, replica("r0", in_flight=4.0, step_s=0.02, kv_use=0.5)), 0.0)
    book.take(
        account(
            "b",
            1,
            replica("r0", in_flight=2.0, step_s=0.02, kv_use=0.1),
            replica("r1", draining=True),
            replica("r2", pool="spare"),
        ),
        0.0,
    )
    found = book.signals(1.0, starting={"main": 3}, asleep={"spare": 2})
    main, spare = found.pools["main"], found.pools["spare"]
    assert (main.ready, main.starting, main.draining, main.owned) == (1, 3, 1, 4)
    assert main.kv_use == 0.5
    assert main.tokens_per_s == pytest.approx(200.0)
    assert (spare.ready, spare.asleep) == (1, 2)


@pytest.mark.parametrize(
    ("backlog", "rate", "seconds"), [(0.0, 0.0, 0.0), (500.0, 100.0, 5.0), (1.0, 0.0, math.inf)]
)
def test_backlog_in_seconds(backlog: float, rate: float, seconds: float) -> None:
    tier = TierSignals("low", 1.0, 1.0, 1.0, backlog_tokens=backlog)
    pool = PoolSignals("main", 1, tokens_per_s=rate)
    assert Signals("m", 0.0, 1.0, "fresh", {"low": tier}, {"main": pool}).backlog_s() == seconds


def test_dispersion_tells_bursts_from_even_arrivals() -> None:
    assert dispersion([5.0] * 20) == 0.0
    assert dispersion([0.0, 10.0] * 10) > 5.0
    assert dispersion([1.0, 9.0]) == 1.0
    assert dispersion([]) == 1.0
    assert BURST_WINDOWS >= 8
