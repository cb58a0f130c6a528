"""The router as a gateway drives it: admission, retries, refusals, and clean books."""

from dataclasses import replace

import pytest

from cluster.config import TIERS, Tier
from deployments.router import RemoteLoad, Request, Router, Why
from deployments.router.fleet import Fleet
from deployments.router.policies import Choice
from deployments.router.router import (
    EVIDENT_WAIT,
    MAX_ATTEMPTS,
    MAX_RETRY_AFTER_S,
    BrownOut,
)
from tests.deployments.router.router_world import (
    MODEL,
    OTHER_MODEL,
    QUEUED,
    ROOMY,
    WAITS_S,
    admitted,
    flight_of,
    join,
    load_of,
    make_router,
    occupy,
    placed_on,
    policies,
    request,
    write,
)


def order(router: Router, now: float = 0.0) -> list[str]:
    return [each.flight.request.request_id for each in router.placements(now)]


def questions(router: Router) -> list[str]:
    """The requests that the policy is asked about from now on, in order."""
    asked: list[str] = []
    choose = router.policy.choose

    def noting(request: Request, fleet: Fleet, now: float) -> Choice | None:
        asked.append(request.request_id)
        return choose(request, fleet, now)

    router.policy.choose = noting  # type: ignore[method-assign]
    return asked


def test_a_full_fleet_is_not_asked_again_for_those_who_need_as_much() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=0)
    for tenant in "abc":
        admitted(router, request(tenant=tenant))
    asked = questions(router)
    assert order(router) == []
    assert len(asked) == 1
    admitted(router, request(tenant="e", prompt_tokens=10))
    assert order(router) == []
    assert len(asked) == 3  # the first again, and the one that needs less


def test_only_requests_of_which_more_is_cached_are_compared_once_one_has_a_place() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=9)
    admitted(router, request(tenant="z", request_id="z", blocks=(1, 2)))
    assert order(router) == ["z"]
    admitted(router, request(tenant="a", request_id="a"))
    admitted(router, request(tenant="b", request_id="b", blocks=(8, 9)))
    admitted(router, request(tenant="c", request_id="c", blocks=(1, 2)))
    asked = questions(router)
    assert order(router) == ["c", "a", "b"]
    assert asked == ["a", "c", "a", "b"]


# ------------------------------------------------------------------ admission and its refusals


def test_the_engine_priority_is_the_tiers() -> None:
    router = make_router()
    assert [router.priority(request(tier)) for tier in TIERS] == [0, 20, 40]


def test_what_stands_behind_is_run_before_the_next_tier_only() -> None:
    router = make_router()
    behind = [router.priority(request(tier, behind=True)) for tier in TIERS]
    assert behind == [1, 21, 41]


def test_what_goes_ahead_is_run_before_every_tier_and_what_is_spare_after_them() -> None:
    router = make_router()
    ahead = [router.priority(request(tier, ahead=True)) for tier in TIERS]
    assert sorted(ahead) == ahead
    assert ahead[-1] < router.priority(request("low"))
    spare = router.priority(request("low", behind=True, spare=True))
    assert spare > router.priority(request("high", behind=True))


@pytest.mark.parametrize("tier", TIERS)
def test_a_full_queue_refuses_and_the_other_tiers_go_on(tier: Tier) -> None:
    router = make_router()
    join(router, "a", max_num_seqs=1)
    occupy(router, "a", ["low"])
    admitted(router, *(request(tier) for _ in range(QUEUED[tier])))
    refusal = router.admit(request(tier), 0.0)
    assert refusal is not None
    assert (refusal.tier, refusal.queued, refusal.no_replica) == (tier, QUEUED[tier], False)
    assert refusal.why is Why.FULL
    for other in TIERS:
        if other != tier:
            assert router.admit(request(other), 0.0) is None
    assert router.admit(request(tier, model=OTHER_MODEL), 0.0) is None


def test_a_refusal_tells_an_absent_fleet_from_a_busy_one() -> None:
    router = make_router()
    join(router, "a", tiers=frozenset({"low"}))
    admitted(router, *(request("high") for _ in range(QUEUED["high"])))
    absent = router.admit(request("high"), 0.0)
    assert absent is not None
    assert absent.no_replica
    join(router, "b", max_num_seqs=0)
    busy = router.admit(request("high"), 0.0)
    assert busy is not None
    assert not busy.no_replica
    router.on_load("b", RemoteLoad(draining=True), 0.0)
    leaving = router.admit(request("high"), 0.0)
    assert leaving is not None
    assert leaving.no_replica


def test_retry_after_is_the_backlog_over_the_rate_of_output() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=1)
    router.on_load("a", load_of((10, 0, 0), step_s=0.01), 0.0)  # 1000 tokens a second
    admitted(router, *(request("low") for _ in range(20)))  # 20 × 1300 tokens
    assert router.drain_s(MODEL, "low", 0.0) == pytest.approx(26.0, rel=0.02)


def test_retry_after_counts_only_what_is_served_before() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=1)
    router.on_load("a", load_of((10, 0, 0), step_s=0.01), 0.0)
    admitted(router, request("high"))  # due at 120 s, after a low one that comes now
    assert router.drain_s(MODEL, "low", 0.0) == 1.0
    assert router.drain_s(MODEL, "high", 0.0) == pytest.approx(13.0, rel=0.02)
    assert router.drain_s(OTHER_MODEL, "high", 0.0) != pytest.approx(13.0, rel=0.1)


def test_retry_after_grows_with_the_backlog_within_its_bounds() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=1)
    router.on_load("a", load_of((8, 0, 0), step_s=0.008), 0.0)
    waits_s = []
    for _ in range(200):
        admitted(router, request("low"))
        waits_s.append(router.drain_s(MODEL, "low", 0.0))
    assert waits_s == sorted(waits_s)
    assert waits_s[0] < waits_s[50] < waits_s[90]
    assert all(1.0 <= wait_s <= MAX_RETRY_AFTER_S for wait_s in waits_s)
    assert waits_s[-1] == MAX_RETRY_AFTER_S


@pytest.mark.parametrize("tier", TIERS)
def test_retry_after_is_bounded_before_anything_was_measured(tier: Tier) -> None:
    router = make_router()
    assert router.drain_s(MODEL, tier, 0.0) == min(WAITS_S[tier], MAX_RETRY_AFTER_S)
    for max_wait_s, expected in ((0.2, 1.0), (3600.0, MAX_RETRY_AFTER_S)):
        limits = router.queues[MODEL].limits
        router.queues[MODEL].limits = {
            each: replace(limits[each], max_wait_s=max_wait_s) for each in TIERS
        }
        assert router.drain_s(MODEL, tier, 0.0) == expected


def test_measured_output_shortens_retry_after() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=1)
    done = request("low")
    assert placed_on(router, done) == "a"
    write(router, flight_of(router, done), 30_000)
    admitted(router, *(request("low") for _ in range(10)))
    before = router.drain_s(MODEL, "low", 1.0)
    router.on_finished(done.request_id, 1.0, complete=False)
    assert router.drain_s(MODEL, "low", 1.0) < before


def test_what_waits_too_long_comes_back_as_a_refusal() -> None:
    router = make_router()
    join(router, "a", max_num_seqs=1)
    occupy(router, "a", ["low"])
    each = request("low")
    admitted(router, each)
    assert router.expired(WAITS_S["low"] - 0.1) == []
    ((waiting, refusal),) = router.expired(WAITS_S["low"])
    assert waiting.request is each
    assert refusal.tier == "low"
    assert not refusal.no_replica
    assert 1.0 <= refusal.retry_after_s <= MAX_RETRY_AFTER_S
    assert router.placements(100.0) == []
    assert len(router.queues[MODEL]) == 0


def test_a_request_that_would_wait_in_vain_is_refused_at_once() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=1)
    assert placed_on(router, request("low")) == "a"
    admitted(router, *(request("low") for _ in range(5)), now=0.1)
    assert router.admit(request("low"), 0.2) is None  # nothing is evident yet
    evident_s = 0.1 + EVIDENT_WAIT * WAITS_S["low"]
    refusal = router.admit(request("low"), evident_s + 0.1)
    assert refusal is not None
    assert (refusal.queued, refusal.no_replica) == (6, False)
    assert router.admit(request("high"), evident_s + 0.1) is None


def test_a_queue_that_moves_quickly_refuses_nobody() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=20, kv_tokens=10**9)
    for n in range(2000):
        now = 0.1 * n
        assert router.admit(request("low"), now) is None
        for each in router.placements(now):
            each.flight.emitted = 1000
        (replica,) = router.fleet
        if len(replica.flights) == 20:
            router.on_finished(next(iter(replica.flights)), now, complete=True)


def test_after_an_idle_hour_nobody_is_refused() -> None:
    router = make_router()
    join(router, "a", max_num_seqs=1)
    assert placed_on(router, request("low")) == "a"
    for _ in range(3):
        assert router.admit(request("low"), 3600.0) is None


def test_a_tenant_that_fills_a_queue_makes_room_for_another_and_is_told() -> None:
    router = make_router()
    crowd = [request("low", tenant="crowd") for _ in range(QUEUED["low"])]
    admitted(router, *crowd)
    assert router.admit(request("low", tenant="crowd"), 0.0) is not None
    assert router.admit(request("low", tenant="guest"), 0.0) is None
    assert router.queues[MODEL].length("low") == QUEUED["low"]
    ((waiting, refusal),) = router.expired(0.0)
    assert waiting.request is crowd[-1]
    assert (refusal.tier, refusal.no_replica) == ("low", True)
    assert 1.0 <= refusal.retry_after_s <= MAX_RETRY_AFTER_S
    assert router.expired(0.0) == []


def test_one_that_made_room_and_has_left_meanwhile_is_not_heard_of_again() -> None:
    router = make_router()
    crowd = [request("low", tenant="crowd") for _ in range(QUEUED["low"])]
    admitted(router, *crowd, request("low", tenant="guest"))
    assert router.on_finished(crowd[-1].request_id, 0.0, complete=False) is None
    assert router.expired(0.0) == []


def test_a_tier_whose_queue_is_slow_is_served_as_another_until_it_is_quick_again() -> None:
    tiers = policies()
    tiers["high"] = replace(tiers["high"], brown_out=BrownOut("medium", 10.0))
    router = Router((MODEL, OTHER_MODEL), tiers)
    assert router.tier_to_serve(MODEL, "high", 0.0) == "high"
    each = request("high")
    admitted(router, each, request("low"), now=5.0)
    assert router.tier_to_serve(MODEL, "high", 14.9) == "high"
    assert router.tier_to_serve(MODEL, "high", 15.0) == "medium"
    assert router.tier_to_serve(MODEL, "low", 15.0) == "low"
    assert router.tier_to_serve(OTHER_MODEL, "high", 15.0) == "high"
    router.on_finished(each.request_id, 15.0, complete=False)
    assert router.tier_to_serve(MODEL, "high", 15.0) == "high"


# ------------------------------------------------------------------ turns


def test_a_tier_that_finds_no_room_does_not_hold_up_the_others() -> None:
    router = make_router()
    join(router, "a", tiers=frozenset({"medium", "high"}))
    admitted(router, request("low", request_id="l"))  # due first, and nobody takes it
    admitted(router, request("medium", request_id="m"), request("high", request_id="h"))
    assert order(router) == ["m", "h"]
    assert len(router.queues[MODEL]) == 1


def test_a_blocked_head_keeps_the_order_of_its_own_tier() -> None:
    router = make_router()
    join(router, "a", kv_tokens=20_000)
    assert placed_on(router, request("low")) == "a"
    admitted(router, request("low", prompt_tokens=30_000, request_id="large"))
    admitted(router, request("low", request_id="small"))
    assert order(router) == []


def test_another_tenants_request_passes_one_that_finds_no_room() -> None:
    router = make_router()
    join(router, "a", kv_tokens=20_000)
    assert placed_on(router, request("low")) == "a"
    admitted(router, request("low", prompt_tokens=30_000, tenant="one", request_id="large"))
    admitted(router, request("low", tenant="two", request_id="small"))
    assert order(router) == ["small"]


def test_of_the_tenants_whose_turn_it_may_be_the_one_with_a_cached_prompt_goes_first() -> None:
    router = make_router(ROOMY)
    join(router, "a", max_num_seqs=1)
    blocks = tuple(range(50))
    first = request("low", 3300, tenant="two", blocks=blocks)
    assert placed_on(router, first) == "a"
    admitted(router, request("low", 3300, tenant="one", request_id="cold"))
    admitted(router, request("low", 3300, tenant="two", blocks=blocks, request_id="warm"))
    router.on_finished(first.request_id, 1.0, complete=True)
    (found,) = router.placements(1.0)
    assert found.flight.request.request_id == "warm"
    assert found.decision.choice.cached_tokens == 50 * 64


def test_room_is_given_in_the_order_of_due_times() -> None:
    router = make_router()
    admitted(router, request("high", request_id="h"), now=0.0)  # due at 120
    admitted(router, request("low", request_id="l"), now=80.0)  # due at 110
    admitted(router, request("medium", request_id="m"), now=55.0)  # due at 115
    join(router, "a", max_num_seqs=2)
    assert order(router, 100.0) == ["l", "m"]


def test_models_do_not_wait_for_each_other() -> None:
    router = make_router()
    admitted(router, request("low"), request("low", model=OTHER_MODEL, request_id="other"))
    join(router, "b", model=OTHER_MODEL)
    assert order(router) == ["other"]


# ------------------------------------------------------------------ ends


@pytest.mark.parametrize("tokens", [0, 5, 50_000])
def test_a_finished_request_leaves_nothing_behind(tokens: int) -> None:
    router = make_router()
    replica = join(router, "a")
    each = request("low")
    assert placed_on(router, each) == "a"
    flight = flight_of(router, each)
    write(router, flight, tokens)
    assert router.on_finished(each.request_id, 1.0, complete=True) is flight
    assert (replica.in_flight, replica.reserved_kv, replica.awaiting_prefill) == (0, 0.0, 0)
    assert router.on_finished(each.request_id, 1.0, complete=True) is None


def test_a_request_that_ends_in_the_queue_is_no_flight() -> None:
    router = make_router()
    each = request("low")
    admitted(router, each)
    assert router.on_finished(each.request_id, 1.0, complete=False) is None
    assert len(router.queues[MODEL]) == 0


def expected_after(tokens: int, *, complete: bool) -> float:
    """What a low request is expected to write after so many others have ended at ``tokens``."""
    router = make_router()
    join(router, "a")
    for _ in range(20):
        each = request("low")
        assert placed_on(router, each) == "a"
        write(router, flight_of(router, each), tokens)
        router.on_finished(each.request_id, 1.0, complete=complete)
    key = router.predictor.key("low", False, 100, "")
    return router.predictor.expected(key, 10**6)


def test_lengths_are_learned_and_of_what_was_cut_that_it_would_have_been_longer() -> None:
    assert expected_after(0, complete=False) == pytest.approx(1300.0, rel=0.02)
    assert expected_after(10, complete=True) < 1000.0
    assert expected_after(10, complete=False) == pytest.approx(1300.0, rel=0.05)
    assert expected_after(20_000, complete=True) > 2 * 1300.0
    assert expected_after(20_000, complete=False) > expected_after(20_000, complete=True)


def test_a_flight_that_outgrows_its_prediction_is_expected_to_go_on() -> None:
    router = make_router()
    replica = join(router, "a")
    each = request("low")
    assert placed_on(router, each) == "a"
    flight = flight_of(router, each)
    write(router, flight, 1)
    before = flight.predicted
    write(router, flight, int(before) - 1)
    assert flight.predicted == before
    write(router, flight, 5)
    assert flight.predicted > flight.emitted
    assert replica.reserved_kv == pytest.approx(100 + flight.predicted)


def test_a_flight_is_never_expected_to_pass_its_limit_by_more_than_a_token() -> None:
    router = make_router()
    join(router, "a")
    each = request("high", max_tokens=50)
    assert placed_on(router, each) == "a"
    flight = flight_of(router, each)
    for _ in range(50):
        write(router, flight, 1)
        assert flight.predicted <= 51


# ------------------------------------------------------------------ lost and refused


def test_requests_without_a_token_are_retried_at_the_head_in_their_order() -> None:
    router = make_router()
    join(router, "a")
    first, second, third = (request("low", request_id=name) for name in ("1st", "2nd", "3rd"))
    for each in (first, second):
        assert placed_on(router, each) == "a"
    router.on_load("a", RemoteLoad(draining=True), 0.0)
    admitted(router, third)
    lost = router.on_replica_lost("a", 5.0)
    assert {each.request_id for each in lost.retried} == {"1st", "2nd"}
    assert lost.failed == ()
    assert len(router.fleet) == 0
    join(router, "b")
    assert order(router, 6.0) == ["1st", "2nd", "3rd"]
    assert first.attempts == second.attempts == 2
    assert third.attempts == 1


def test_requests_with_tokens_go_on_too() -> None:
    router = make_router()
    join(router, "a")
    begun, fresh = request("low"), request("low")
    for each in (begun, fresh):
        assert placed_on(router, each) == "a"
    write(router, flight_of(router, begun), 3)
    lost = router.on_replica_lost("a", 5.0)
    assert lost.failed == ()
    assert {each.request_id for each in lost.retried} == {begun.request_id, fresh.request_id}
    join(router, "b")
    # The client of the one sees a pause; that of the other does not yet.
    assert order(router, 6.0) == [begun.request_id, fresh.request_id]
    assert (begun.written, fresh.written) == (3, 0)


def test_a_retried_request_waits_in_front_even_of_a_full_queue() -> None:
    router = make_router()
    join(router, "a", max_num_seqs=1)
    retried = request("high")
    assert placed_on(router, retried) == "a"
    admitted(router, *(request("high") for _ in range(QUEUED["high"])))
    assert router.on_replica_lost("a", 1.0).retried == (retried,)
    assert router.queues[MODEL].length("high") == QUEUED["high"] + 1
    assert router.admit(request("high"), 1.0) is not None


def test_a_request_that_loses_replica_after_replica_is_given_up() -> None:
    router = make_router()
    each = request("low")
    admitted(router, each)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        join(router, f"replica-{attempt}")
        assert order(router) == [each.request_id]
        lost = router.on_replica_lost(f"replica-{attempt}", 1.0)
        assert len(lost.retried) == (attempt < MAX_ATTEMPTS)
        assert len(lost.failed) == (attempt == MAX_ATTEMPTS)
    assert len(router.queues[MODEL]) == 0


def test_losing_a_replica_that_is_not_there_loses_nothing() -> None:
    router = make_router()
    admitted(router, request("low"))
    lost = router.on_replica_lost("nobody", 1.0)
    assert (lost.retried, lost.failed) == ((), ())
    assert len(router.queues[MODEL]) == 1


def test_a_refused_request_goes_to_another_replica_before_those_behind_it() -> None:
    router = make_router()
    refuser = join(router, "a")
    occupy(router, "a", ["low"])
    each = request("low", request_id="first")
    assert placed_on(router, each) == "a"
    admitted(router, request("high", request_id="later"))
    assert router.on_refused("first", 1.0) is each
    assert (refuser.in_flight, refuser.reserved_kv, refuser.awaiting_prefill) == (1, 0.0, 0)
    join(router, "b", max_num_seqs=1)
    (found,) = router.placements(1.0)
    assert (found.flight.request.request_id, found.flight.replica_id) == ("first", "b")


def test_a_replica_that_refused_is_tried_again_after_its_next_report() -> None:
    router = make_router()
    join(router, "a")
    each = request("low")
    assert placed_on(router, each) == "a"
    assert router.on_refused(each.request_id, 1.0) is each
    assert router.placements(1.0) == []
    router.on_load("a", RemoteLoad(), 1.0)
    assert order(router, 1.1) == [each.request_id]


def test_a_request_that_is_refused_too_often_is_given_up() -> None:
    router = make_router()
    join(router, "a")
    each = request("low")
    admitted(router, each)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        router.on_load("a", RemoteLoad(), 1.0)
        assert order(router) == [each.request_id]
        kept = router.on_refused(each.request_id, 1.0)
        assert (kept is None) == (attempt == MAX_ATTEMPTS)
    assert len(router.queues[MODEL]) == 0
    assert router.on_refused(each.request_id, 1.0) is None


def test_reports_of_unknown_replicas_are_ignored() -> None:
    router = make_router()
    router.on_load("nobody", RemoteLoad(running=3), 0.0)
    assert len(router.fleet) == 0
