"""Fair shares under random traffic: the promised bound on the gap, no starvation, no leaks."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.router.fair import work
from deployments.router.fleet import Request
from deployments.router.queues import QueueLimits, TierQueues


def request(request_id: str, tenant: str, prompt_tokens: int) -> Request:
    return Request(request_id, "m", "low", prompt_tokens, 100_000, tenant)


class Shop:
    """Tenants with random requests on a machine with so many places; counts work by tenant.

    ``given`` is the real work of what was dispatched. ``error`` is the largest sum of the errors
    in the charges of one tenant's requests in flight."""

    def __init__(self, rng: random.Random, places: int, quantum: float, out_of_turn: bool) -> None:
        self.rng = rng
        self.queue = TierQueues({"low": QueueLimits(10**6, 1e9, 0)}, quantum=quantum)
        self.places = places
        self.out_of_turn = out_of_turn
        self.real: dict[str, int] = {}
        self.running: dict[str, tuple[str, float, float]] = {}
        self.given: dict[str, float] = {}
        self.largest = self.error = 0.0
        self.pushed = 0

    def push(self, tenant: str, size: int) -> None:
        name = f"{tenant}-{self.pushed}"
        self.pushed += 1
        self.real[name] = self.rng.randint(1, 2 * size)
        self.queue.push(request(name, tenant, self.rng.randint(1, size)), float(size), 0.0)

    def dispatch(self) -> None:
        offered = self.queue.heads("low", 4)
        head = self.rng.choice(offered) if self.out_of_turn else offered[0]
        each = head.request
        charged = work(each.prompt_tokens, head.predicted_tokens)
        real = work(each.prompt_tokens, self.real[each.request_id])
        assert self.queue.dispatch(each.request_id, head.predicted_tokens) is head
        self.running[each.request_id] = each.tenant, charged, real
        self.given[each.tenant] = self.given.get(each.tenant, 0.0) + real
        self.largest = max(self.largest, real)
        errors: dict[str, float] = {}
        for tenant, its_charge, its_real in self.running.values():
            errors[tenant] = errors.get(tenant, 0.0) + abs(its_charge - its_real)
        self.error = max(self.error, *errors.values())

    def finish(self) -> None:
        name = self.rng.choice(list(self.running))
        del self.running[name]
        self.queue.settle(name, self.real[name])

    def step(self) -> None:
        if len(self.running) == self.places:
            self.finish()
        self.dispatch()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**9),
    st.integers(1, 12),
    st.sampled_from([0.0, 2000.0]),
    st.lists(st.sampled_from([20, 300, 3000]), min_size=2, max_size=5),
)
def test_backlogged_tenants_get_the_same_work_within_the_promised_bound(
    seed: int, places: int, quantum: float, sizes: list[int]
) -> None:
    shop = Shop(random.Random(seed), places, quantum, out_of_turn=quantum > 0.0)
    backlogged = {f"t{n}": size for n, size in enumerate(sizes)}
    for tenant, size in backlogged.items():
        for _ in range(3):
            shop.push(tenant, size)
    marks = [dict.fromkeys(backlogged, 0.0)]
    for step in range(400):
        shop.step()
        if shop.rng.random() < 0.2:  # others come and go meanwhile
            shop.push(f"guest{shop.rng.randint(0, 3)}", shop.rng.choice((20, 3000)))
        for tenant, size in backlogged.items():  # always something queued
            shop.push(tenant, size)
        if step % 20 == 0:
            marks.append({tenant: shop.given.get(tenant, 0.0) for tenant in backlogged})
    bound = 2.0 * (shop.largest + quantum + 2.0 * shop.error)
    for later in range(1, len(marks)):
        for earlier in range(later):
            service = [marks[later][tenant] - marks[earlier][tenant] for tenant in backlogged]
            assert max(service) - min(service) <= bound + 1e-6


def test_very_different_requests_get_service_within_the_bound_and_fair_by_jains_index() -> None:
    shop = Shop(random.Random(1), 8, 0.0, out_of_turn=False)
    sizes = {"tiny": 10, "middle": 200, "huge": 5000}
    for _ in range(6000):
        for tenant, size in sizes.items():
            shop.push(tenant, size)
        shop.step()
    gaps = max(shop.given.values()) - min(shop.given.values())
    assert gaps <= 2.0 * (shop.largest + 2.0 * shop.error)
    total = sum(shop.given.values())
    jain = total * total / (len(sizes) * sum(each * each for each in shop.given.values()))
    assert jain >= 0.98


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9))
def test_nothing_is_lost_or_leaked_under_random_use(seed: int) -> None:
    rng = random.Random(seed)
    queue = TierQueues({"low": QueueLimits(50, 20.0, 0)}, max_tenants=4, quantum=500.0)
    waiting: dict[str, Request] = {}
    flying: dict[str, Request] = {}
    for now in range(300):
        chance = rng.random()
        if chance < 0.45 and not queue.is_full("low"):
            each = request(f"r{now}", f"t{rng.randint(0, 9)}", rng.randint(1, 3000))
            queue.push(each, rng.uniform(1.0, 900.0), float(now))
            waiting[each.request_id] = each
        elif chance < 0.75 and waiting:
            head = rng.choice(queue.heads("low", 3)).request
            queue.dispatch(head.request_id, rng.uniform(1.0, 900.0))
            flying[head.request_id] = waiting.pop(head.request_id)
        elif chance < 0.9 and flying:
            done = rng.choice(list(flying))
            if rng.random() < 0.3:
                waiting[done] = flying.pop(done)
                queue.push_front(waiting[done], 50.0, float(now))
            else:
                del flying[done]
                queue.settle(done, rng.randint(0, 2000))
        elif waiting:
            gone = rng.choice(list(waiting))
            del waiting[gone]
            assert queue.remove(gone) is not None
        for expired in queue.expired(float(now)):
            assert now - expired.since_s >= 20.0
            del waiting[expired.request.request_id]
        assert len(queue) == queue.length("low") == len(waiting)
        assert queue.unsettled == len(flying)
        backlogged = {each.tenant for each in waiting.values()}
        assert queue.tenants("low") <= max(4, len(backlogged) + 1)
        assert all(each in queue for each in waiting)
        heads = queue.heads("low", 100)
        assert len({head.request.tenant for head in heads}) == len(heads)
        assert bool(heads) == bool(waiting)
    while heads := queue.heads():
        queue.dispatch(heads[0].request.request_id, 1.0)
        queue.settle(heads[0].request.request_id, 1)
    assert len(queue) == queue.unsettled - len(flying) == 0
    assert queue.tokens_before(1e12) == 0.0


def test_the_large_request_of_a_tenant_is_served_in_its_turn_however_many_small_ones_come() -> None:
    queue = TierQueues({"low": QueueLimits(10**5, 1e9, 0)})
    queue.push(request("large", "large", 50_000), 20_000.0, 0.0)
    small = 0
    for n in range(2000):
        for tenant in ("a", "b", "c"):
            queue.push(request(f"{tenant}{n}", tenant, 50), 25.0, 0.0)
        (head,) = queue.heads("low")
        queue.dispatch(head.request.request_id, head.predicted_tokens)
        if head.request.tenant == "large":
            break
        small += 1
    assert small <= 3


@pytest.mark.parametrize("tenants", [2000])
def test_an_operation_does_not_slow_down_with_the_number_of_tenants(tenants: int) -> None:
    """A scan of 2,000 tenants a request would take ten times as long as 2 do, and more."""

    def cost_s(count: int) -> float:
        queue = TierQueues({"low": QueueLimits(10**6, 1e9, 0)})
        for n in range(4000):
            queue.push(request(f"r{n}", f"t{n % count}", 100), 50.0, 0.0)
        started_s = time.process_time()
        for n in range(2000):
            name = queue.heads("low", 4)[0].request.request_id
            queue.dispatch(name, 50.0)
            queue.settle(name, 20 + n % 60)
        return time.process_time() - started_s

    assert cost_s(tenants) < 5.0 * cost_s(2)


# ------------------------------------------------------------------ weights change while it runs


def served(queue: TierQueues, rounds: int) -> dict[str, int]:
    """How often each tenant was dispatched; every request is settled as it was predicted."""
    found: dict[str, int] = {}
    for _ in range(rounds):
        head = queue.heads("low")[0]
        queue.dispatch(head.request.request_id, 100.0)
        queue.settle(head.request.request_id, 100)
        found[head.request.tenant] = found.get(head.request.tenant, 0) + 1
    return found


def two_backlogged(requests: int = 200) -> TierQueues:
    queue = TierQueues({"low": QueueLimits(10**6, 1e9, 0)}, quantum=0.0)
    for number in range(requests):
        for tenant in "ab":
            queue.push(request(f"{tenant}{number}", tenant, 100), 100.0, 0.0)
    return queue


def test_new_weights_hold_for_what_is_dispatched_from_then_on() -> None:
    queue = two_backlogged()
    before = served(queue, 40)
    assert before == {"a": 20, "b": 20}
    queue.weigh({"a": 3.0})
    after = served(queue, 40)
    assert abs(after["a"] - 30) <= 1
    queue.weigh({})
    again = served(queue, 40)
    assert abs(again["a"] - 20) <= 1


def test_a_refund_counts_by_the_weight_of_its_charge() -> None:
    """Else a tenant whose weight fell while its requests ran would get more back than it paid."""
    queue = two_backlogged()
    queue.weigh({"a": 4.0})
    head = queue.heads("low")[0].request
    assert head.tenant == "a"
    before = queue.counter("low", "a")
    queue.dispatch(head.request_id, 100.0)
    queue.weigh({"a": 0.5})
    queue.settle(head.request_id, 100)
    whole = queue.counter("low", "a") - before
    assert whole == pytest.approx(work(100, 100) / 4.0)
