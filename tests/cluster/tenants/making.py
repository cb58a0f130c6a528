"""Stores with tenants and keys for tests: the same tests run on SQLite and on PostgreSQL."""

from pathlib import Path

from cluster.tenants.book import Actor, Book, MadeKey
from cluster.tenants.orders import NewKeyOrder, NewTenant
from cluster.tenants.secret import DoorSecret
from cluster.tenants.store import Store, open_store

SECRET = DoorSecret("a secret of thirty-two characters or more")
ANNE = Actor("cli:anne")


class Clock:
    """Unix time that a test moves."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.sqlite'}"


def fresh_store(url: str) -> Store:
    store = open_store(url)
    store.migrate()
    return store


def book_of(store: Store, clock: Clock | None = None) -> Book:
    return Book(store, SECRET, clock or Clock())


def made_key(book: Book, tenant: str = "acme", **more: object) -> MadeKey:
    """A key of ``tenant``, which is made if it is not there."""
    if tenant not in {each.name for each in book.tenants()}:
        book.create_tenant(NewTenant(name=tenant), ANNE)
    return book.create_key(NewKeyOrder.model_validate({"tenant": tenant, **more}), ANNE)
