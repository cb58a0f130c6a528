"""The queues: bounds, whose turn it is, and who has waited too long."""

import pytest

from deployments.router.queues import TierQueues
from tests.deployments.router.router_world import policies, request


def queues() -> TierQueues:
    return TierQueues({tier: policy.limits for tier, policy in policies().items()})


def head_ids(queue: TierQueues) -> list[str]:
    return [waiting.request.request_id for waiting in queue.heads()]


def test_each_tier_has_its_own_bound() -> None:
    queue = queues()
    for _ in range(2):
        assert not queue.is_full("high")
        queue.push(request("high"), 1.0, 0.0)
    assert queue.is_full("high")
    assert not queue.is_full("low")
    assert (queue.length("high"), queue.length("low"), len(queue)) == (2, 0, 2)


def test_within_a_tier_the_first_to_come_is_the_first_to_go() -> None:
    queue = queues()
    for n in range(3):
        queue.push(request("low", request_id=f"r{n}"), 1.0, float(n))
    for n in range(3):
        assert head_ids(queue) == [f"r{n}"]
        queue.remove(f"r{n}")
    assert head_ids(queue) == []


def test_over_the_tiers_the_head_that_is_due_earliest_goes_first() -> None:
    queue = queues()
    queue.push(request("high", request_id="h"), 1.0, 0.0)  # due at 120
    queue.push(request("medium", request_id="m"), 1.0, 10.0)  # due at 70
    queue.push(request("low", request_id="l"), 1.0, 50.0)  # due at 80
    assert head_ids(queue) == ["m", "l", "h"]
    queue.remove("l")
    queue.push(request("low", request_id="l2"), 1.0, 95.0)  # due at 125: high has its turn now
    assert head_ids(queue) == ["m", "h", "l2"]


def test_removing_gives_back_what_waited_and_nothing_for_strangers() -> None:
    queue = queues()
    each = request("low")
    queue.push(each, 7.0, 3.0)
    waiting = queue.remove(each.request_id)
    assert waiting is not None
    assert waiting.request is each
    assert (waiting.since_s, waiting.predicted_tokens) == (3.0, 7.0)
    assert queue.remove(each.request_id) is None
    assert queue.remove("nobody") is None
    assert len(queue) == 0


def test_what_has_waited_its_tiers_limit_expires() -> None:
    queue = queues()
    queue.push(request("low", request_id="l0"), 1.0, 0.0)
    queue.push(request("low", request_id="l1"), 1.0, 1.0)
    queue.push(request("high", request_id="h0"), 1.0, 0.0)
    assert queue.expired(29.9) == []
    assert [each.request.request_id for each in queue.expired(30.0)] == ["l0"]
    assert [each.request.request_id for each in queue.expired(200.0)] == ["l1", "h0"]
    assert len(queue) == 0


def test_a_request_put_back_stands_before_its_tier_and_before_the_other_tiers() -> None:
    queue = queues()
    queue.push(request("low", request_id="l"), 1.0, 0.0)
    queue.push(request("high", request_id="h"), 1.0, 0.0)
    queue.push_front(request("high", request_id="again"), 1.0, 5.0)
    assert head_ids(queue) == ["again", "l"]
    queue.remove("again")
    assert head_ids(queue) == ["l", "h"]


def test_a_request_put_back_keeps_nobody_behind_it_beyond_the_limit() -> None:
    queue = queues()
    queue.push(request("low", request_id="old"), 1.0, 0.0)
    queue.push_front(request("low", request_id="again"), 1.0, 29.0)
    assert [each.request.request_id for each in queue.expired(30.0)] == ["old"]
    assert queue.expired(58.9) == []
    assert [each.request.request_id for each in queue.expired(59.0)] == ["again"]


def test_the_work_before_a_due_time_is_the_sum_of_what_is_served_before() -> None:
    queue = queues()
    queue.push(request("low"), 100.0, 0.0)  # due at 30
    queue.push(request("high"), 5000.0, 0.0)  # due at 120
    assert queue.tokens_before(29.0) == 0.0
    assert queue.tokens_before(30.0) == 100.0
    assert queue.tokens_before(120.0) == 5100.0


def test_the_oldest_wait_is_the_heads() -> None:
    queue = queues()
    assert queue.oldest_wait_s("low", 9.0) == 0.0
    queue.push(request("low"), 1.0, 2.0)
    queue.push(request("low"), 1.0, 5.0)
    assert queue.oldest_wait_s("low", 9.0) == pytest.approx(7.0)
