"""A replica's books: reservations, pace, prompts, and what belongs to other gateways."""

import pytest

from cluster.config import Tier
from deployments.router import Flight, RemoteLoad, Replica
from deployments.router.fleet import (
    FRESH_S,
    MOST_OTHERS,
    MOST_PREFILL,
    PACE_MEMORY_S,
    PREFILL_MEMORY_S,
    Fleet,
)
from tests.deployments.router.router_world import (
    MODEL,
    OTHER_MODEL,
    STEPS,
    load_of,
    request,
    traits,
)


def flight_on(
    replica: Replica,
    prompt_tokens: int = 100,
    predicted: float = 1000.0,
    tier: Tier = "low",
    now: float = 0.0,
) -> Flight:
    flight = Flight(request(tier, prompt_tokens=prompt_tokens), replica, now, predicted)
    replica.add(flight, prompt_tokens, now)
    return flight


# ------------------------------------------------------------------ our own requests


def test_a_flight_reserves_its_prompt_and_its_predicted_output() -> None:
    replica = Replica(traits("a"))
    flight_on(replica, 100, 1000.0)
    flight_on(replica, 50, 500.0, "high")
    assert replica.reserved_kv == 1650.0
    assert replica.awaiting_prefill == 150
    assert (replica.own, replica.in_flight) == ([1, 0, 1], 2)


def test_an_outgrown_prediction_grows_the_reservation_and_all_of_it_is_given_back() -> None:
    replica = Replica(traits("a"))
    flight = flight_on(replica, 100, 10.5)
    flight.emitted = 11
    assert replica.reserved_kv == 110.5
    replica.outgrew(flight, 40.0)
    assert (flight.predicted, replica.reserved_kv) == (40.0, 140.0)
    assert replica.remove(flight.request.request_id) is flight
    assert replica.reserved_kv == 0.0
    assert (replica.own, replica.in_flight) == ([0, 0, 0], 0)


def test_a_prompt_counts_as_prefilled_once_and_from_the_first_token_on() -> None:
    replica = Replica(traits("a"))
    flight, waiting = flight_on(replica, 700), flight_on(replica, 30)
    replica.prefilled(flight)
    replica.prefilled(flight)
    assert replica.awaiting_prefill == 30
    replica.remove(flight.request.request_id)
    assert replica.awaiting_prefill == 30
    replica.remove(waiting.request.request_id)
    assert replica.awaiting_prefill == 0


def test_removing_what_is_not_there_changes_nothing() -> None:
    replica = Replica(traits("a"))
    flight_on(replica)
    assert replica.remove("nobody") is None
    assert replica.in_flight == 1
    assert replica.reserved_kv == 1100.0


def test_a_replica_knows_which_tiers_are_on_it_whoever_sent_them() -> None:
    replica = Replica(traits("a"))
    assert replica.tiers_here == 0
    flight = flight_on(replica, tier="high")
    assert replica.tiers_here == 0b100
    replica.report(load_of((1, 0, 1), ours=(0, 0, 1)), 0.0)
    assert replica.tiers_here == 0b101
    replica.remove(flight.request.request_id)
    assert replica.tiers_here == 0b001


# ------------------------------------------------------------------ other gateways' requests


def test_what_a_replica_holds_beyond_what_it_has_of_us_is_of_others() -> None:
    replica = Replica(traits("a"))
    for _ in range(3):
        flight_on(replica)
    replica.report(load_of((5, 0, 2), ours=(3, 0, 0)), 0.0)
    assert (replica.others, replica.in_flight) == ([2, 0, 2], 7)


def test_a_report_that_has_not_seen_our_newest_requests_gives_none_of_them_to_others() -> None:
    replica = Replica(traits("a"))
    for _ in range(3):
        flight_on(replica)
    replica.report(load_of((1, 0, 0), ours=(1, 0, 0)), 0.0)  # two are still on the wire
    assert (replica.others, replica.in_flight) == ([0, 0, 0], 3)


def test_a_report_that_still_counts_our_ended_requests_gives_none_of_them_to_others() -> None:
    replica = Replica(traits("a"))
    flight = flight_on(replica)
    replica.remove(flight.request.request_id)
    replica.report(load_of((4, 1, 0), ours=(1, 1, 0)), 0.0)
    assert (replica.others, replica.in_flight) == ([3, 0, 0], 3)


def test_a_report_cannot_make_a_count_negative() -> None:
    replica = Replica(traits("a"))
    replica.report(RemoteLoad(running=1, by_tier=(0, 1, 0), ours=(2, 1, 1)), 0.0)
    assert (replica.others, replica.in_flight, replica.tiers_here) == ([0, 0, 0], 0, 0)


def test_what_is_left_of_the_kv_cache_is_what_neither_our_reservations_nor_others_hold() -> None:
    replica = Replica(traits("a", kv_tokens=10_000))
    assert replica.kv_left == 10_000
    flight_on(replica, 100, 900.0)
    assert replica.kv_left == 9_000
    replica.report(load_of((4, 0, 0), ours=(1, 0, 0), kv_use=0.4), 0.0)
    # 4 run, 3 of them of others: three quarters of the 4000 tokens in use are theirs.
    assert replica.kv_left == pytest.approx(6_000)


# ------------------------------------------------------------------ old reports


def fleet_of(*replica_ids: str) -> Fleet:
    fleet = Fleet()
    for replica_id in replica_ids:
        fleet.join(traits(replica_id, max_num_seqs=10_000))
    return fleet


def test_a_fresh_report_is_taken_as_it_is() -> None:
    fleet = fleet_of("a")
    (replica,) = fleet
    fleet.report("a", load_of((10, 0, 0)), 0.0)
    for _ in range(40):
        flight_on(replica)
    fleet.age_reports(FRESH_S)
    assert replica.others == [10, 0, 0]


def test_others_are_taken_to_grow_in_an_old_report_as_our_own_of_that_tier_have() -> None:
    fleet = fleet_of("a", "b")
    for replica in fleet:
        for _ in range(50):
            flight_on(replica)
        fleet.report(replica.traits.replica_id, load_of((80, 0, 7), ours=(50, 0, 0)), 0.0)
        for _ in range(50):
            flight_on(replica)
    fleet.age_reports(FRESH_S + 0.1)
    for replica in fleet:
        assert replica.others[0] == pytest.approx(60, rel=0.05)
        assert replica.others[1:] == [0, 7]
        assert replica.in_flight == pytest.approx(167, rel=0.05)


def test_others_are_taken_to_shrink_in_an_old_report_as_our_own_have() -> None:
    fleet = fleet_of("a")
    (replica,) = fleet
    flights = [flight_on(replica) for _ in range(200)]
    fleet.report("a", load_of((300, 0, 0), ours=(200, 0, 0)), 0.0)
    for flight in flights[100:]:
        replica.remove(flight.request.request_id)
    fleet.age_reports(FRESH_S + 0.1)
    assert replica.others[0] == pytest.approx(50, rel=0.05)


def test_growth_is_always_that_since_the_report_and_not_compounded() -> None:
    fleet = fleet_of("a")
    (replica,) = fleet
    for _ in range(100):
        flight_on(replica)
    fleet.report("a", load_of((200, 0, 0), ours=(100, 0, 0)), 0.0)
    for _ in range(100):
        flight_on(replica)
    fleet.age_reports(FRESH_S + 1.0)
    once = replica.others[0]
    for second in range(2, 12):
        fleet.age_reports(FRESH_S + second)
    assert replica.others[0] == once
    fleet.report("a", load_of((130, 0, 0), ours=(100, 0, 0)), FRESH_S + 20.0)
    assert replica.others == [30, 0, 0]


def test_few_requests_of_our_own_say_little_of_others() -> None:
    fleet = fleet_of("a")
    (replica,) = fleet
    fleet.report("a", load_of((100, 0, 0)), 0.0)
    flight_on(replica)
    fleet.age_reports(FRESH_S + 0.1)
    assert 100 <= replica.others[0] <= 130


@pytest.mark.parametrize(("before", "after"), [(0, 1000), (1000, 0)])
def test_the_growth_of_an_old_report_is_bounded(before: int, after: int) -> None:
    fleet = fleet_of("a")
    (replica,) = fleet
    fleet.report("a", load_of((before + 100, 0, 0), ours=(before, 0, 0)), 0.0)
    for _ in range(after):
        flight_on(replica)
    fleet.age_reports(1000.0)
    assert 10 <= replica.others[0] <= 1000


# ------------------------------------------------------------------ pace and prompts


def test_a_new_replica_is_taken_for_one_that_keeps_the_step_models_times() -> None:
    replica = Replica(traits("a"))
    assert replica.next_step_s == pytest.approx(STEPS.step_s(1, 0.0))
    flight_on(replica, prompt_tokens=0)
    assert replica.next_step_s == pytest.approx(STEPS.step_s(2, 0.0))


def test_the_first_measured_step_time_sets_the_pace_even_after_idle_reports() -> None:
    replica = Replica(traits("a"))
    for tick in range(5):
        replica.report(load_of(), 0.1 * tick)
    assert replica.pace == 1.0
    replica.report(load_of((4, 0, 0), step_s=3.0 * STEPS.step_s(4, 0.0)), 1.0)
    assert replica.pace == pytest.approx(3.0)
    assert replica.next_step_s == pytest.approx(3.0 * STEPS.step_s(5, 0.0))


def test_the_pace_follows_the_measured_steps_within_seconds_however_often_they_come() -> None:
    paces = []
    for every_s in (0.01, 0.05, 0.5):
        replica = Replica(traits("a"))
        replica.report(load_of((4, 0, 0)), 0.0)
        now = 0.0
        while now < PACE_MEMORY_S - 1e-9:
            now += every_s
            replica.report(load_of((4, 0, 0), step_s=2.0 * STEPS.step_s(4, 0.0)), now)
        paces.append(replica.pace)
    assert paces == pytest.approx([1.632] * 3, abs=0.001)  # 2 − 1/e


def test_an_idle_replicas_last_step_time_says_nothing_of_its_pace() -> None:
    replica = Replica(traits("a"))
    replica.report(load_of((4, 0, 0)), 0.0)
    replica.report(load_of(step_s=0.5), 10.0)
    assert replica.pace == pytest.approx(1.0)


def test_the_pace_is_measured_against_the_context_that_the_batch_reads() -> None:
    steps = type(STEPS)(base_s=0.004, seq_s=0.0002, kv_token_s=1e-7)
    replica = Replica(traits("a", steps=steps, kv_tokens=100_000))
    load = load_of((8, 0, 0), kv_use=0.5, step_s=steps.step_s(8, 50_000))
    replica.report(load, 0.0)
    assert replica.pace == pytest.approx(1.0)
    assert replica.next_step_s == pytest.approx(steps.step_s(9, 50_000))


def test_steady_prompts_lengthen_the_predicted_step_by_the_time_that_they_take() -> None:
    replica = Replica(traits("a", max_num_seqs=1000))
    for tick in range(1000):  # 10,000 tokens a second: 0.3 s of prefill each second
        flight = flight_on(replica, prompt_tokens=1000, now=0.1 * tick)
        replica.remove(flight.request.request_id)
    assert replica.prefill_share == pytest.approx(0.3, rel=0.03)
    assert replica.next_step_s == pytest.approx(STEPS.step_s(1, 0.0) / 0.7, rel=0.03)


def test_prompts_found_in_the_cache_take_no_time() -> None:
    replica = Replica(traits("a"))
    replica.add(Flight(request(prompt_tokens=50_000), replica, 0.0, 10.0), 0, 0.0)
    assert replica.prefill_share == 0.0


def test_prompts_of_others_are_taken_to_come_as_ours_do() -> None:
    alone, shared = Replica(traits("a")), Replica(traits("b"))
    for replica in (alone, shared):
        for _ in range(4):
            flight_on(replica, prompt_tokens=500)
    alone.report(load_of((4, 0, 0), ours=(4, 0, 0)), 0.0)
    shared.report(load_of((12, 0, 0), ours=(4, 0, 0)), 0.0)
    shared.report(load_of((12, 0, 0), ours=(4, 0, 0)), 0.0)  # the share is by the last one's counts
    assert shared.prefill_share == pytest.approx(3.0 * alone.prefill_share)


def test_the_share_of_prompts_is_bounded_and_fades() -> None:
    replica = Replica(traits("a", max_num_seqs=10_000))
    flight_on(replica, prompt_tokens=1_000_000)
    replica.report(load_of((1000, 0, 0), ours=(1, 0, 0)), 0.0)
    assert replica.prefill_share == MOST_PREFILL
    assert replica.next_step_s < 10.0
    replica.report(load_of((1, 0, 0), ours=(1, 0, 0)), 10 * PREFILL_MEMORY_S)
    replica.report(load_of((1, 0, 0), ours=(1, 0, 0)), 10 * PREFILL_MEMORY_S)
    assert replica.prefill_share < 0.01
    assert MOST_OTHERS >= 1.0


# ------------------------------------------------------------------ the fleet


def test_a_fleet_knows_each_replica_once() -> None:
    fleet = Fleet()
    replica = fleet.join(traits("a"))
    with pytest.raises(ValueError, match="already"):
        fleet.join(traits("a"))
    assert fleet.get("a") is replica
    assert len(fleet) == 1
    assert fleet.leave("a") is replica
    assert fleet.leave("a") is None
    assert fleet.get("a") is None
    assert list(fleet) == []


def open_ids(fleet: Fleet, model: str, tier: Tier) -> list[str]:
    return [replica.traits.replica_id for replica in fleet.open_to(model, tier)]


def test_a_replica_is_open_to_its_model_and_to_the_tiers_that_it_prefers_or_lends_to() -> None:
    fleet = Fleet()
    for each in (
        traits("low", tiers=frozenset({"low"})),
        traits("lender", tiers=frozenset({"high"}), lends_to=frozenset({"low"})),
        traits("high", tiers=frozenset({"high"})),
        traits("other", model=OTHER_MODEL),
        traits("leaving"),
    ):
        fleet.join(each)
    fleet.report("leaving", RemoteLoad(draining=True), 0.0)
    assert open_ids(fleet, MODEL, "low") == ["lender", "low"]
    assert open_ids(fleet, OTHER_MODEL, "medium") == ["other"]
    assert open_ids(fleet, MODEL, "medium") == []


def test_the_open_replicas_follow_what_joins_drains_returns_and_leaves() -> None:
    fleet = fleet_of("b")
    assert open_ids(fleet, MODEL, "low") == ["b"]
    fleet.join(traits("a"))
    assert open_ids(fleet, MODEL, "low") == ["a", "b"]  # by id, so that all gateways agree
    fleet.report("a", RemoteLoad(draining=True), 0.0)
    assert open_ids(fleet, MODEL, "low") == ["b"]
    fleet.report("a", RemoteLoad(), 1.0)
    assert open_ids(fleet, MODEL, "low") == ["a", "b"]
    fleet.leave("b")
    assert open_ids(fleet, MODEL, "low") == ["a"]


def test_replicas_are_shared_while_every_tier_may_use_each_of_them() -> None:
    fleet = fleet_of("a", "b")
    assert fleet.shared(MODEL)
    fleet.join(traits("low", tiers=frozenset({"low"})))
    fleet.join(traits("high", tiers=frozenset({"high"})))
    assert not fleet.shared(MODEL)
    fleet.report("low", RemoteLoad(draining=True), 0.0)
    assert not fleet.shared(MODEL)
    fleet.leave("high")
    assert fleet.shared(MODEL)
    fleet.join(traits("other", model=OTHER_MODEL, tiers=frozenset({"low"})))
    assert fleet.shared(MODEL)
    assert not fleet.shared(OTHER_MODEL)


def test_a_report_of_a_stranger_is_ignored() -> None:
    fleet = fleet_of("a")
    fleet.report("b", load_of((3, 0, 0)), 0.0)
    assert [replica.in_flight for replica in fleet] == [0]


# ---------------------------------------------------------------- paces of those that tell none


def paced(step_s: float) -> RemoteLoad:
    return RemoteLoad(running=4, step_s=step_s, by_tier=(4, 0, 0), ours=(0, 0, 0))


def test_a_replica_without_a_step_counts_as_quick_as_the_quickest_of_its_pool() -> None:
    fleet = Fleet()
    for name in ("a", "b", "new"):
        fleet.join(traits(name))
    fleet.join(traits("elsewhere", pool="other"))
    fleet.report("a", paced(0.5), 1.0)  # a CPU: a hundred times slower than the step model
    fleet.report("b", paced(0.4), 1.0)
    later = fleet.join(traits("later"))
    quickest = fleet.get("b").pace  # type: ignore[union-attr]
    assert quickest > 10.0
    assert fleet.get("new").pace == later.pace == quickest  # type: ignore[union-attr]
    assert fleet.get("elsewhere").pace == 1.0  # type: ignore[union-attr]


def test_an_idle_replica_is_tried_again_in_time() -> None:
    fleet = Fleet()
    slow, quick = fleet.join(traits("slow")), fleet.join(traits("quick"))
    fleet.report("quick", paced(0.01), 1.0)
    fleet.report("slow", paced(1.0), 1.0)
    fleet.report("slow", RemoteLoad(step_s=1.0), 1.1)  # it has gone idle
    assert slow.pace > 50.0 * quick.pace
    fleet.age_reports(1.1)
    fleet.report("slow", paced(1.0), 1.2)
    fleet.report("slow", RemoteLoad(step_s=1.0), 1.3)
    assert slow.pace > 2.0 * quick.pace
    fleet.age_reports(61.3)  # nobody asked for a minute
    assert slow.pace == pytest.approx(quick.pace, rel=0.01)
