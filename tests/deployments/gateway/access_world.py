"""A store with callers in it, and the identity that a gateway checks them by."""

from collections import Counter
from pathlib import Path

from cluster.tenants.book import Book, MadeKey
from cluster.tenants.directory import Directory
from cluster.tenants.orders import NewKeyOrder, NewTenant, TenantChange
from cluster.tenants.store import open_store
from cluster.tenants.tokens import Tokens
from deployments.gateway.identity import Identity
from tests.cluster.tenants.making import ANNE, SECRET, fresh_store, sqlite_url


class Callers:
    """Tenants and keys of a SQLite store, and one gateway's view of them."""

    def __init__(self, folder: Path, tokens: Tokens | None = None) -> None:
        url = sqlite_url(folder)
        self.store = fresh_store(url)
        self.book = Book(self.store, SECRET)
        self.directory = Directory(open_store(url), period_s=1.0)
        self.directory.refresh()
        self.refused: Counter[str] = Counter()
        self.identity = Identity(
            self.directory,
            SECRET,
            tokens,
            public_metrics=True,
            refused=lambda reason: self.refused.update([reason]),
        )

    def tenant(self, name: str, **more: object) -> None:
        self.book.create_tenant(NewTenant.model_validate({"name": name, **more}), ANNE)
        self.directory.refresh()

    def change(self, name: str, **more: object) -> None:
        self.book.set_tenant(name, TenantChange.model_validate(more), ANNE)
        self.directory.refresh()

    def key(self, tenant: str = "acme", **more: object) -> MadeKey:
        if tenant not in {each.name for each in self.book.tenants()}:
            self.tenant(tenant)
        order = NewKeyOrder.model_validate({"tenant": tenant, **more})
        made = self.book.create_key(order, ANNE)
        self.directory.refresh()
        return made

    def close(self) -> None:
        self.directory.stop()
        self.store.close()
