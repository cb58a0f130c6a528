"""The same stores as the tests of tenants: SQLite, and a real PostgreSQL."""

from tests.cluster.tenants.conftest import postgres, store, store_url

__all__ = ["postgres", "store", "store_url"]
