"""The store: one database for tenants, keys, limits, the audit log and usage.

SQLite for one machine, PostgreSQL for a cluster. Every call blocks: a gateway makes them in threads
of their own, never on its event loop.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

SCHEMES = ("sqlite", "postgresql")
DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
"""What a URL's scheme is taken for; ``postgres`` is what several hosters write."""

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 10_000
"""A store that does not answer is away; nothing waits for it any longer than that."""

SQLITE_WAIT_S = 10.0
"""For another process's write, which takes milliseconds."""

MIGRATION_LOCK = 0x7472_6972
"""PostgreSQL's advisory lock for it: gateways that start at once migrate one after the other."""

StoreError = SQLAlchemyError
"""What every call may raise: the store is away, or does not do as it is told."""


class BadUrl(ValueError):
    """Not the URL of a store. ``str()`` is one line and holds no password."""


def store_url(text_url: str) -> URL:
    """The URL with the driver that is used. Raises ``BadUrl``."""
    try:
        url = make_url(text_url)
    except ArgumentError as error:
        raise BadUrl("it is no URL of a database") from error
    scheme = url.drivername.partition("+")[0]
    if scheme not in DRIVERS:
        raise BadUrl(f"{scheme[:40]} is no kind of store that is known")
    if scheme == "sqlite" and not url.database:
        raise BadUrl("a SQLite store needs the path of its file")
    if scheme != "sqlite" and not url.database:
        raise BadUrl("it names no database")
    return url.set(drivername=DRIVERS[scheme])


def without_password(text_url: str) -> str:
    """The URL as it may be shown."""
    try:
        return make_url(text_url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not a URL)"


class Store:
    """An open database; ``engine`` is safe to use from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def kind(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    def migrate(self) -> None:
        """Bring the schema up to date. Several processes may do so at once."""
        if self.kind == "sqlite":
            with _file_lock(Path(f"{self.engine.url.database}.migrating")):
                self._upgrade()
            return
        with self.engine.connect() as guard:
            guard.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            try:
                self._upgrade()
            finally:
                guard.execute(text(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})"))
                guard.commit()

    def _upgrade(self) -> None:
        with self.engine.begin() as connection:
            if _revision(connection) != head_revision():
                command.upgrade(_alembic(connection), "head")

    def revision(self) -> str | None:
        """The schema's step; None for an empty database."""
        with self.engine.connect() as connection:
            return _revision(connection)

    def close(self) -> None:
        self.engine.dispose()


def open_store(url: str) -> Store:
    """The store at ``url``; nothing is asked of it yet. Raises ``BadUrl``."""
    made = store_url(url)
    if made.drivername == "sqlite":
        file = Path(str(made.database))
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        engine = create_engine(made, connect_args={"timeout": SQLITE_WAIT_S})
        event.listen(engine, "connect", _set_up_sqlite)
        return Store(engine)
    connect_args: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
        "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
        "application_name": "trireme",
    }
    if made.query.get("sslmode") == "verify-full" and not (
        "sslrootcert" in made.query or "PGSSLROOTCERT" in os.environ
    ):
        # Else libpq looks for a file in the home folder, which no container has.
        connect_args["sslrootcert"] = "system"
    engine = create_engine(
        made,
        pool_size=2,
        max_overflow=8,
        pool_timeout=CONNECT_TIMEOUT_S,
        # A connection that the server has ended is noticed before it is used.
        pool_pre_ping=True,
        connect_args=connect_args,
    )
    return Store(engine)


def _set_up_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Readers go on while another process writes; and a crash loses nothing that was committed.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _alembic(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "cluster.tenants:migrations")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def head_revision() -> str | None:
    """The newest step that this program knows."""
    return ScriptDirectory.from_config(_alembic()).get_current_head()
