"""Responses are kept for their tenant, in order, and no longer than they may be."""

import time

import pytest
from sqlalchemy import func, select

from cluster.config import ResponsesConfig
from cluster.conversations.archive import Archive, Kept, NotKept, TooLong
from cluster.conversations.expiry import BATCH_ROWS, Expiry, expire
from cluster.conversations.policy import Policy, may_keep, policy_of
from cluster.conversations.tables import ResponseRow
from cluster.tenants.store import Store, StoreError

NOW = 1_795_348_900.0
ALWAYS = 0.0


def kept(tenant: str, number: int, previous: int | None = None, at: float = NOW) -> Kept:
    before = None if previous is None else f"resp_{previous}"
    question, answer = f'["q{number}\\u0000"]'.encode(), f'["a{number}"]'.encode()
    return Kept(tenant, f"resp_{number}", before, at, question, answer, b"{}")


@pytest.fixture
def archive(store: Store) -> Archive:
    return Archive(store.engine)


def turns(archive: Archive, tenant: str, number: int, **limits: int) -> list[tuple[bytes, bytes]]:
    bounds = {"max_turns": 10, "max_bytes": 10_000} | limits
    return archive.turns(tenant, f"resp_{number}", ALWAYS, **bounds)


def held(store: Store, tenant: str) -> int:
    query = select(func.count()).where(ResponseRow.tenant == tenant)
    with store.engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def test_a_conversation_is_read_from_its_first_turn_on(archive: Archive) -> None:
    for number in range(4):
        archive.put(kept("a", number, number - 1 if number else None))
    archive.put(kept("a", 9, 1))  # another one, which goes on from the second turn
    assert [answer for _, answer in turns(archive, "a", 3)] == [
        b'["a0"]', b'["a1"]', b'["a2"]', b'["a3"]',
    ]  # fmt: skip
    assert [question for question, _ in turns(archive, "a", 9)] == [
        b'["q0\\u0000"]', b'["q1\\u0000"]', b'["q9\\u0000"]',
    ]  # fmt: skip
    assert archive.get("a", "resp_9", ALWAYS) == kept("a", 9, 1)


def test_another_tenant_finds_nothing_and_deletes_nothing(archive: Archive) -> None:
    archive.put(kept("a", 1))
    for tenant in ("b", "", "A"):
        with pytest.raises(NotKept):
            archive.get(tenant, "resp_1", ALWAYS)
        with pytest.raises(NotKept):
            turns(archive, tenant, 1)
        assert not archive.delete(tenant, "resp_1")
    archive.put(kept("b", 2, 1))  # goes on from a response that is not its tenant's
    with pytest.raises(NotKept):
        turns(archive, "b", 2)
    assert archive.get("a", "resp_1", ALWAYS)


def test_without_one_of_its_turns_a_conversation_is_gone(archive: Archive) -> None:
    for number in range(3):
        archive.put(kept("a", number, number - 1 if number else None))
    assert archive.delete("a", "resp_0")
    with pytest.raises(NotKept):
        turns(archive, "a", 2)
    assert not archive.delete("a", "resp_0")


def test_what_is_too_old_is_not_found_before_it_is_deleted(archive: Archive) -> None:
    archive.put(kept("a", 0, at=NOW - 10))
    archive.put(kept("a", 1, 0, at=NOW))
    with pytest.raises(NotKept):
        archive.get("a", "resp_0", NOW - 5)
    with pytest.raises(NotKept):
        archive.turns("a", "resp_1", NOW - 5, max_turns=10, max_bytes=10_000)
    assert archive.get("a", "resp_1", NOW - 5)


def test_turns_and_bytes_are_bounded(archive: Archive) -> None:
    for number in range(5):
        archive.put(kept("a", number, number - 1 if number else None))
    whole = sum(len(question) + len(answer) for question, answer in turns(archive, "a", 4))
    assert len(turns(archive, "a", 4, max_turns=5, max_bytes=whole)) == 5
    with pytest.raises(TooLong, match="4 turns"):
        turns(archive, "a", 4, max_turns=4)
    with pytest.raises(TooLong, match="bytes"):
        turns(archive, "a", 4, max_bytes=whole - 1)


def test_an_id_is_written_once(archive: Archive) -> None:
    archive.put(kept("a", 1))
    with pytest.raises(StoreError):
        archive.put(kept("a", 1))
    archive.put(kept("b", 1))


def test_each_tenant_is_held_to_its_own_policy(store: Store, archive: Archive) -> None:
    for number in range(20):
        for tenant in ("days", "rows", "bytes", "free"):
            archive.put(kept(tenant, number, at=NOW - 100 * number))
    one = len(b"".join((kept("x", 1).input, kept("x", 1).output, kept("x", 1).response)))
    rules = {
        "days": Policy(True, 450.0, 100, 1 << 20),
        "rows": Policy(True, 1e6, 7, 1 << 20),
        "bytes": Policy(True, 1e6, 100, 3 * one),
        "free": Policy(True, 1e6, 20, 1 << 20),
    }
    assert expire(store.engine, rules.__getitem__, NOW) == 15 + 13 + 17
    assert {tenant: held(store, tenant) for tenant in rules} == {
        "days": 5, "rows": 7, "bytes": 3, "free": 20,
    }  # fmt: skip
    assert archive.get("rows", "resp_0", ALWAYS)  # the newest stay
    assert expire(store.engine, rules.__getitem__, NOW) == 0


def test_more_than_a_batch_is_deleted_at_once(store: Store, archive: Archive) -> None:
    for number in range(BATCH_ROWS + 5):
        archive.put(kept("a", number, at=NOW - 100))
    archive.put(kept("a", 9_999))
    assert expire(store.engine, lambda _: Policy(True, 50.0, 10, 1 << 20), NOW) == BATCH_ROWS + 5
    assert held(store, "a") == 1


def test_a_thread_does_so_from_the_start(store: Store, archive: Archive) -> None:
    archive.put(kept("a", 1, at=time.time() - 100))
    archive.put(kept("a", 2, at=time.time()))
    thread = Expiry(store.engine, lambda _: Policy(True, 50.0, 10, 1 << 20), store.migrate)
    thread.start()
    until = time.monotonic() + 10
    while held(store, "a") == 2 and time.monotonic() < until:
        time.sleep(0.01)
    thread.stop()
    assert held(store, "a") == 1


def test_a_tenant_may_differ_from_the_rest() -> None:
    config = ResponsesConfig.model_validate(
        {
            "enabled": True,
            "retain_days": 3,
            "max_responses": 9,
            "tenants": {"a": {"retain_days": 1}, "b": {"enabled": False}},
        }
    )
    assert policy_of(config, "a") == Policy(True, 86_400, 9, config.max_bytes)
    assert policy_of(config, "c").retain_s == 3 * 86_400
    assert [may_keep(config, tenant) for tenant in ("a", "b", "c", "")] == [True, False, True, True]
    assert not may_keep(ResponsesConfig(), "a")
