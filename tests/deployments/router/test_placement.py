"""Placement: who finishes first, who is excluded, who lends."""

import random

import pytest

from cluster.config import TIERS, Tier
from deployments.router import RemoteLoad, Request, Router
from deployments.router.placement import LEND_ADVANTAGE
from tests.deployments.router.router_world import (
    MODEL,
    OTHER_MODEL,
    admitted,
    join,
    make_router,
    placed_on,
    request,
)

ROOMY = dict.fromkeys(TIERS, 1000)


def router_of(*replicas: str, **changes: object) -> Router:
    router = make_router(ROOMY)
    for replica_id in replicas:
        join(router, replica_id, **changes)
    return router


def load_of(running: int, step_s: float, **more: object) -> RemoteLoad:
    return RemoteLoad(running=running, step_s=step_s, **more)  # type: ignore[arg-type]


def test_a_request_goes_where_it_would_finish_first() -> None:
    router = router_of("slow", "quick")
    router.on_load("slow", load_of(2, 0.020))
    router.on_load("quick", load_of(2, 0.010))
    assert placed_on(router, request()) == "quick"


def test_the_estimates_name_the_reason_for_the_choice() -> None:
    router = router_of("slow", "quick")
    router.on_load("slow", load_of(1, 0.020))
    router.on_load("quick", load_of(1, 0.010))
    each = request("medium", prompt_tokens=50_000)
    admitted(router, each)
    ((flight, placement, waited_s),) = router.placements(2.5)
    assert waited_s == 2.5
    assert flight.predicted == placement.predicted_tokens == pytest.approx(4000.0)
    assert {estimate.replica_id for estimate in placement.considered} == {"slow", "quick"}
    chosen = placement.chosen
    assert chosen.finish_s == chosen.prefill_s + chosen.decode_s
    assert chosen.finish_s == min(estimate.finish_s for estimate in placement.considered)
    assert chosen.prefill_s == pytest.approx(2.0)
    assert chosen.decode_s == pytest.approx(4000 * 0.010 * 2**0.476)
    assert not chosen.lends


def test_prompts_that_wait_for_their_prefill_make_a_replica_less_attractive() -> None:
    router = router_of("a", "b")
    first = placed_on(router, request(prompt_tokens=120_000, max_tokens=1))
    # One more in the batch weighs little against five seconds of prefill.
    assert placed_on(router, request(max_tokens=1)) != first


def test_idle_replicas_share_what_comes() -> None:
    router = router_of(*"abcdefgh")
    homes = [placed_on(router, request()) for _ in range(8)]
    assert sorted(map(str, homes)) == list("abcdefgh")


def test_gateways_that_know_nothing_of_each_other_spread_over_idle_replicas() -> None:
    homes = [placed_on(router_of(*"abcd"), request(request_id=f"q{n}")) for n in range(80)]
    assert all(homes.count(replica_id) >= 8 for replica_id in "abcd")


def test_a_new_replica_gets_work_although_it_has_no_step_time_yet() -> None:
    router = router_of("busy", "new")
    router.on_load("busy", load_of(4, 0.0062))
    assert placed_on(router, request()) == "new"


def test_a_replica_that_went_idle_at_once_is_not_taken_for_a_slow_one() -> None:
    router = router_of("still", "emptied")
    router.on_load("still", load_of(6, 0.008))
    router.on_load("emptied", load_of(7, 0.008))
    router.on_load("emptied", load_of(0, 0.008))
    assert placed_on(router, request()) == "emptied"


def test_a_replica_with_a_full_batch_is_left_out_whoever_filled_it() -> None:
    router = router_of("a", "b", max_num_seqs=2)
    homes = [placed_on(router, request()) for _ in range(5)]
    assert homes[4] is None
    assert sorted(map(str, homes[:4])) == ["a", "a", "b", "b"]
    others = router_of("a", max_num_seqs=2)
    others.on_load("a", load_of(1, 0.01, waiting=1))
    assert placed_on(others, request()) is None
    others.on_load("a", load_of(1, 0.01))
    ((flight, _, _),) = others.placements(1.0)
    assert flight.replica_id == "a"


def test_high_requests_keep_apart_so_that_none_is_preempted() -> None:
    # Each is expected to hold 13k tokens at its peak; two of them do not fit one replica.
    router = router_of("a", "b", "c", kv_tokens=20_000)
    homes = [placed_on(router, request("high")) for _ in range(4)]
    assert sorted(map(str, homes[:3])) == ["a", "b", "c"]
    assert homes[3] is None
    # A short one still fits beside them.
    assert placed_on(router, request("low")) is not None


def test_a_reservation_follows_the_limit_that_the_caller_set() -> None:
    router = router_of("a", kv_tokens=20_000)
    homes = [placed_on(router, request("high", max_tokens=900)) for _ in range(8)]
    assert homes == ["a"] * 8


def test_an_outgrown_prediction_takes_the_room_of_the_next() -> None:
    router = router_of("a", kv_tokens=20_000)
    long = request("low")
    assert placed_on(router, long) == "a"
    flight = router.fleet.get("a").flights[long.request_id]  # type: ignore[union-attr]
    router.on_tokens(flight, 18_000)
    assert placed_on(router, request("medium")) is None


def test_kv_in_use_by_other_gateways_is_not_given_away() -> None:
    router = router_of("a", kv_tokens=20_000)
    router.on_load("a", load_of(2, 0.01, kv_use=0.9))
    assert placed_on(router, request("medium")) is None
    router.on_load("a", load_of(2, 0.01, kv_use=0.1))
    assert len(router.placements(1.0)) == 1


def test_what_others_hold_does_not_shrink_as_we_place_beside_them() -> None:
    router = router_of("a", kv_tokens=20_000)
    router.on_load("a", load_of(1, 0.01, kv_use=0.9))
    assert placed_on(router, request(max_tokens=1)) == "a"
    assert placed_on(router, request(prompt_tokens=8_000, max_tokens=1)) is None


def test_an_idle_replica_takes_what_no_busy_one_has_room_for() -> None:
    router = router_of("a", kv_tokens=5_000)
    assert placed_on(router, request("high")) == "a"
    assert placed_on(router, request("high")) is None


@pytest.mark.parametrize(
    ("own_step_s", "home"),
    [
        (0.010 * LEND_ADVANTAGE * 0.95, "own"),
        (0.010 * LEND_ADVANTAGE * 1.05, "lender"),
    ],
)
def test_a_pool_lends_only_with_the_advantage(own_step_s: float, home: str) -> None:
    router = make_router(ROOMY)
    join(router, "own", tiers=frozenset({"low"}))
    join(router, "lender", tiers=frozenset({"high"}), lends_to=frozenset({"low"}))
    router.on_load("own", load_of(1, own_step_s))
    router.on_load("lender", load_of(1, 0.010))
    # A prompt of one token: prefill, the same on both, must not blur the ratio.
    each = request("low", prompt_tokens=1)
    admitted(router, each)
    ((flight, placement, _),) = router.placements(0.0)
    assert flight.replica_id == home
    assert placement.chosen.lends == (home == "lender")


def test_a_pool_lends_when_the_tiers_own_pools_are_full() -> None:
    router = make_router(ROOMY)
    join(router, "own", tiers=frozenset({"low"}), max_num_seqs=1)
    join(router, "lender", tiers=frozenset({"high"}), lends_to=frozenset({"low"}))
    assert placed_on(router, request("low")) == "own"
    assert placed_on(router, request("low")) == "lender"


def test_a_pool_never_takes_a_tier_that_it_neither_prefers_nor_lends_to() -> None:
    router = make_router(ROOMY)
    join(router, "high", tiers=frozenset({"high"}), lends_to=frozenset({"medium"}))
    assert placed_on(router, request("low")) is None
    assert placed_on(router, request("medium")) == "high"


def test_only_replicas_of_the_asked_model_are_considered() -> None:
    router = make_router(ROOMY)
    join(router, "big")
    join(router, "small", model=OTHER_MODEL)
    router.on_load("big", load_of(7, 0.5))
    assert placed_on(router, request(model=MODEL)) == "big"
    assert placed_on(router, request(model=OTHER_MODEL)) == "small"


def test_a_draining_replica_gets_nothing_new() -> None:
    router = router_of("a", "b")
    router.on_load("a", RemoteLoad(draining=True))
    assert {placed_on(router, request()) for _ in range(6)} == {"b"}


def test_load_is_balanced_over_equal_replicas_whatever_the_mixture() -> None:
    router, rng = router_of("a", "b", "c", "d", max_num_seqs=64, kv_tokens=10**7), random.Random(7)
    tiers: list[Tier] = rng.choices(TIERS, k=120)
    for tier in tiers:
        each: Request = request(tier, prompt_tokens=rng.randint(1, 4000))
        assert placed_on(router, each) is not None
    counts = [replica.in_flight for replica in router.fleet]
    assert max(counts) - min(counts) <= 3
