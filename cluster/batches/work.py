"""The work that gateways share through the store: leases, answers, and the steps of a batch.

A lease ends by the database's clock unless its holder renews it; who takes over raises the fence,
and what the one before still writes is not taken. Every call blocks, and raises ``StoreError``
where the store does not answer.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Update,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from cluster.batches.clock import db_now
from cluster.batches.files import NewFile, file_values
from cluster.batches.states import Phase, Waiting
from cluster.batches.tables import DONE, FAILED, OPEN, AnswerRow, BatchRow, FileRow, LineRow
from cluster.batches.views import Batch, Owner, batch_of, owner_of

ROWS = 1000
"""Of a transaction: while one writes, nobody else does (SQLite)."""

PAGE_ROWS = 200
"""Answers in memory at a time."""


class LeaseLost(Exception):
    """Another gateway does this now."""


@dataclass(frozen=True, slots=True)
class NewLine:
    """A line of an input file that was found good."""

    number: int
    custom_id: str
    at_byte: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A line that is ours until the lease ends."""

    batch_id: str
    number: int
    fence: int
    custom_id: str
    at_byte: int
    size_bytes: int
    attempts: int

    @property
    def key(self) -> tuple[str, int, int]:
        return self.batch_id, self.number, self.fence


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a leased line, as it stands in its file."""

    lease: Lease
    ok: bool
    line: bytes


class Work:
    """Of one gateway: ``holder`` names it, and no other process ever has that name."""

    def __init__(self, engine: Engine, holder: str, lease_s: float) -> None:
        self._engine = engine
        self._holder = holder
        self._lease_s = lease_s

    # -------------------------------------------------------------- a batch at a time

    def claim(self, phase: Phase) -> Batch | None:
        """Lease a batch of that phase (validating, ending) that nobody works on."""
        row = BatchRow
        # As a CTE it is run once; PostgreSQL may run a subquery with LIMIT for every row.
        free = (
            select(row.id)
            .where(row.phase == phase, row.leased_until < db_now())
            .order_by(row.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .cte("free")
        )
        take = (
            update(row)
            .where(row.id.in_(select(free.c.id)), row.leased_until < db_now())
            .values(
                holder=self._holder,
                fence=row.fence + 1,
                leased_until=db_now() + self._lease_s,
            )
            .returning(row.id)
            .execution_options(synchronize_session=False)
        )
        with Session(self._engine) as session, session.begin():
            taken = session.scalars(take).one_or_none()
            return None if taken is None else batch_of(session.get_one(row, taken))

    def keep(self, session: Session, batch: Batch, **values: Any) -> None:
        """Renew our lease of the batch, and set ``values``. Raises ``LeaseLost``."""
        row = BatchRow
        kept = session.execute(
            update(row)
            .where(row.id == batch.id, row.fence == batch.fence, row.holder == self._holder)
            .values(**{"leased_until": db_now() + self._lease_s, **values})
            .execution_options(synchronize_session=False)
        )
        if not _count(kept):
            raise LeaseLost

    def begin_check(self, batch: Batch) -> None:
        """Forget the lines that whoever began before us has found. Raises ``LeaseLost``."""
        self._keep_only(batch)
        self._drop(batch, LineRow)

    def add_lines(self, batch: Batch, lines: Sequence[NewLine]) -> None:
        """At most ``ROWS``. Raises ``LeaseLost``."""
        values = [
            {
                "batch_id": batch.id,
                "number": line.number,
                "custom_id": line.custom_id,
                "at_byte": line.at_byte,
                "size_bytes": line.size_bytes,
                "state": OPEN,
                "attempts": 0,
                "holder": "",
                "fence": 0,
                "leased_until": 0.0,
            }
            for line in lines
        ]
        with Session(self._engine) as session, session.begin():
            self.keep(session, batch)
            session.execute(insert(LineRow), values)

    def accept(self, batch: Batch, total: int, model: str) -> None:
        """All lines are good: they may run. Raises ``LeaseLost``."""
        with Session(self._engine) as session, session.begin():
            self.keep(
                session,
                batch,
                phase="running",
                total=total,
                model=model,
                in_progress_at=db_now(),
                leased_until=0.0,
            )

    def reject(self, batch: Batch, errors: list[dict[str, Any]]) -> None:
        """The input cannot be used. Raises ``LeaseLost``."""
        with Session(self._engine) as session, session.begin():
            self.keep(
                session, batch, phase="done", outcome="failed", errors=errors, over_at=db_now()
            )
        self._drop(batch, LineRow)

    def advance(self) -> None:
        """Move on what has expired, and what has no line to wait for any more."""
        row, line = BatchRow, LineRow
        late = (
            update(row)
            .where(row.phase == "running", row.outcome == "", row.expires_at <= db_now())
            .values(outcome="expired")
        )
        busy = select(line.number).where(
            line.batch_id == row.id,
            line.state == OPEN,
            line.holder != "",
            line.leased_until >= db_now(),
        )
        complete = and_(row.outcome == "", row.completed + row.failed >= row.total)
        stopped = and_(row.outcome != "", ~busy.exists())
        end = (
            update(row)
            .where(row.phase == "running", or_(complete, stopped))
            .values(
                phase="ending",
                outcome=case((row.outcome == "", "completed"), else_=row.outcome),
                finalizing_at=db_now(),
                leased_until=0.0,
            )
        )
        unread = (
            update(row)
            .where(row.phase == "validating", row.expires_at <= db_now())
            .values(
                phase="ending",
                outcome="expired",
                finalizing_at=db_now(),
                fence=row.fence + 1,
                leased_until=0.0,
            )
        )
        for change in (late, unread, end):
            with self._engine.begin() as connection:
                connection.execute(change)

    def unfinished(self) -> bool:
        """Whether there is a batch that is not over. Cheap."""
        query = select(BatchRow.id).where(BatchRow.phase.in_(("validating", "running", "ending")))
        with self._engine.connect() as connection:
            return connection.execute(query.limit(1)).one_or_none() is not None

    # -------------------------------------------------------------- a batch's files

    def answers(self, batch: Batch, *, ok: bool) -> Iterator[bytes]:
        """The lines of the output file, or of the error file, in the input's order."""
        row, after = AnswerRow, -1
        while True:
            query = (
                select(row.number, row.line)
                .where(row.batch_id == batch.id, row.ok == int(ok), row.number > after)
                .order_by(row.number)
                .limit(PAGE_ROWS)
            )
            with self._engine.connect() as connection:
                found = connection.execute(query).all()
            yield from (each.line for each in found)
            if len(found) < PAGE_ROWS:
                return
            after = found[-1].number
            self._keep_only(batch)

    def unanswered(self, batch: Batch) -> Iterator[tuple[int, str]]:
        """Number and custom id of the lines without an answer."""
        row, after = LineRow, -1
        while True:
            query = (
                select(row.number, row.custom_id)
                .where(row.batch_id == batch.id, row.state == OPEN, row.number > after)
                .order_by(row.number)
                .limit(ROWS)
            )
            with self._engine.connect() as connection:
                found = connection.execute(query).all()
            yield from ((each.number, each.custom_id) for each in found)
            if len(found) < ROWS:
                return
            after = found[-1].number
            self._keep_only(batch)

    def finish(
        self, batch: Batch, output: NewFile | None, errors: NewFile | None, retain_s: float
    ) -> None:
        """The files are in the folder: the batch is over. Raises ``LeaseLost``."""
        with Session(self._engine) as session, session.begin():
            self.keep(
                session,
                batch,
                phase="done",
                over_at=db_now(),
                output_file_id=None if output is None else output.id,
                error_file_id=None if errors is None else errors.id,
            )
            for file in (output, errors):
                if file is not None:
                    session.execute(insert(FileRow).values(file_values(file, retain_s)))

    def sweep(self, retain_s: float) -> None:
        """Delete lines and answers of batches that are over, and batches that are too old."""
        row = BatchRow
        over = select(row.id).where(row.phase == "done")
        for table in (AnswerRow, LineRow):
            left = select(table.batch_id).where(table.batch_id.in_(over)).limit(1)
            with self._engine.connect() as connection:
                found = connection.execute(left).scalar_one_or_none()
            if found is not None:
                self._drop_of(found, table)
        with self._engine.begin() as connection:
            connection.execute(
                delete(row).where(row.phase == "done", row.over_at < db_now() - retain_s)
            )

    # -------------------------------------------------------------- lines

    def waiting(self) -> tuple[list[Waiting], dict[str, int]]:
        """Batches with lines that nobody works on (some may have to wait until they are tried
        again), and the lines of each tenant that run anywhere."""
        batch, line = BatchRow, LineRow
        # Lines in work are few, and found by an index; those that wait may be millions.
        busy = (
            select(line.batch_id, func.count())
            .where(line.holder > "", line.leased_until >= db_now())
            .group_by(line.batch_id)
        )
        going = select(
            batch.id,
            batch.tenant,
            batch.created_at,
            (batch.total - batch.completed - batch.failed).label("left"),
        ).where(batch.phase == "running", batch.outcome == "")
        with self._engine.connect() as connection:
            found = connection.execute(going).all()
            in_work = {each[0]: int(each[1]) for each in connection.execute(busy)}
        running: dict[str, int] = {}
        for each in found:
            running[each.tenant] = running.get(each.tenant, 0) + in_work.get(each.id, 0)
        waiting = [
            Waiting(each.id, each.tenant, each.created_at, each.left - in_work.get(each.id, 0))
            for each in found
        ]
        return waiting, running

    def lease(self, batch_id: str, most: int) -> list[Lease]:
        """Take lines that nobody works on, the first ones first."""
        row, batch = LineRow, BatchRow
        free = (
            select(row.number)
            .where(row.batch_id == batch_id, row.state == OPEN, row.leased_until < db_now())
            .order_by(row.number)
            .limit(most)
            .with_for_update(skip_locked=True)
            .cte("free")
        )
        goes_on = select(batch.id).where(
            batch.id == batch_id, batch.phase == "running", batch.outcome == ""
        )
        take = (
            update(row)
            .where(
                row.batch_id == batch_id,
                row.number.in_(select(free.c.number)),
                row.state == OPEN,
                row.leased_until < db_now(),
                goes_on.exists(),
            )
            .values(
                holder=self._holder,
                fence=row.fence + 1,
                leased_until=db_now() + self._lease_s,
            )
            .returning(
                row.number, row.fence, row.custom_id, row.at_byte, row.size_bytes, row.attempts
            )
        )
        with self._engine.begin() as connection:
            found = connection.execute(take).all()
        return sorted((Lease(batch_id, *each) for each in found), key=lambda each: each.number)

    def renew(self, leases: Iterable[Lease]) -> set[tuple[str, int, int]]:
        """A heart-beat: our leases go on. Those of batches that are to stop are not among them."""
        row, batch = LineRow, BatchRow
        ids = sorted({lease.batch_id for lease in leases})
        if not ids:
            return set()
        renewed = (
            update(row)
            .where(row.holder == self._holder, row.state == OPEN, row.batch_id.in_(ids))
            .values(leased_until=db_now() + self._lease_s)
            .returning(row.batch_id, row.number, row.fence)
        )
        going = select(batch.id).where(
            batch.id.in_(ids), batch.phase == "running", batch.outcome == ""
        )
        with self._engine.begin() as connection:
            ours = connection.execute(renewed).all()
            goes_on = set(connection.scalars(going))
        return {(each[0], each[1], each[2]) for each in ours if each[0] in goes_on}

    def record(self, answers: Iterable[Answer]) -> set[tuple[str, int, int]]:
        """Write answers; returns the keys of those that were taken. The others' lines are somebody
        else's by now, and so is their answer."""
        taken: set[tuple[str, int, int]] = set()
        # In one order everywhere, so that no two gateways wait for each other.
        ordered = sorted(answers, key=lambda each: each.lease.key)
        with self._engine.begin() as connection:
            for batch_id, its_own in itertools.groupby(ordered, lambda each: each.lease.batch_id):
                taken |= self._record_of(connection, batch_id, list(its_own))
        return taken

    def _record_of(
        self, connection: Connection, batch_id: str, answers: list[Answer]
    ) -> set[tuple[str, int, int]]:
        batch, taken = BatchRow, set()
        counts = [0, 0]
        # Also holds the batch's row until the end: its files are not begun meanwhile.
        running = connection.execute(
            update(batch)
            .where(batch.id == batch_id, batch.phase == "running")
            .values(completed=batch.completed)
        )
        if not _count(running):
            return set()
        for answer in answers:
            lease = answer.lease
            state = DONE if answer.ok else FAILED
            done = connection.execute(self._still_ours(lease).values(state=state, holder=""))
            if not _count(done):
                continue
            taken.add(lease.key)
            counts[not answer.ok] += 1
            connection.execute(
                insert(AnswerRow).values(
                    batch_id=batch_id, number=lease.number, ok=int(answer.ok), line=answer.line
                )
            )
        completed, failed = batch.completed + counts[0], batch.failed + counts[1]
        connection.execute(
            update(batch).where(batch.id == batch_id).values(completed=completed, failed=failed)
        )
        return taken

    def _still_ours(self, lease: Lease) -> Update:
        row = LineRow
        return update(row).where(
            row.batch_id == lease.batch_id,
            row.number == lease.number,
            row.fence == lease.fence,
            row.holder == self._holder,
            row.state == OPEN,
        )

    def put_back(self, leases: Mapping[Lease, tuple[float, bool]]) -> None:
        """Give lines back: (seconds before they are tried again, whether the attempt counts)."""
        row = LineRow
        with self._engine.begin() as connection:
            for lease, (pause_s, counted) in sorted(leases.items(), key=lambda each: each[0].key):
                connection.execute(
                    self._still_ours(lease).values(
                        holder="",
                        attempts=row.attempts + int(counted),
                        leased_until=db_now() + pause_s,
                    )
                )

    def owners(self, batch_ids: Iterable[str]) -> dict[str, tuple[Owner, str, str]]:
        """(owner, endpoint, input file) of batches."""
        row = BatchRow
        query = select(row.id, row.tenant, row.owner, row.endpoint, row.input_file_id).where(
            row.id.in_(list(batch_ids))
        )
        with self._engine.connect() as connection:
            return {
                each.id: (owner_of(each.tenant, each.owner), each.endpoint, each.input_file_id)
                for each in connection.execute(query)
            }

    # -------------------------------------------------------------- helpers

    def _keep_only(self, batch: Batch) -> None:
        with Session(self._engine) as session, session.begin():
            self.keep(session, batch)

    def _drop(self, batch: Batch, table: type[LineRow] | type[AnswerRow]) -> None:
        self._drop_of(batch.id, table)

    def _drop_of(self, batch_id: str, table: type[LineRow] | type[AnswerRow]) -> None:
        """All rows of the batch, not too many at a time."""
        while True:
            some = select(table.number).where(table.batch_id == batch_id).limit(ROWS)
            with self._engine.begin() as connection:
                gone = connection.execute(
                    delete(table).where(table.batch_id == batch_id, table.number.in_(some))
                )
            if _count(gone) < ROWS:
                return


def _count(result: Any) -> int:
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
