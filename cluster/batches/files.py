"""The files of tenants, apart from their contents. Every call blocks; it raises ``StoreError``
where the store does not answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select
from sqlalchemy.orm import Session

from cluster.batches.clock import db_now
from cluster.batches.tables import BatchRow, FileRow
from cluster.batches.views import file_object


class NotThere(LookupError):
    """The tenant has no such file, batch, or place in a list."""


class InUse(Exception):
    """A batch that is not over reads the file."""


class TooMany(Exception):
    """The tenant has as many as it may have. ``str()`` says of what."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose contents are in the folder already."""

    id: str
    tenant: str
    purpose: str
    filename: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for; ``after`` is the id of the last one seen."""

    limit: int = 20
    after: str | None = None
    newest_first: bool = True


class Files:
    """Of all tenants; none is found under another tenant's name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def check_room(self, tenant: str, max_files: int, max_bytes: int) -> None:
        """Raises ``TooMany``."""
        query = select(func.count(), func.coalesce(func.sum(FileRow.size_bytes), 0)).where(
            FileRow.tenant == tenant
        )
        with self._engine.connect() as connection:
            count, size_bytes = connection.execute(query).one()
        if count >= max_files:
            raise TooMany(f"{max_files} files")
        if size_bytes >= max_bytes:
            raise TooMany(f"{max_bytes} bytes in files")

    def add(self, file: NewFile, retain_s: float) -> dict[str, Any]:
        """Returns OpenAI's file object."""
        with Session(self._engine) as session, session.begin():
            session.execute(insert(FileRow).values(file_values(file, retain_s)))
            return file_object(session.get_one(FileRow, file.id))

    def get(self, tenant: str, file_id: str) -> dict[str, Any]:
        """OpenAI's file object. Raises ``NotThere``."""
        with Session(self._engine) as session:
            return file_object(self._found(session, tenant, file_id))

    def page(
        self, tenant: str, page: Page, purpose: str | None
    ) -> tuple[list[dict[str, Any]], bool]:
        """OpenAI's file objects, and whether there are more. Raises ``NotThere``."""
        with Session(self._engine) as session:
            query = select(FileRow).where(FileRow.tenant == tenant, FileRow.expires_at > db_now())
            if purpose is not None:
                query = query.where(FileRow.purpose == purpose)
            rows = session.scalars(paged(session, query, FileRow, tenant, page)).all()
            return [file_object(row) for row in rows[: page.limit]], len(rows) > page.limit

    def delete(self, tenant: str, file_id: str) -> None:
        """Raises ``NotThere`` and ``InUse``. Its contents are left to the caller."""
        reads = select(BatchRow.id).where(
            BatchRow.tenant == tenant,
            BatchRow.phase != "done",
            BatchRow.input_file_id == file_id,
        )
        gone = delete(FileRow).where(
            FileRow.tenant == tenant, FileRow.id == file_id, ~reads.exists()
        )
        with Session(self._engine) as session, session.begin():
            if session.execute(gone).rowcount:  # type: ignore[attr-defined]
                return
            self._found(session, tenant, file_id)
            raise InUse

    def expired(self, most: int) -> Sequence[str]:
        """Ids of files that are too old, and that no batch reads any more."""
        reads = select(BatchRow.id).where(
            BatchRow.phase != "done", BatchRow.input_file_id == FileRow.id
        )
        query = select(FileRow.id).where(FileRow.expires_at <= db_now(), ~reads.exists())
        with self._engine.connect() as connection:
            return connection.scalars(query.limit(most)).all()

    def forget(self, file_id: str) -> None:
        """The contents are deleted."""
        with self._engine.begin() as connection:
            connection.execute(delete(FileRow).where(FileRow.id == file_id))

    def _found(self, session: Session, tenant: str, file_id: str) -> FileRow:
        row = session.scalars(
            select(FileRow).where(
                FileRow.tenant == tenant, FileRow.id == file_id, FileRow.expires_at > db_now()
            )
        ).one_or_none()
        if row is None:
            raise NotThere
        return row


def file_values(file: NewFile, retain_s: float) -> dict[str, Any]:
    """The columns of a new file."""
    return {
        "id": file.id,
        "tenant": file.tenant,
        "purpose": file.purpose,
        "filename": file.filename,
        "size_bytes": file.size_bytes,
        "created_at": db_now(),
        "expires_at": db_now() + retain_s,
    }


def paged(session: Session, query: Any, row: Any, tenant: str, page: Page) -> Any:
    """``query``, in order, from where the page begins, with one more than it holds."""
    order = (
        (row.created_at.desc(), row.id.desc()) if page.newest_first else (row.created_at, row.id)
    )
    if page.after is not None:
        after = session.execute(
            select(row.created_at, row.id).where(row.tenant == tenant, row.id == page.after)
        ).one_or_none()
        if after is None:
            raise NotThere
        beyond = row.created_at < after.created_at, row.id < after.id
        if not page.newest_first:
            beyond = row.created_at > after.created_at, row.id > after.id
        query = query.where(beyond[0] | ((row.created_at == after.created_at) & beyond[1]))
    return query.order_by(*order).limit(page.limit + 1)
