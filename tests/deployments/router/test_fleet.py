"""A replica's books: reservations, prompts to prefill, and what belongs to other gateways."""

import pytest

from deployments.router import Flight, RemoteLoad, Replica
from deployments.router.fleet import BATCH_EXPONENT, Fleet
from tests.deployments.router.router_world import MODEL, OTHER_MODEL, request, traits


def flight_on(replica: Replica, prompt_tokens: int = 100, predicted: float = 1000.0) -> Flight:
    flight = Flight(request(prompt_tokens=prompt_tokens), replica, 0.0, predicted)
    replica.add(flight)
    return flight


def test_a_flight_reserves_its_prompt_and_its_predicted_output() -> None:
    replica = Replica(traits("a"))
    flight_on(replica, 100, 1000.0)
    flight_on(replica, 50, 500.0)
    assert replica.reserved_kv == 1650.0
    assert replica.awaiting_prefill == 150
    assert replica.in_flight == 2


def test_tokens_within_the_prediction_change_no_reservation_and_those_beyond_it_grow_it() -> None:
    replica = Replica(traits("a"))
    flight = flight_on(replica, 100, 10.5)
    replica.emitted(flight, 10)
    assert replica.reserved_kv == 110.5
    replica.emitted(flight, 1)
    assert replica.reserved_kv == 111.0
    replica.emitted(flight, 5)
    assert replica.reserved_kv == 116.0
    assert replica.remove(flight.request.request_id) is flight
    assert replica.reserved_kv == 0.0


def test_a_prompt_counts_as_prefilled_from_the_first_token_on() -> None:
    replica = Replica(traits("a"))
    flight, waiting = flight_on(replica, 700), flight_on(replica, 30)
    replica.emitted(flight, 1)
    replica.emitted(flight, 1)
    assert replica.awaiting_prefill == 30
    replica.remove(flight.request.request_id)
    assert replica.awaiting_prefill == 30
    replica.remove(waiting.request.request_id)
    assert replica.awaiting_prefill == 0


def test_an_output_without_tokens_is_no_first_token() -> None:
    replica = Replica(traits("a"))
    flight = flight_on(replica, 700)
    replica.emitted(flight, 0)
    assert replica.awaiting_prefill == 700
    replica.remove(flight.request.request_id)
    assert replica.awaiting_prefill == 0


def test_removing_what_is_not_there_changes_nothing() -> None:
    replica = Replica(traits("a"))
    flight_on(replica)
    assert replica.remove("nobody") is None
    assert replica.in_flight == 1
    assert replica.reserved_kv == 1100.0


def test_what_a_replica_reports_beyond_our_own_requests_is_of_others() -> None:
    replica = Replica(traits("a"))
    for _ in range(3):
        flight_on(replica)
    replica.report(RemoteLoad(running=5, waiting=2))
    assert (replica.others, replica.in_flight) == (4, 7)
    replica.report(RemoteLoad(running=1))  # ours are still on the wire
    assert (replica.others, replica.in_flight) == (0, 3)


def test_kv_room_is_what_neither_our_reservations_nor_others_hold() -> None:
    replica = Replica(traits("a", kv_tokens=10_000))
    assert replica.kv_room() == 10_000
    flight_on(replica, 100, 900.0)
    assert replica.kv_room() == 9_000
    replica.report(RemoteLoad(running=4, kv_use=0.4))
    # 4 run, 3 of them of others: three quarters of the 4000 tokens in use are theirs.
    assert replica.kv_room() == pytest.approx(6_000)


def test_the_step_time_of_one_request_is_worked_out_from_the_batch_that_was_measured() -> None:
    replica = Replica(traits("a"))
    assert replica.unit_step_s is None
    replica.report(RemoteLoad(running=16, step_s=0.016))
    assert replica.unit_step_s == pytest.approx(0.016 / 16**BATCH_EXPONENT)


def test_a_replica_that_has_gone_idle_keeps_the_batch_that_its_step_time_was_measured_at() -> None:
    replica = Replica(traits("a"))
    replica.report(RemoteLoad(running=64, step_s=0.023))
    busy = replica.unit_step_s
    replica.report(RemoteLoad(running=0, step_s=0.023))
    assert replica.unit_step_s == busy


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
    leaving = fleet.get("leaving")
    assert leaving is not None
    leaving.report(RemoteLoad(draining=True))
    assert [each.traits.replica_id for each in fleet.open_to(MODEL, "low")] == ["low", "lender"]
    assert [each.traits.replica_id for each in fleet.open_to(OTHER_MODEL, "medium")] == ["other"]
    assert fleet.open_to(MODEL, "medium") == []
