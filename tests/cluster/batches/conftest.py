"""The same stores as for tenants: SQLite, and a real PostgreSQL."""

from tests.cluster.tenants.conftest import postgres, store, store_url

__all__ = ["postgres", "store", "store_url"]
