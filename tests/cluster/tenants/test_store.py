"""The schema comes up from nothing on both databases, and is what the tables say."""

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from cluster.tenants.base import Base
from cluster.tenants.store import BadUrl, Store, head_revision, open_store, without_password
from tests.cluster.tenants.making import sqlite_url


def test_an_empty_database_is_brought_up_to_the_newest_schema(store_url: str) -> None:
    store = open_store(store_url)
    assert store.revision() is None
    store.migrate()
    assert store.revision() == head_revision()
    store.migrate()
    store.close()


def test_the_migrations_make_what_the_tables_say(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        own = set(Base.metadata.tables)
        found = [
            each
            for each in compare_metadata(context, Base.metadata)
            if not (each[0] == "remove_table" and each[1].name not in own)
            and not (each[0] == "remove_index" and each[1].table.name not in own)
        ]
    assert found == []


def test_gateways_that_start_at_once_migrate_one_after_the_other(store_url: str) -> None:
    faults: list[BaseException] = []

    def start() -> None:
        store = open_store(store_url)
        try:
            store.migrate()
        except BaseException as error:
            faults.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize("verb", ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit"])
def test_the_database_itself_refuses_to_change_the_audit_log(store: Store, verb: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO audit (at, who, action, subject, detail, request_from) "
                "VALUES (1, 'anne', 'a', 's', '{}', '')"
            )
        )
    with (
        pytest.raises(DatabaseError, match="append-only"),
        store.engine.begin() as connection,
    ):
        connection.execute(text(verb))
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT who FROM audit")).scalars().all() == ["anne"]


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    open_store(sqlite_url(tmp_path / "deeper")).close()
    assert (tmp_path / "deeper" / "store.sqlite").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://h/db", "no kind of store"),
        ("nonsense", "no URL"),
        ("sqlite://", "path of its file"),
        ("postgresql://user:hunter2@h", "names no database"),
    ],
)
def test_other_urls_are_refused_without_telling_a_password(url: str, words: str) -> None:
    with pytest.raises(BadUrl, match=words) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_a_url_is_shown_without_its_password() -> None:
    assert "hunter2" not in without_password("postgresql://user:hunter2@host/db")
