"""What operators order of tenants and keys, on both databases."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from cluster.tenants.book import Actor, Book, Conflict, NotThere
from cluster.tenants.keys import PREFIX, key_id_of, make_key
from cluster.tenants.orders import Bounds, NewKeyOrder, NewTenant, Rotation, TenantChange
from cluster.tenants.secret import DoorSecret
from cluster.tenants.store import Store
from tests.cluster.tenants.making import ANNE, SECRET, Clock, book_of, made_key


def everything(store: Store) -> str:
    """The whole content of the database as text."""
    with store.engine.connect() as connection:
        tables = ["tenants", "teams", "projects", "keys", "limits", "audit", "changes"]
        rows = {t: connection.execute(text(f"SELECT * FROM {t}")).all() for t in tables}
    return repr(rows)


def test_a_tenant_is_made_changed_and_deleted(book: Book) -> None:
    made = book.create_tenant(NewTenant(name="acme", weight=2.0, tiers=["low"]), ANNE)
    assert not made.priority
    assert (made.name, made.weight, made.tiers, made.models) == ("acme", 2.0, ["low"], None)
    with pytest.raises(Conflict, match="already there"):
        book.create_tenant(NewTenant(name="acme"), ANNE)
    changed = book.set_tenant("acme", TenantChange(models=["m"], default_tier="low"), ANNE)
    assert (changed.weight, changed.models, changed.default_tier) == (2.0, ["m"], "low")
    assert book.set_tenant("acme", TenantChange(models=None), ANNE).models is None
    assert book.set_tenant("acme", TenantChange(priority=True), ANNE).priority
    assert book.tenant("acme").priority
    book.delete_tenant("acme", ANNE)
    with pytest.raises(NotThere, match="no tenant acme"):
        book.tenant("acme")


def test_limits_are_set_one_by_one_and_taken_away(book: Book) -> None:
    limits: dict[str, Any] = {
        "all": {"requests_per_minute": 10, "cost_per_day": 2.5},
        "high": {"tokens_per_day": 10**12},
    }
    made = book.create_tenant(NewTenant.model_validate({"name": "acme", "limits": limits}), ANNE)
    assert made.limits == {
        "all": {"requests_per_minute": 10, "cost_per_day": 2.5, "soft_share": 0.9},
        "high": {"tokens_per_day": 10**12, "soft_share": 0.9},
    }
    order = TenantChange(
        limits={"all": Bounds(cost_per_day=None), "high": Bounds(tokens_per_day=None)}
    )
    assert book.set_tenant("acme", order, ANNE).limits == {
        "all": {"requests_per_minute": 10, "soft_share": 0.9}
    }


def test_a_tenant_with_good_keys_goes_only_with_them(book: Book, clock: Clock) -> None:
    key = made_key(book, limits={"all": {"requests_per_minute": 1}})
    with pytest.raises(Conflict, match="1 keys that are good"):
        book.delete_tenant("acme", ANNE)
    book.delete_tenant("acme", ANNE, with_keys=True)
    assert book.keys() == []
    expired = made_key(book, expires_in_s=10)
    assert expired.view.limits == {}
    assert key.key.id != expired.key.id
    clock.now += 11
    book.delete_tenant("acme", ANNE)


def test_a_key_has_256_random_bits_and_is_found_by_its_id(book: Book) -> None:
    made = made_key(book, team="search", project="web", label="the web shop", scopes=["generate"])
    assert made.key.text.startswith(f"{PREFIX}{made.key.id}-")
    assert key_id_of(made.key.text) == made.key.id
    assert repr(made.key) == f"NewKey({made.key.id})"
    assert len({make_key().text for _ in range(1000)}) == 1000
    view = made.view
    assert (view.team, view.project, view.state, view.scopes) == (
        "search",
        "web",
        "good",
        ["generate"],
    )
    assert book.tenant("acme").teams == ["search"]
    for broken in (made.key.text[:-1], made.key.text + "x", "sk-" + "a" * 60, ""):
        assert key_id_of(broken) is None


def test_a_stolen_database_has_no_usable_key_in_it(store: Store, book: Book) -> None:
    made = made_key(book)
    rotated = book.rotate_key(made.key.id, Rotation(), ANNE)
    stolen = everything(store)
    for key in (made.key, rotated.key):
        secret = key.text.rpartition("-")[2]
        assert key.id in stolen
        assert secret not in stolen
        assert key.text not in stolen
        # A plain hash could be searched for; what is stored needs the secret that is elsewhere.
        assert hashlib.sha256(key.text.encode()).hexdigest() not in stolen
        assert SECRET.digest(key.text.encode()).hex() in stolen


def test_a_key_cannot_have_what_its_tenant_has_not(book: Book) -> None:
    book.create_tenant(NewTenant(name="acme", tiers=["low"], models=["m"]), ANNE)
    for beyond in ({"tiers": ["high"]}, {"models": ["other"]}, {"default_tier": "medium"}):
        with pytest.raises(Conflict, match="does not have"):
            book.create_key(NewKeyOrder.model_validate({"tenant": "acme", **beyond}), ANNE)
    with pytest.raises(NotThere):
        book.create_key(NewKeyOrder(tenant="other"), ANNE)


def test_rotation_leaves_an_overlap_and_carries_everything_over(book: Book, clock: Clock) -> None:
    limits = {"all": {"requests_per_minute": 3}, "high": {"concurrent_requests": 1}}
    old = made_key(book, team="t", project="p", tiers=["low", "high"], limits=limits)
    new = book.rotate_key(old.key.id, Rotation(overlap_s=60, expires_in_s=1000), ANNE)
    assert new.key.text != old.key.text
    assert (new.view.team, new.view.project, new.view.tiers) == ("t", "p", ["low", "high"])
    assert new.view.limits == old.view.limits
    assert new.view.expires_at == clock.now + 1000
    views = {key.id: key for key in book.keys("acme")}
    first, second = views[old.key.id], views[new.key.id]
    assert (first.state, first.replaced_by, first.revoked_at) == (
        "rotated",
        new.key.id,
        clock.now + 60,
    )
    assert second.state == "good"
    with pytest.raises(Conflict, match="is rotated"):
        book.rotate_key(old.key.id, Rotation(), ANNE)
    clock.now += 61
    assert {key.id: key.state for key in book.keys("acme")}[old.key.id] == "revoked"


def test_a_revoked_key_stays_revoked(book: Book, clock: Clock) -> None:
    key = made_key(book).key
    first = book.revoke_key(key.id, ANNE)
    clock.now += 100
    assert book.revoke_key(key.id, ANNE).revoked_at == first.revoked_at
    with pytest.raises(Conflict, match="is revoked"):
        book.rotate_key(key.id, Rotation(), ANNE)
    with pytest.raises(NotThere, match="no key"):
        book.revoke_key("nosuchkey", ANNE)


def test_every_change_is_audited_with_who_and_when_and_no_secret(
    book: Book, store: Store, clock: Clock
) -> None:
    ben = Actor("admin:ben", "10.0.0.7")
    key = made_key(book)
    new = book.rotate_key(key.key.id, Rotation(), ben)
    book.revoke_key(new.key.id, ben)
    book.set_tenant("acme", TenantChange(weight=3), ben)
    book.delete_tenant("acme", ben, with_keys=True)
    log = book.audit()
    assert [each["action"] for each in reversed(log)] == [
        "tenant.create",
        "key.create",
        "key.rotate",
        "key.revoke",
        "tenant.set",
        "tenant.delete",
    ]
    assert log[0]["who"] == "admin:ben"
    assert log[0]["request_from"] == "10.0.0.7"
    assert log[0]["at"] == clock.now
    assert log[1]["detail"] == {"weight": 3.0}
    told = json.dumps(log)
    for made in (key, new):
        assert made.key.text.rpartition("-")[2] not in told
        assert SECRET.digest(made.key.text.encode()).hex() not in told
    assert [each["id"] for each in book.audit(2, before=log[1]["id"])] == [
        log[2]["id"],
        log[3]["id"],
    ]


def test_a_change_that_fails_leaves_nothing_behind(book: Book, store: Store) -> None:
    made_key(book)
    before = everything(store)
    with pytest.raises(Conflict):
        book.delete_tenant("acme", ANNE)
    with pytest.raises(Conflict):
        book.create_tenant(NewTenant(name="acme"), ANNE)
    assert everything(store) == before


def test_a_key_of_another_secret_is_not_made_while_there_are_good_ones(store: Store) -> None:
    """It would let nobody in, as the gateways have the first one."""
    other = Book(store, DoorSecret("another secret of thirty-two characters"))
    book = Book(store, SECRET)
    key = made_key(book).key
    with pytest.raises(Conflict, match="not the one that the keys of this store were made with"):
        made_key(other)
    book.revoke_key(key.id, ANNE)
    assert made_key(other).view.state == "good"
    with pytest.raises(Conflict):
        made_key(book)


def test_without_the_secret_no_key_is_made(store: Store) -> None:
    book_of(store).create_tenant(NewTenant(name="acme"), ANNE)
    with pytest.raises(Conflict, match="without the access secret"):
        Book(store, None).create_key(NewKeyOrder(tenant="acme"), ANNE)


@pytest.mark.parametrize(
    "order",
    [
        {"name": "Acme"},
        {"name": "a b"},
        {"name": "a" * 65},
        {"name": "acme", "weight": 0},
        {"name": "acme", "weight": float("inf")},
        {"name": "acme", "tiers": ["max"]},
        {"name": "acme", "limits": {"all": {"requests_per_minute": 0}}},
        {"name": "acme", "limits": {"every": {}}},
        {"name": "acme", "limits": {"all": {"requests_per_hour": 1}}},
        {"name": "acme", "secret": "x"},
    ],
)
def test_orders_that_make_no_sense_are_refused(order: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NewTenant.model_validate(order)


def test_two_at_once_do_not_lose_a_change(store_url: str, store: Store, tmp_path: Path) -> None:

    book_of(store).create_tenant(NewTenant(name="acme"), ANNE)
    faults: list[BaseException] = []

    def make() -> None:
        try:
            for _ in range(5):
                made_key(book_of(store))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(book_of(store).keys()) == 15
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT number FROM changes")).scalar_one() == 16
