"""What gateways know: changes reach all of them, and what is known outlasts the store."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import event, text

from cluster.tenants.book import Book
from cluster.tenants.caller import Limited, Limits
from cluster.tenants.directory import Directory
from cluster.tenants.orders import NewTenant, Rotation, TenantChange
from cluster.tenants.snapshot import Snapshot
from cluster.tenants.store import Store, open_store
from tests.cluster.tenants.making import (
    ANNE,
    SECRET,
    Clock,
    book_of,
    fresh_store,
    made_key,
    sqlite_url,
)
from tests.services import postgres_server

PERIOD_S = 0.5
"""The default of access.refresh_s."""


@contextmanager
def directory(url: str, period_s: float = PERIOD_S) -> Iterator[Directory]:
    made = Directory(open_store(url), period_s=period_s)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def wait_until(true: Callable[[], bool], within_s: float = 10.0) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, "it did not come about"
        time.sleep(0.005)
    return time.monotonic() - began


def known(snapshot: Snapshot | None, key_id: str) -> bool:
    if snapshot is None or key_id not in snapshot.keys:
        return False
    ends_at = snapshot.keys[key_id].ends_at
    return ends_at is None or ends_at > time.time()


def test_a_revoked_key_is_refused_by_two_gateways_within_two_seconds(store_url: str) -> None:
    store = fresh_store(store_url)
    book = Book(store, SECRET)
    key = made_key(book).key
    with directory(store_url) as one, directory(store_url) as other:
        both = one, other
        wait_until(lambda: all(known(each.snapshot, key.id) for each in both))
        book.revoke_key(key.id, ANNE)
        took_s = wait_until(lambda: not any(known(each.snapshot, key.id) for each in both))
        assert took_s < 2.0
        new = made_key(book).key
        assert wait_until(lambda: all(known(each.snapshot, new.id) for each in both)) < 2.0
        book.set_tenant("acme", TenantChange(enabled=False), ANNE)
        took_s = wait_until(lambda: not any(known(each.snapshot, new.id) for each in both))
        assert took_s < 2.0
    store.close()


def test_nothing_is_read_again_while_nothing_changes(store: Store, book: Book) -> None:
    made_key(book)
    statements: list[str] = []
    event.listen(
        store.engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, *rest: statements.append(statement),
    )
    seen: list[Snapshot] = []
    made = Directory(store, period_s=1.0, on_change=seen.append)
    assert made.refresh()
    statements.clear()
    assert made.refresh()
    assert len(statements) == 1
    assert "changes" in statements[0]
    assert len(seen) == 1
    made_key(book)
    assert made.refresh()
    assert len(seen) == 2


def test_a_key_is_known_with_all_that_holds_for_it(store: Store, book: Book) -> None:
    book.create_tenant(
        NewTenant.model_validate(
            {
                "name": "acme",
                "weight": 3,
                "priority": True,
                "tiers": ["low", "medium"],
                "models": ["m", "n"],
                "default_tier": "medium",
                "limits": {"all": {"requests_per_minute": 5}, "medium": {"tokens_per_day": 7}},
            }
        ),
        ANNE,
    )
    key = made_key(
        book,
        team="t",
        project="p",
        scopes=["generate"],
        tiers=["low"],
        models=["m"],
        default_tier="low",
        limits={"all": {"concurrent_requests": 2, "soft_share": 0.5}},
    ).key
    made = Directory(store, period_s=1.0)
    made.refresh()
    assert made.snapshot is not None
    caller = made.snapshot.keys[key.id].caller
    assert (caller.tenant, caller.key_id, caller.team, caller.project) == (
        "acme",
        key.id,
        "t",
        "p",
    )
    assert (caller.scopes, caller.tiers, caller.models) == (
        frozenset({"generate"}),
        frozenset({"low"}),
        frozenset({"m"}),
    )
    assert (caller.default_tier, caller.weight, caller.cache_group) == ("low", 3.0, "tenant:acme")
    assert caller.priority
    assert caller.limits == (
        Limited("tenant:acme", None, Limits(requests_per_minute=5)),
        Limited("tenant:acme", "medium", Limits(tokens_per_day=7)),
        Limited(f"key:{key.id}", None, Limits(concurrent_requests=2, soft_share=0.5)),
    )
    assert made.snapshot.weights == {"acme": 3.0}


def test_a_key_never_has_more_than_its_tenant_has_now(store: Store, book: Book) -> None:
    key = made_key(book, tiers=["low", "high"], models=["m", "n"]).key
    book.set_tenant("acme", TenantChange(tiers=["high"], models=["n", "o"]), ANNE)
    made = Directory(store, period_s=1.0)
    made.refresh()
    assert made.snapshot is not None
    caller = made.snapshot.keys[key.id].caller
    assert (caller.tiers, caller.models) == (frozenset({"high"}), frozenset({"n"}))


def test_a_tenant_cannot_get_into_a_cache_group_by_its_name(store: Store, book: Book) -> None:
    for name, group in (("shared", ""), ("a", "shared"), ("b", "shared")):
        book.create_tenant(NewTenant(name=name, cache_group=group), ANNE)
    made = Directory(store, period_s=1.0)
    made.refresh()
    assert made.snapshot is not None
    groups = {name: caller.cache_group for name, caller in made.snapshot.tenants.items()}
    assert groups["a"] == groups["b"] != groups["shared"]


def test_both_keys_of_a_rotation_are_good_until_the_overlap_ends(store: Store, book: Book) -> None:
    old = made_key(book).key
    new = book.rotate_key(old.id, Rotation(overlap_s=3600), ANNE).key
    made = Directory(store, period_s=1.0)
    made.refresh()
    assert made.snapshot is not None
    ends = {key: made.snapshot.keys[key].ends_at for key in (old.id, new.id)}
    assert ends[new.id] is None
    assert ends[old.id] == next(key.revoked_at for key in book.keys("acme") if key.id == old.id)


def test_the_next_expiry_is_that_of_a_good_key(store: Store, book: Book, clock: Clock) -> None:
    made = Directory(store, period_s=1.0)

    def expiry_s() -> float:
        made.refresh()
        assert made.snapshot is not None
        return made.snapshot.expiry_s(clock.now)

    key = made_key(book).key
    assert expiry_s() == math.inf
    made_key(book, expires_in_s=500)
    soon = made_key(book, expires_in_s=100).key
    assert expiry_s() == pytest.approx(100)
    book.rotate_key(soon.id, Rotation(overlap_s=10), ANNE)
    book.revoke_key(key.id, ANNE)
    assert expiry_s() == pytest.approx(500)
    clock.now += 501
    assert expiry_s() == math.inf


def test_while_the_store_is_away_what_is_known_goes_on(tmp_path: Path) -> None:
    with postgres_server() as url:
        key = made_key(book_of(fresh_store(url))).key
        made = Directory(open_store(url), period_s=0.1)
        made.start()
        wait_until(lambda: known(made.snapshot, key.id))
        assert made.status().store == "ok"
    wait_until(lambda: made.status().store == "away")
    status = made.status()
    assert known(made.snapshot, key.id)
    assert status.away_s > 0
    assert "trireme@" not in status.error
    assert status.known
    made.stop()


def test_a_store_that_is_not_there_at_the_start_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "mounted-later"
    url = sqlite_url(folder)
    store = open_store(url)
    folder.joinpath("store.sqlite").unlink()
    folder.rmdir()
    made = Directory(store, period_s=0.05)
    assert not made.refresh()
    assert (made.status().store, made.status().known) == ("away", False)
    folder.mkdir()
    assert made.refresh()
    assert (made.status().store, made.status().known) == ("ok", True)
    made.stop()


def test_a_store_that_hangs_counts_as_away_and_is_read_again_when_it_goes_on() -> None:
    """PostgreSQL's processes are held, so that connections stay and nothing is answered."""
    with postgres_server() as url:
        store = fresh_store(url)
        book = book_of(store)
        key = made_key(book).key
        with directory(url, 0.1) as made:
            wait_until(lambda: known(made.snapshot, key.id))
            with store.engine.connect() as connection:
                main = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            pids = _family(int(main))
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                wait_until(lambda: made.status().store == "away", within_s=8)
                assert known(made.snapshot, key.id)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            wait_until(lambda: made.status().store == "ok")
            other = made_key(book).key
            wait_until(lambda: known(made.snapshot, other.id))
        store.close()


def _family(pid: int) -> list[int]:
    """The postmaster of a backend, and all its children."""
    postmaster = psutil.Process(pid).parent()
    assert postmaster is not None
    return [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]


def test_a_thousand_keys_are_read_in_less_than_a_refresh(store: Store, book: Book) -> None:
    book.create_tenant(NewTenant(name="acme"), ANNE)
    digest = "00" * 32
    with store.engine.begin() as connection:
        for number in range(1000):
            connection.execute(
                text(
                    "INSERT INTO keys (id, tenant, team, project, label, digest, scopes, "
                    "created_at) VALUES (:id, 'acme', '', '', '', :digest, '[\"generate\"]', 1)"
                ),
                {"id": f"{number:012}", "digest": digest},
            )
    made = Directory(store, period_s=1.0)
    began = time.process_time()
    assert made.refresh()
    took_s = time.process_time() - began
    assert made.snapshot is not None
    assert len(made.snapshot.keys) == 1000
    assert took_s < PERIOD_S, f"{took_s:.3f} s"
