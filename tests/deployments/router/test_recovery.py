"""Going on after faults: what is carried over, how many at a time, and suspects alone."""

from collections import Counter

import pytest

from deployments.router import Lost, Placed, RemoteLoad, Request, Router
from deployments.router.draining import Drains
from deployments.router.recovery import ACQUITTED_TOKENS, RecoveryLimits
from deployments.router.router import MAX_ATTEMPTS
from tests.deployments.router.router_world import (
    MODEL,
    ROOMY,
    admitted,
    flight_of,
    join,
    load_of,
    placed_on,
    policies,
    request,
    write,
)


def make_router(**limits: object) -> Router:
    recovery = RecoveryLimits(**limits)  # type: ignore[arg-type]
    return Router((MODEL,), policies(ROOMY), recovery=recovery)


def begin(router: Router, *requests: Request, tokens: int = 10) -> None:
    admitted(router, *requests)
    assert len(router.placements(0.0)) == len(requests)
    for each in requests:
        write(router, flight_of(router, each), tokens)


def by_home(found: list[Placed]) -> Counter[str]:
    return Counter(each.flight.replica_id for each in found)


# ------------------------------------------------------------------ what is carried over


def test_a_request_goes_on_with_what_it_wrote_as_prompt() -> None:
    router = make_router()
    join(router, "a")
    each = request("low", prompt_tokens=100)
    begin(router, each, tokens=40)
    lost = router.on_replica_lost("a", 5.0)
    assert lost == Lost((each,), ())
    replica = join(router, "b")
    (found,) = router.placements(5.0)
    flight = found.flight
    assert flight.request is each
    assert (each.written, each.prompt_tokens, each.attempts) == (40, 140, 1)
    assert flight.emitted == 0
    assert flight.to_prefill == 140
    assert replica.reserved_kv == pytest.approx(140 + flight.predicted)
    key = router.predictor.key("low", False, 100, "")
    assert flight.predicted == router.predictor.remaining(key, 40, each.max_tokens)


def test_its_length_is_learned_as_a_whole_whatever_it_lost_on_the_way() -> None:
    def learned(cuts: tuple[int, ...]) -> float:
        router = make_router()
        each = request("low", prompt_tokens=100)
        admitted(router, each)
        left = 5000
        for number, tokens in enumerate((*cuts, left - sum(cuts))):
            join(router, f"r{number}", kv_tokens=100_000)
            assert router.placements(float(number))
            write(router, flight_of(router, each), tokens)
            if number < len(cuts):
                router.on_replica_lost(f"r{number}", float(number))
        router.on_finished(each.request_id, 9.0, complete=True)
        return router.predictor.expected(router.predictor.key("low", False, 100, ""), 10**6)

    assert learned((7, 1000)) == pytest.approx(learned(()))


def test_who_makes_progress_may_lose_any_number_of_replicas_and_who_makes_none_three() -> None:
    router = make_router()
    each = request("low")
    admitted(router, each)
    for number in range(3 * MAX_ATTEMPTS):
        join(router, f"r{number}")
        assert len(router.placements(float(number))) == 1
        write(router, flight_of(router, each), 1)
        assert router.on_replica_lost(f"r{number}", float(number)).retried == (each,)
    for number in range(MAX_ATTEMPTS):
        join(router, f"s{number}")
        assert len(router.placements(50.0)) == 1
        lost = router.on_replica_lost(f"s{number}", 50.0)
        assert bool(lost.failed) == (number == MAX_ATTEMPTS - 1)
    assert router.waiting == router.recovery.held == router.recovery.going == 0


def test_a_request_that_one_replica_gives_up_goes_on_and_the_others_stay() -> None:
    router = make_router()
    join(router, "a")
    one, other = request("low"), request("low")
    begin(router, one, other)
    assert router.on_flight_lost(one.request_id, 1.0).retried == (one,)
    assert router.on_flight_lost("nobody", 1.0) == Lost((), ())
    assert flight_of(router, other).emitted == 10
    (found,) = router.placements(1.0)
    assert found.flight.request is one


def test_a_refusal_does_not_fail_what_a_fault_has_brought() -> None:
    router = make_router()
    join(router, "a")
    each = request("low")
    begin(router, each)
    router.on_replica_lost("a", 1.0)
    join(router, "b")
    for number in range(2 * MAX_ATTEMPTS):
        now = 2.0 + number
        assert len(router.placements(now)) == 1
        assert router.on_refused(each.request_id, now) is each
        assert router.placements(now) == []  # not before the replica reports again
        router.on_load("b", load_of(), now)
    assert len(router.placements(20.0)) == 1


def test_a_pause_ends_however_often_it_is_interrupted() -> None:
    router = make_router(max_pause_s=100.0)
    join(router, "a")
    each = request("low")
    begin(router, each)
    router.on_replica_lost("a", 10.0)
    join(router, "b")
    assert len(router.placements(60.0)) == 1
    router.on_refused(each.request_id, 60.0)
    assert router.expired(109.0) == []
    ((waiting, _),) = router.expired(111.0)
    assert waiting.request is each
    assert router.waiting == 0


def test_who_lost_a_replica_goes_before_all_others_and_is_not_overtaken() -> None:
    router = make_router()
    join(router, "a", kv_tokens=50_000)
    large = request("low", prompt_tokens=30_000)
    begin(router, large)
    newcomer = request("low")
    router.on_load("a", RemoteLoad(draining=True), 0.0)
    admitted(router, newcomer)
    router.on_replica_lost("a", 1.0)
    crowded = join(router, "b", kv_tokens=50_000)
    router.on_load("b", load_of((0, 0, 1), kv_use=0.9), 1.0)
    assert crowded.kv_left < 10_000
    assert router.placements(1.0) == []
    router.on_load("b", load_of(), 2.0)
    order = [each.flight.request for each in router.placements(2.0)]
    assert order[0] is large


# ------------------------------------------------------------------ the budget


def test_only_a_share_of_the_requests_goes_on_at_a_time() -> None:
    router = make_router(budget_share=0.2, budget_floor=3)
    for name in "ab":
        join(router, name, max_num_seqs=64, kv_tokens=10**6)
    requests = [request("high") for _ in range(40)]
    begin(router, *requests)
    lost = router.on_replica_lost("a", 1.0)
    assert len(lost.retried) > 15
    first = router.placements(1.0)
    assert len(first) == 8  # 20 % of 40
    assert router.placements(1.1) == []
    assert router.waiting == router.recovery.held == len(lost.retried) - 8
    write(router, first[0].flight, 1)
    router.on_finished(first[1].flight.request.request_id, 1.2, complete=False)
    assert len(router.placements(1.2)) >= 1
    assert router.recovery.going <= 8
    assert router.expired(1.3) == []  # who waits is not failed


def test_a_few_may_always_go_on() -> None:
    router = make_router(budget_share=0.0, budget_floor=3)
    for name in "ab":
        join(router, name)
    begin(router, *(request("high") for _ in range(8)))
    lost = router.on_replica_lost("a", 1.0)
    assert len(lost.retried) >= 4
    assert len(router.placements(1.0)) == 3


def test_those_whose_clients_see_a_pause_go_first() -> None:
    router = make_router(budget_share=0.0, budget_floor=1)
    join(router, "a")
    fresh, begun = request("low"), request("low")
    admitted(router, fresh, begun)
    router.placements(0.0)
    write(router, flight_of(router, begun), 5)
    router.on_replica_lost("a", 1.0)
    join(router, "b")
    (found,) = router.placements(1.0)
    assert found.flight.request is begun


# ------------------------------------------------------------------ suspects


def test_suspects_are_tried_on_replicas_where_no_other_is() -> None:
    router = make_router(budget_floor=100)
    for name in "abc":
        join(router, name, max_num_seqs=16)
    begin(router, *(request("high") for _ in range(12)))
    lost = router.on_replica_lost("a", 1.0, died=True)
    assert len(lost.retried) == 4
    assert all(each.deaths == 1 for each in lost.retried)
    first = router.placements(1.0)
    assert by_home(first) == {"b": 1, "c": 1}
    assert all(each.flight.on_trial for each in first)
    assert router.placements(1.1) == []
    flight = first[0].flight
    write(router, flight, ACQUITTED_TOKENS)
    router.on_acquitted(flight)
    assert (flight.request.deaths, flight.on_trial) == (0, False)
    (second,) = router.placements(1.2)
    assert second.flight.replica_id == flight.replica_id
    # The other's trial ends with its end, however it comes.
    router.on_finished(first[1].flight.request.request_id, 1.3, complete=False)
    assert len(router.placements(1.3)) == 1


def test_a_second_death_on_trial_convicts_the_suspect_and_nobody_else() -> None:
    router = make_router()
    for name in "abc":
        join(router, name, max_num_seqs=16)
    begin(router, *(request("high") for _ in range(12)))
    router.on_replica_lost("a", 1.0, died=True)
    found = {each.flight.replica_id: each.flight for each in router.placements(1.0)}
    on_b = len(next(r for r in router.fleet if r.replica_id == "b").flights)
    lost = router.on_replica_lost("b", 2.0, died=True)
    assert lost.poisoned == (found["b"],)
    assert len(lost.retried) == on_b - 1
    assert lost.failed == ()
    assert router.on_finished(found["b"].request.request_id, 2.0, complete=False) is None


def test_a_lost_connection_makes_no_suspects_and_convicts_nobody() -> None:
    router = make_router()
    for name in "ab":
        join(router, name)
    begin(router, *(request("high") for _ in range(4)))
    lost = router.on_replica_lost("a", 1.0)
    assert all(each.deaths == 0 for each in lost.retried)
    assert not any(each.flight.on_trial for each in router.placements(1.0))
    begin_again = router.on_replica_lost("b", 2.0, died=True)
    assert begin_again.poisoned == ()


def test_those_that_wrote_when_the_engine_died_do_not_wait_for_a_trial_for_ever() -> None:
    router = make_router(isolation_s=1.0, budget_floor=100)
    for name in "ab":
        join(router, name, max_num_seqs=16)
    fresh, *begun = (request("high") for _ in range(8))
    begin(router, *begun)
    assert placed_on(router, fresh) is not None
    home = flight_of(router, fresh).replica_id
    lost = router.on_replica_lost(home, 1.0, died=True)
    assert fresh in lost.retried
    (first,) = router.placements(1.0)
    assert first.flight.on_trial
    waiting = len(lost.retried) - 1
    assert waiting >= 2
    assert router.placements(1.9) == []
    late = router.placements(2.0)
    assert not any(each.flight.on_trial for each in late)
    # One that had not begun is tried alone however long that takes.
    strict = [each for each in lost.retried if each.attempts > 0 and each.written == 0]
    assert fresh in strict
    assert all(each.flight.request is not fresh for each in late)
    if first.flight.request is fresh:
        assert len(late) == waiting


def test_who_loses_a_second_engine_in_company_is_then_tried_alone() -> None:
    router = make_router(isolation_s=0.5, budget_floor=100)
    for name in "abc":
        join(router, name, max_num_seqs=16)
    begin(router, *(request("high") for _ in range(12)))
    router.on_replica_lost("a", 1.0, died=True)
    router.on_replica_lost("b", 1.0)  # so that one replica is left
    router.placements(1.0)
    router.placements(2.0)
    twice = [
        flight.request for r in router.fleet for flight in r.flights.values() if not flight.on_trial
    ]
    twice = [each for each in twice if each.deaths == 1]
    assert len(twice) >= 2
    lost = router.on_replica_lost("c", 3.0, died=True)
    assert not set(map(id, twice)) & {id(each.request) for each in lost.poisoned}
    join(router, "d", max_num_seqs=16)
    router.placements(3.0)
    router.placements(100.0)
    here = [f.request for r in router.fleet for f in r.flights.values()]
    assert sum(each.deaths == 2 for each in here) <= 1


# ------------------------------------------------------------------ hung, and leaving


def test_a_replica_that_hangs_gets_nothing_and_keeps_nothing() -> None:
    router = make_router()
    for name in "ab":
        join(router, name)
    begin(router, *(request("high") for _ in range(4)))
    hung = router.fleet.get("a")
    assert hung is not None
    lost = router.on_replica_hung("a", 1.0)
    assert lost.retried
    assert not hung.flights
    assert hung.reserved_kv == pytest.approx(0.0)
    assert by_home(router.placements(1.0)).keys() == {"b"}
    router.fleet.shun(hung, shunned=False)
    assert placed_on(router, request("low"), 2.0) == "a"
    assert router.on_replica_hung("nobody", 2.0) == Lost((), ())


def test_a_request_moves_when_there_is_room_and_else_it_stays_as_it_is() -> None:
    router = make_router()
    leaving = join(router, "a")
    each = request("high", prompt_tokens=100)
    begin(router, each, tokens=50)
    router.on_load("a", load_of((0, 0, 1), (0, 0, 1), draining=True), 1.0)
    before = flight_of(router, each)
    as_it_was = each.written, each.prompt_tokens, each.predicted, each.attempts
    assert router.move(each.request_id, 1.0) is None
    assert (each.written, each.prompt_tokens, each.predicted, each.attempts) == as_it_was
    assert flight_of(router, each) is before
    join(router, "b")
    found = router.move(each.request_id, 2.0)
    assert found is not None
    assert found.flight.replica_id == "b"
    assert not leaving.flights
    assert leaving.reserved_kv == pytest.approx(0.0)
    assert (each.written, each.prompt_tokens, each.attempts) == (50, 150, 1)
    assert router.queues[MODEL].unsettled == 1


def test_moves_are_within_the_budget() -> None:
    router = make_router(budget_share=0.0, budget_floor=2)
    join(router, "a")
    requests = [request("high") for _ in range(6)]
    begin(router, *requests)
    router.on_load("a", RemoteLoad(draining=True), 1.0)
    join(router, "b")
    moved = [router.move(each.request_id, 1.0) for each in requests]
    assert sum(each is not None for each in moved) == 2


def test_a_leaving_replica_ends_what_is_short_and_gives_the_long_away() -> None:
    router = make_router()
    replica = join(router, "a", max_num_seqs=16, kv_tokens=10**6)
    requests = [request("low", max_tokens=n) for n in (500, 5_000, 100)]
    begin(router, *requests)
    router.on_load("a", load_of((3, 0, 0), (3, 0, 0), step_s=0.01, draining=True), 1.0)
    for each, left in zip(requests, (400.0, 4000.0, 50.0), strict=True):
        flight_of(router, each).predicted = 10 + left
    drains = Drains(finish_s=5.0)
    assert [f.request for f in drains.to_move(replica, 1.0)] == [requests[1]]
    # As the time runs out, those that are expected to end after it go too.
    assert [f.request for f in drains.to_move(replica, 3.0)] == [requests[1], requests[0]]
    assert len(drains.to_move(replica, 6.0)) == 3
    drains.keep({"a"})
    assert len(drains.to_move(replica, 7.0)) == 3
    drains.keep(set())
    assert len(drains.to_move(replica, 8.0)) == 1
