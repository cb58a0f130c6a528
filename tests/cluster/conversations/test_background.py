"""Responses in the background are one gateway's at a time, and end once."""

import threading
from typing import Any

import pytest
from sqlalchemy import func, select, update

from cluster.batches.files import TooMany
from cluster.batches.views import Owner
from cluster.conversations.archive import Archive, NotKept
from cluster.conversations.background import Answering, Order, Orders
from cluster.conversations.tables import BackgroundRow, ResponseRow
from cluster.tenants.store import Store


def order(number: int = 1, tenant: str = "a") -> Order:
    owner = Owner(tenant, "key-1", ("low", "medium"), ("m",))
    return Order(f"resp_{number}", owner, "resp_0", 1e9 + number, b"[1]", b'{"k":1}', b'{"s":1}')


class Desk:
    """One store, and what is asked of it."""

    def __init__(self, store: Store) -> None:
        self.engine = store.engine
        self.orders = Orders(store.engine)
        self.archive = Archive(store.engine)

    def gateway(self, name: str) -> Answering:
        return Answering(self.engine, name, 60.0)

    def lapse(self, holder: str) -> None:
        """The gateway has been silent for longer than its leases."""
        row = BackgroundRow
        with self.engine.begin() as connection:
            connection.execute(update(row).where(row.holder == holder).values(leased_until=1.0))

    def count(self, row: Any) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(row)).scalar_one())


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


def test_what_is_asked_for_is_seen_by_its_tenant_only_until_it_is_over(desk: Desk) -> None:
    desk.orders.add(order(), 10)
    found = desk.orders.get("a", "resp_1")
    assert found is not None
    assert (found.begun, found.input, found.shown) == (False, b"[1]", b'{"s":1}')
    assert desk.orders.get("b", "resp_1") is None
    assert not desk.orders.cancel("b", "resp_1", lambda shown: shown)
    assert not desk.orders.delete("b", "resp_1")

    one = desk.gateway("one")
    lease = one.lease("resp_1")
    assert lease is not None
    assert lease.order == order()
    assert (lease.fence, lease.attempts) == (1, 0)
    assert lease.age_s > 0
    begun = desk.orders.get("a", "resp_1")
    assert begun is not None
    assert begun.begun
    assert one.finish(lease, b"[2]", b'{"r":1}')
    assert desk.orders.get("a", "resp_1") is None
    kept = desk.archive.get("a", "resp_1", 0.0)
    assert (kept.previous_id, kept.created_at) == ("resp_0", 1e9 + 1)
    assert (kept.input, kept.output, kept.response) == (b"[1]", b"[2]", b'{"r":1}')
    assert desk.count(BackgroundRow) == 0


def test_there_is_a_bound_on_what_a_tenant_has_open(desk: Desk) -> None:
    for number in range(3):
        desk.orders.add(order(number), 3)
    with pytest.raises(TooMany):
        desk.orders.add(order(3), 3)
    desk.orders.add(order(4, "b"), 3)
    assert desk.count(BackgroundRow) == 4


def test_a_lease_is_one_gateways_and_who_takes_over_has_the_last_word(desk: Desk) -> None:
    desk.orders.add(order(), 10)
    one, two = desk.gateway("one"), desk.gateway("two")
    first = one.lease("resp_1")
    assert first is not None
    assert two.lease("resp_1") is None
    assert two.waiting() == ([], {})
    assert one.renew() == one.held() == {("resp_1", 1)}
    assert two.held() == set()

    desk.lapse("one")
    assert [each.batch_id for each in two.waiting()[0]] == ["resp_1"]
    second = two.lease("resp_1")
    assert second is not None
    assert (second.fence, second.attempts) == (2, 1)  # the one that was lost counts
    assert one.held() == set()
    assert not one.finish(first, b"[1]", b"{}")
    one.put_back(first, 0.0, counted=True)
    assert two.held() == {("resp_1", 2)}
    assert two.finish(second, b"[2]", b"{}")
    assert not two.finish(second, b"[2]", b"{}")
    assert desk.archive.get("a", "resp_1", 0.0).output == b"[2]"
    assert desk.count(ResponseRow) == 1


def test_one_that_was_put_back_waits_and_may_not_count(desk: Desk) -> None:
    desk.orders.add(order(), 10)
    one = desk.gateway("one")
    attempts = []
    for counted in (False, True, False):
        lease = one.lease("resp_1")
        assert lease is not None
        attempts.append(lease.attempts)
        one.put_back(lease, -1.0, counted)
    assert attempts == [0, 0, 1]
    last = one.lease("resp_1")
    assert last is not None
    one.put_back(last, 60.0, counted=False)
    assert one.lease("resp_1") is None
    assert one.waiting()[0] == []
    found = desk.orders.get("a", "resp_1")
    assert found is not None
    assert found.begun


def test_who_waits_is_told_by_age_and_tenant(desk: Desk) -> None:
    for number, tenant in ((3, "a"), (1, "b"), (2, "a")):
        desk.orders.add(order(number, tenant), 10)
    one = desk.gateway("one")
    waiting, busy = one.waiting()
    assert [(each.batch_id, each.tenant) for each in waiting] == [
        ("resp_1", "b"), ("resp_2", "a"), ("resp_3", "a"),
    ]  # fmt: skip
    assert busy == {}
    assert one.lease("resp_2") is not None
    waiting, busy = one.waiting()
    assert ([each.batch_id for each in waiting], busy) == (["resp_1", "resp_3"], {"a": 1})


def test_a_cancelled_one_is_over_and_its_gateway_learns_of_it(desk: Desk) -> None:
    desk.orders.add(order(), 10)
    one = desk.gateway("one")
    lease = one.lease("resp_1")
    assert lease is not None
    assert desk.orders.cancel("a", "resp_1", lambda shown: shown + b" ")
    assert one.held() == one.renew() == set()
    assert not one.finish(lease, b"[2]", b"{}")
    kept = desk.archive.get("a", "resp_1", 0.0)
    assert (kept.input, kept.output, kept.response) == (b"[1]", b"[]", b'{"s":1} ')
    assert not desk.orders.cancel("a", "resp_1", lambda shown: shown)
    desk.orders.add(order(2), 10)
    assert desk.orders.delete("a", "resp_2")
    with pytest.raises(NotKept):
        desk.archive.get("a", "resp_2", 0.0)


def test_of_many_gateways_one_gets_it_and_of_cancel_and_finish_one(desk: Desk) -> None:
    for number in range(12):
        desk.orders.add(order(number), 100)
    taken: list[tuple[str, str]] = []
    ends: list[str] = []

    def work(name: str) -> None:
        gateway = desk.gateway(name)
        for number in range(12):
            lease = gateway.lease(f"resp_{number}")
            if lease is not None:
                taken.append((lease.order.id, name))
                if gateway.finish(lease, b"[]", b"{}"):
                    ends.append(lease.order.id)

    def cancel() -> None:
        for number in reversed(range(12)):
            if desk.orders.cancel("a", f"resp_{number}", lambda shown: shown):
                ends.append(f"resp_{number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two", "three")]
    threads.append(threading.Thread(target=cancel))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each for each, _ in taken}) == len(taken)
    assert sorted(ends) == sorted(f"resp_{number}" for number in range(12))
    assert (desk.count(BackgroundRow), desk.count(ResponseRow)) == (0, 12)
