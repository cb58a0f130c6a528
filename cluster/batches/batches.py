"""Batches in the store, as their owners see them. Every call blocks; it raises ``StoreError``
where the store does not answer."""

from typing import Any

from sqlalchemy import Engine, case, func, insert, select, update
from sqlalchemy.orm import Session

from cluster.batches.clock import db_now
from cluster.batches.files import NotThere, Page, TooMany, paged
from cluster.batches.tables import BatchRow, FileRow
from cluster.batches.views import Batch, Owner, batch_of

WINDOW_S = 86_400.0
"""OpenAI's one completion window."""


class Batches:
    """Of all tenants; none is found under another tenant's name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        batch_id: str,
        owner: Owner,
        endpoint: str,
        input_file_id: str,
        meta: dict[str, str],
        max_open: int,
    ) -> Batch:
        """Raises ``NotThere`` if the tenant has no such input file, and ``TooMany``."""
        row = BatchRow
        values: dict[str, Any] = {
            "id": batch_id,
            "tenant": owner.tenant,
            "owner": owner.as_dict(),
            "endpoint": endpoint,
            "input_file_id": input_file_id,
            "model": "",
            "meta": meta,
            "phase": "validating",
            "outcome": "",
            "errors": [],
            "total": 0,
            "completed": 0,
            "failed": 0,
            "created_at": db_now(),
            "expires_at": db_now() + WINDOW_S,
            "holder": "",
            "fence": 0,
            "leased_until": 0.0,
        }
        open_ones = select(func.count()).where(row.tenant == owner.tenant, row.phase != "done")
        file = select(FileRow.id).where(
            FileRow.tenant == owner.tenant,
            FileRow.id == input_file_id,
            FileRow.purpose == "batch",
            FileRow.expires_at > db_now(),
        )
        with Session(self._engine) as session, session.begin():
            session.execute(insert(row).values(values))
            # After the insert: until its end no file goes that a batch is to read.
            if session.execute(file).one_or_none() is None:
                raise NotThere
            if session.scalars(open_ones).one() > max_open:
                raise TooMany(f"{max_open} batches that are not over")
            return batch_of(session.get_one(row, batch_id))

    def get(self, tenant: str, batch_id: str) -> Batch:
        """Raises ``NotThere``."""
        with Session(self._engine) as session:
            return batch_of(_found(session, tenant, batch_id))

    def page(self, tenant: str, page: Page) -> tuple[list[Batch], bool]:
        """The newest first, and whether there are more. Raises ``NotThere``."""
        with Session(self._engine) as session:
            query = select(BatchRow).where(BatchRow.tenant == tenant)
            rows = session.scalars(paged(session, query, BatchRow, tenant, page)).all()
            return [batch_of(row) for row in rows[: page.limit]], len(rows) > page.limit

    def cancel(self, tenant: str, batch_id: str) -> tuple[Batch, bool]:
        """The batch, and whether it is being cancelled. Raises ``NotThere``."""
        row = BatchRow
        stop = (
            update(row)
            .where(
                row.tenant == tenant,
                row.id == batch_id,
                row.outcome == "",
                row.phase.in_(("validating", "running")),
            )
            .values(
                outcome="cancelled",
                cancelling_at=db_now(),
                # Nothing was begun of one that is not checked yet.
                phase=case((row.phase == "validating", "ending"), else_=row.phase),
                fence=row.fence + case((row.phase == "validating", 1), else_=0),
                leased_until=0.0,
            )
        )
        with Session(self._engine) as session, session.begin():
            session.execute(stop)
            found = batch_of(_found(session, tenant, batch_id))
            return found, found.outcome == "cancelled"


def _found(session: Session, tenant: str, batch_id: str) -> BatchRow:
    query = select(BatchRow).where(BatchRow.tenant == tenant, BatchRow.id == batch_id)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise NotThere
    return row
