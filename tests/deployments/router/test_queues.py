"""The queues of a model: bounds, whose turn it is, who has waited too long, what is charged."""

from dataclasses import replace

import pytest

from cluster.config import TIERS, Tier
from deployments.router.fair import work
from deployments.router.fleet import Request
from deployments.router.queues import QueueLimits, TierQueues

WAITS_S: dict[Tier, float] = {"low": 30.0, "medium": 60.0, "high": 120.0}
QUEUED: dict[Tier, int] = {"low": 4, "medium": 3, "high": 2}


def queues(max_queued: int | None = None, **settings: float) -> TierQueues:
    limits = {
        tier: QueueLimits(max_queued or QUEUED[tier], WAITS_S[tier], 10 * n)
        for n, tier in enumerate(QUEUED)
    }
    return TierQueues(limits, **settings)  # type: ignore[arg-type]


def request(tier: Tier, request_id: str, tenant: str = "", prompt_tokens: int = 100) -> Request:
    plain = Request(request_id, "m", tier, prompt_tokens, 100_000)
    return replace(plain, tenant=tenant)


def head_ids(queue: TierQueues, tier: Tier | None = None, k: int = 1) -> list[str]:
    return [waiting.request.request_id for waiting in queue.heads(tier, k)]


# ---------------------------------------------------------------- bounds and order


def test_each_tier_has_its_own_bound() -> None:
    queue = queues()
    for n in range(2):
        assert not queue.is_full("high")
        queue.push(request("high", f"r{n}"), 1.0, 0.0)
    assert queue.is_full("high")
    assert not queue.is_full("low")
    assert (queue.length("high"), queue.length("low"), len(queue)) == (2, 0, 2)


def test_a_tenants_first_to_come_is_its_first_to_go() -> None:
    queue = queues()
    for n in range(3):
        queue.push(request("low", f"r{n}"), 1.0, float(n))
    for n in range(3):
        assert head_ids(queue) == [f"r{n}"]
        queue.dispatch(f"r{n}", 1.0)
    assert head_ids(queue) == []


def test_over_the_tiers_the_one_that_is_due_earliest_goes_first() -> None:
    queue = queues()
    queue.push(request("high", "h"), 1.0, 0.0)  # due at 120
    queue.push(request("medium", "m"), 1.0, 10.0)  # due at 70
    queue.push(request("low", "l"), 1.0, 50.0)  # due at 80
    assert queue.due() == ["medium", "low", "high"]
    assert head_ids(queue) == ["m", "l", "h"]
    queue.remove("l")
    queue.push(request("low", "l2"), 1.0, 95.0)  # due at 125: high has its turn now
    assert head_ids(queue) == ["m", "h", "l2"]


def test_a_tier_is_as_urgent_as_its_oldest_request_whoevers_turn_it_is() -> None:
    queue = queues(max_queued=10)
    queue.push(request("low", "old", "heavy"), 1.0, 0.0)  # due at 30
    queue.push(request("low", "older", "heavy"), 1.0, 0.0)
    queue.dispatch("old", 10_000.0)
    queue.push(request("low", "new", "light"), 1.0, 29.0)  # due at 59, but it is light's turn
    queue.dispatch("new", 1.0)
    queue.push(request("low", "new2", "light"), 1.0, 29.0)
    queue.push(request("medium", "m"), 1.0, -20.0)  # due at 40
    assert queue.due() == ["low", "medium"]
    assert queue.oldest_wait_s("low", 29.0) == 29.0


def test_removing_gives_back_what_waited_and_nothing_for_strangers() -> None:
    queue = queues()
    each = request("low", "r")
    queue.push(each, 7.0, 3.0)
    assert "r" in queue
    waiting = queue.remove("r")
    assert waiting is not None
    assert waiting.request is each
    assert (waiting.since_s, waiting.predicted_tokens) == (3.0, 7.0)
    assert queue.remove("r") is None
    assert queue.dispatch("r", 1.0) is None
    assert "r" not in queue
    assert len(queue) == 0


def test_what_has_waited_its_tiers_limit_expires_in_the_order_of_arrival() -> None:
    queue = queues()
    queue.push(request("low", "l0", "a"), 1.0, 0.0)
    queue.push(request("low", "l1", "b"), 1.0, 0.5)
    queue.push(request("low", "l2", "a"), 1.0, 1.0)
    queue.push(request("high", "h0"), 1.0, 0.0)
    assert queue.expired(29.9) == []
    assert [each.request.request_id for each in queue.expired(30.5)] == ["l0", "l1"]
    assert [each.request.request_id for each in queue.expired(200.0)] == ["l2", "h0"]
    assert len(queue) == 0
    assert queue.heads() == []


def test_a_request_put_back_stands_before_its_tier_and_before_the_other_tiers() -> None:
    queue = queues()
    queue.push(request("low", "l"), 1.0, 0.0)
    queue.push(request("high", "h"), 1.0, 0.0)
    queue.push_front(request("high", "again"), 1.0, 5.0)
    queue.push_front(request("high", "and again"), 1.0, 6.0)
    assert head_ids(queue) == ["and again", "l"]
    assert head_ids(queue, "high", k=9) == ["and again"]
    queue.remove("and again")
    assert head_ids(queue) == ["again", "l"]
    queue.remove("again")
    assert head_ids(queue) == ["l", "h"]


def test_requests_put_back_have_the_whole_wait_before_them_and_keep_nobody_beyond_the_limit() -> (
    None
):
    queue = queues()
    queue.push(request("low", "old"), 1.0, 0.0)
    queue.push_front(request("low", "again"), 1.0, 28.0)
    queue.push_front(request("low", "later"), 1.0, 29.0)
    assert [each.request.request_id for each in queue.expired(30.0)] == ["old"]
    assert [each.request.request_id for each in queue.expired(58.0)] == ["again"]
    assert queue.expired(58.9) == []
    assert [each.request.request_id for each in queue.expired(59.0)] == ["later"]


def test_the_work_before_a_due_time_is_the_sum_of_what_is_due_by_then() -> None:
    queue = queues()
    queue.push(request("low", "l0"), 100.0, 0.0)  # due at 30
    queue.push(request("low", "l1"), 10.0, 5.0)  # due at 35
    queue.push(request("high", "h"), 5000.0, 0.0)  # due at 120
    queue.push_front(request("high", "again"), 7.0, 6.0)  # due at 6
    assert queue.tokens_before(29.0) == 7.0
    assert queue.tokens_before(30.0) == 107.0
    assert queue.tokens_before(35.0) == 117.0
    assert queue.tokens_before(120.0) == 5117.0
    for each in ("l0", "l1", "h", "again"):
        queue.remove(each)
    assert queue.tokens_before(1e9) == 0.0


def test_the_oldest_wait_is_the_first_arrivals() -> None:
    queue = queues()
    assert queue.oldest_wait_s("low", 9.0) == 0.0
    queue.push(request("low", "a"), 1.0, 2.0)
    queue.push(request("low", "b"), 1.0, 5.0)
    assert queue.oldest_wait_s("low", 9.0) == pytest.approx(7.0)


# ---------------------------------------------------------------- shares between tenants


def served(queue: TierQueues, times: int, predicted_tokens: float = 100.0) -> list[str]:
    """Dispatch whose turn it is so many times; the tenants in order."""
    tenants = []
    for _ in range(times):
        (head,) = queue.heads("low")
        queue.dispatch(head.request.request_id, predicted_tokens)
        queue.settle(head.request.request_id, round(predicted_tokens))
        tenants.append(head.request.tenant)
    return tenants


def filled(queue: TierQueues, tenant: str, count: int, prompt_tokens: int = 100) -> None:
    for n in range(count):
        queue.push(request("low", f"{tenant}{n}", tenant, prompt_tokens), 100.0, 0.0)


def test_a_tenant_with_many_requests_does_not_delay_one_with_few() -> None:
    queue = queues(max_queued=100)
    filled(queue, "many", 50)
    filled(queue, "few", 3)
    assert served(queue, 6).count("few") == 3


def test_shares_follow_the_weights() -> None:
    queue = TierQueues({"low": QueueLimits(1000, 30.0, 0)}, weights={"gold": 3.0})
    filled(queue, "gold", 400)
    filled(queue, "iron", 400)
    assert served(queue, 400).count("gold") == pytest.approx(300, abs=2)


def test_a_tenant_with_large_prompts_gets_as_much_work_not_as_many_requests() -> None:
    queue = queues(max_queued=1000)
    filled(queue, "large", 200, prompt_tokens=9800)  # 10,000 each
    filled(queue, "small", 800, prompt_tokens=800)  # 1,000 each
    counts = served(queue, 440)
    assert counts.count("large") == pytest.approx(40, abs=2)


def test_prompt_tokens_in_the_cache_are_no_work() -> None:
    queue = queues(max_queued=100)
    filled(queue, "a", 2, prompt_tokens=5000)
    queue.dispatch("a0", 10.0, cached_tokens=4000)
    assert queue.counter("low", "a") == work(1000, 10.0)
    queue.settle("a0", 10)
    assert queue.counter("low", "a") == work(1000, 10.0)


def test_a_charge_is_settled_on_what_was_written() -> None:
    queue = queues(max_queued=100)
    filled(queue, "a", 3)
    filled(queue, "b", 3)
    queue.dispatch("a0", 1000.0)
    assert queue.counter("low", "a") == work(100, 1000.0)
    assert head_ids(queue, "low") == ["b0"]
    assert queue.unsettled == 1
    queue.settle("a0", 10)
    queue.settle("a0", 10)  # again: nothing
    queue.settle("nobody", 10)
    assert queue.unsettled == 0
    assert queue.counter("low", "a") == work(100, 10)
    queue.dispatch("b0", 10.0)
    queue.settle("b0", 4000)
    assert queue.counter("low", "b") == work(100, 4000)
    assert served(queue, 2) == ["a", "a"]


def test_a_request_that_lost_its_replica_is_given_back_its_charge_and_charged_once() -> None:
    queue = queues(max_queued=100)
    filled(queue, "a", 2)
    first = queue.dispatch("a0", 500.0)
    assert first is not None
    queue.push_front(first.request, 500.0, 1.0)
    assert queue.counter("low", "a") == 0.0
    assert queue.unsettled == 0
    queue.dispatch("a0", 500.0)
    queue.settle("a0", 300)
    assert queue.counter("low", "a") == work(100, 300)


def test_idle_time_earns_no_credit() -> None:
    queue = queues(max_queued=200)
    filled(queue, "back", 1)
    served(queue, 1)
    filled(queue, "busy", 100)
    served(queue, 50)
    filled(queue, "back", 40)
    # From now on they take turns; there is no row of requests of the one that was away.
    turns = served(queue, 20)
    assert turns.count("back") == 10


def test_time_in_which_nobody_waited_is_forgotten() -> None:
    queue = queues(max_queued=200)
    filled(queue, "late", 1)
    served(queue, 1)
    filled(queue, "early", 50)
    served(queue, 50)  # all alone: nobody was kept waiting by it
    filled(queue, "late", 20)
    filled(queue, "early", 20)
    assert served(queue, 20).count("late") == 10


def test_a_refund_for_work_of_before_cannot_turn_idle_time_into_credit() -> None:
    queue = queues(max_queued=300)
    filled(queue, "busy", 200)
    filled(queue, "back", 1)
    queue.dispatch("back0", 5000.0)  # still running while its tenant has nothing queued
    served(queue, 100)
    lowest = queue.counter("low", "busy")
    queue.push(request("low", "again", "back"), 100.0, 0.0)
    assert queue.counter("low", "back") == lowest
    queue.settle("back0", 1)
    assert queue.counter("low", "back") == lowest


def test_a_refund_counts_as_far_as_the_counter_stood_above_the_others() -> None:
    queue = queues(max_queued=300)
    filled(queue, "busy", 200)
    filled(queue, "back", 1)
    queue.dispatch("back0", 50_000.0)
    served(queue, 10)
    lowest = queue.counter("low", "busy")
    queue.push(request("low", "again", "back"), 100.0, 0.0)
    assert queue.counter("low", "back") == work(100, 50_000.0) > lowest
    queue.settle("back0", 1)
    assert queue.counter("low", "back") == pytest.approx(lowest)


# ---------------------------------------------------------------- out of turn


def test_other_tenants_heads_are_offered_within_the_quantum() -> None:
    queue = queues(max_queued=100, quantum=1000.0)
    for tenant in "abcd":
        filled(queue, tenant, 2)
    for tenant, tokens in (("b", 100.0), ("c", 400.0), ("d", 600.0)):  # 300, 900, 1300 of work
        queue.dispatch(f"{tenant}0", tokens)
    assert head_ids(queue, "low", k=9) == ["a0", "b1", "c1"]
    assert head_ids(queue, "low", k=2) == ["a0", "b1"]
    assert head_ids(queue, "low") == ["a0"]
    assert head_ids(queue, "high", k=9) == []


def test_choosing_out_of_turn_keeps_the_gap_within_the_quantum_and_a_request() -> None:
    queue = queues(max_queued=2000, quantum=1500.0)
    filled(queue, "hit", 900)
    filled(queue, "miss", 900)
    widest = 0.0
    for _ in range(800):
        # Always the tenant with the cached prefix, while it is offered.
        offered = queue.heads("low", 2)
        head = next((each for each in offered if each.request.tenant == "hit"), offered[0])
        queue.dispatch(head.request.request_id, 100.0)
        gap = queue.counter("low", "hit") - queue.counter("low", "miss")
        widest = max(widest, abs(gap))
    assert 1500.0 < widest <= 1500.0 + work(100, 100.0)


# ---------------------------------------------------------------- overload


def test_a_full_queue_makes_room_at_the_cost_of_the_tenant_that_fills_it() -> None:
    queue = queues(max_queued=10)
    filled(queue, "flood", 9)
    filled(queue, "b", 1)
    victim = queue.crowded_out(request("low", "n", "new"))
    assert victim is not None
    assert victim.request.request_id == "flood8"
    assert queue.crowded_out(request("low", "n", "flood")) is None
    for n in range(5):
        victim = queue.crowded_out(request("low", f"n{n}", "new"))
        if victim is None:
            break
        queue.remove(victim.request.request_id)
        queue.push(request("low", f"n{n}", "new"), 1.0, 0.0)
    # Until both have as many, and no further.
    assert queue.crowded_out(request("low", "n", "new")) is None
    assert queue.length("low") == 10


def test_what_waits_before_a_request_is_less_for_a_tenant_with_little() -> None:
    queue = queues(max_queued=100)
    filled(queue, "flood", 50)  # 300 of work each
    served(queue, 1)
    assert queue.work_before(request("low", "n", "flood")) == 49 * 300.0
    assert queue.work_before(request("low", "n", "new")) == 0.0
    filled(queue, "new", 2)
    # The two, and as much of the flood meanwhile.
    assert queue.work_before(request("low", "n", "new")) == pytest.approx(4 * 300.0)


def test_tenants_are_remembered_up_to_a_limit_and_the_backlogged_always() -> None:
    queue = TierQueues({"low": QueueLimits(100, 30.0, 0)}, max_tenants=5)
    for n in range(20):
        queue.push(request("low", f"r{n}", f"t{n}"), 1.0, 0.0)
    assert queue.tenants("low") == 20
    assert len(served(queue, 20)) == 20
    assert queue.tenants("low") == 5
    for n in range(50):
        queue.push(request("low", f"s{n}", f"u{n}"), 1.0, 0.0)
        queue.dispatch(f"s{n}", 1.0)
    assert queue.tenants("low") == 5
    for n in range(50):
        queue.settle(f"s{n}", 500)  # of tenants long forgotten
    assert queue.unsettled == 0


# ---------------------------------------------------------------- who cannot be in time


def patient_queues(on_time_s: float, **settings: object) -> TierQueues:
    limits = {tier: QueueLimits(4, 30.0, 0, on_time_s) for tier in TIERS}
    return TierQueues(limits, **settings)  # type: ignore[arg-type]


def test_who_cannot_be_in_time_goes_behind_those_who_can() -> None:
    queue = patient_queues(1.0)
    queue.push(request("low", "old"), 10.0, 0.0)
    queue.push(request("low", "new"), 20.0, 5.0)
    queue.demote(5.5)
    assert head_ids(queue, "low") == ["new"]
    assert queue.length("low") == 2
    assert queue.oldest_wait_s("low", 5.5) == 5.5
    queue.dispatch("new", 20.0)
    assert head_ids(queue, "low") == ["old"]


def test_a_tier_with_only_late_requests_comes_after_the_others() -> None:
    queue = patient_queues(1.0)
    queue.push(request("low", "late"), 1.0, 0.0)
    queue.push(request("high", "fresh"), 1.0, 10.0)
    queue.demote(10.5)
    assert queue.due() == ["high", "low"]


def test_a_late_request_is_dispatched_charged_and_settled_like_any_other() -> None:
    queue = patient_queues(1.0)
    queue.push(request("low", "late", "a"), 10.0, 0.0)
    queue.demote(2.0)
    waiting = queue.dispatch("late", 10.0)
    assert waiting is not None
    assert waiting.request.request_id == "late"
    assert (len(queue), queue.unsettled) == (0, 1)
    queue.settle("late", 10)
    assert queue.unsettled == 0


def test_late_requests_expire_can_be_taken_out_and_make_room_first() -> None:
    queue = patient_queues(1.0)
    for n in range(3):
        queue.push(request("low", f"r{n}", "a"), 1.0, float(n))
    queue.demote(2.5)  # r0 and r1 are late
    assert queue.crowded_out(request("low", "x", "a")).request.request_id == "r0"  # type: ignore[union-attr]
    assert queue.remove("r1") is not None
    assert [each.request.request_id for each in queue.expired(30.0)] == ["r0"]
    assert len(queue) == 1


def test_what_waits_late_is_not_before_a_new_request() -> None:
    queue = patient_queues(1.0)
    queue.push(request("low", "late"), 500.0, 0.0)
    assert queue.work_before(request("low", "x")) > 0.0
    queue.demote(2.0)
    assert queue.work_before(request("low", "x")) == 0.0
    assert queue.tokens_before(1e9) == 0.0


# ---------------------------------------------------------------- who goes ahead


def ahead(tier: Tier, request_id: str, tenant: str = "") -> Request:
    return replace(request(tier, request_id, tenant), ahead=True)


def test_who_goes_ahead_goes_before_all_tiers_and_tenants_that_do_not() -> None:
    queue = queues()
    queue.push(request("low", "l"), 1.0, 0.0)
    queue.push(request("high", "h"), 1.0, 0.0)
    queue.push(ahead("high", "first"), 1.0, 100.0)
    queue.push(ahead("medium", "second"), 1.0, 190.0)
    assert queue.due()[:2] == ["high", "medium"]
    assert head_ids(queue, "high") == ["first"]
    queue.dispatch("first", 1.0)
    queue.dispatch("second", 1.0)
    assert queue.due() == ["low", "high"]
    assert head_ids(queue, "high") == ["h"]


def test_tenants_that_go_ahead_share_what_they_get() -> None:
    queue = queues(100)
    for n in range(10):
        queue.push(ahead("low", f"a{n}", "a"), 50.0, 0.0)
    queue.push(ahead("low", "b0", "b"), 50.0, 1.0)
    queue.dispatch("a0", 50.0)
    assert head_ids(queue, "low") == ["b0"]


def test_who_goes_ahead_but_is_late_waits_for_those_who_can_be_in_time() -> None:
    queue = patient_queues(1.0)
    queue.push(ahead("low", "first"), 1.0, 0.0)
    queue.push(request("low", "other"), 1.0, 1.5)
    queue.push(request("high", "old"), 1.0, 0.0)
    queue.demote(2.0)
    assert head_ids(queue, "low") == ["other"]
    queue.dispatch("other", 1.0)
    assert head_ids(queue, "low") == ["first"]
    assert set(queue.due()) == {"low", "high"}


def test_a_full_queue_makes_room_for_who_goes_ahead_but_not_the_other_way_round() -> None:
    queue = queues()
    for n in range(QUEUED["low"]):
        queue.push(request("low", f"r{n}", "a"), 1.0, 0.0)
    last = queue.crowded_out(ahead("low", "x", "a"))
    assert last is not None
    assert last.request.request_id == f"r{QUEUED['low'] - 1}"
    queue = queues()
    for n in range(QUEUED["low"]):
        queue.push(ahead("low", f"r{n}", "a"), 1.0, 0.0)
    assert queue.crowded_out(request("low", "x", "b")) is None
    assert queue.crowded_out(ahead("low", "x", "b")) is not None


def test_what_goes_ahead_is_before_every_other_request() -> None:
    queue = queues()
    queue.push(request("low", "r"), 100.0, 0.0)
    before = queue.work_before(request("low", "x", "b"))
    queue.push(ahead("low", "first"), 100.0, 0.0)
    assert queue.work_before(request("low", "x", "b")) == before + work(100, 100.0)
    assert queue.work_before(ahead("low", "y", "b")) <= work(100, 100.0)
    assert [each.request.request_id for each in queue.expired(1e3)] == ["first", "r"]
    assert (len(queue), queue.length("low")) == (0, 0)
