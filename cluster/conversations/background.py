"""Responses that are asked for and not over, in the store: whose they are, and who answers them.

Each ends once: whoever takes its row out of here puts what became of it among the responses that
are kept, in one transaction. Every call blocks, and raises ``StoreError`` where the store does not
answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, and_, delete, func, insert, select, update
from sqlalchemy.engine import CursorResult

from cluster.batches.clock import db_now
from cluster.batches.files import TooMany
from cluster.batches.states import Waiting
from cluster.batches.views import Owner, owner_of
from cluster.conversations.archive import Kept, put_in
from cluster.conversations.tables import BackgroundRow

MAX_LOOK_ROWS = 1000
"""Of those that wait, the oldest, which one look sees."""


@dataclass(frozen=True, slots=True)
class Order:
    """A response that is asked for; see ``BackgroundRow``."""

    id: str
    owner: Owner
    previous_id: str | None
    created_at: float
    input: bytes
    request: bytes
    shown: bytes


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What its caller may see of it. ``begun``: a gateway has taken it up."""

    begun: bool
    input: bytes
    shown: bytes


class Orders:
    """As their callers see them; none is found under another tenant's name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, order: Order, max_open: int) -> None:
        """Durable when it returns. Raises ``TooMany``."""
        row, tenant = BackgroundRow, order.owner.tenant
        values: dict[str, Any] = {
            "id": order.id,
            "tenant": tenant,
            "previous_id": order.previous_id,
            "created_at": order.created_at,
            "owner": order.owner.as_dict(),
            "input": order.input,
            "request": order.request,
            "shown": order.shown,
            "attempts": 0,
            "holder": "",
            "fence": 0,
            "leased_until": 0.0,
        }
        with self._engine.begin() as connection:
            connection.execute(insert(row).values(values))
            held = select(func.count()).where(row.tenant == tenant)
            if connection.execute(held).scalar_one() > max_open:
                raise TooMany(f"{max_open} responses that are not over")

    def get(self, tenant: str, response_id: str) -> Unfinished | None:
        """None: there is none, or it is over."""
        row = BackgroundRow
        query = select(row.fence, row.input, row.shown).where(
            row.tenant == tenant, row.id == response_id
        )
        with self._engine.connect() as connection:
            found = connection.execute(query).one_or_none()
        return None if found is None else Unfinished(found.fence > 0, found.input, found.shown)

    def begun(self, tenant: str, response_id: str) -> bool | None:
        """Whether a gateway has taken it up; None: there is none, or it is over."""
        row = BackgroundRow
        query = select(row.fence).where(row.tenant == tenant, row.id == response_id)
        with self._engine.connect() as connection:
            fence = connection.execute(query).scalar_one_or_none()
        return None if fence is None else fence > 0

    def cancel(self, tenant: str, response_id: str, ended: Callable[[bytes], bytes]) -> bool:
        """End it, with what ``ended`` makes of what was shown; whether it was not over."""
        row = BackgroundRow
        take = (
            delete(row)
            .where(row.tenant == tenant, row.id == response_id)
            .returning(row.previous_id, row.created_at, row.input, row.shown)
        )
        with self._engine.begin() as connection:
            found = connection.execute(take).one_or_none()
            if found is None:
                return False
            previous_id, created_at, items, shown = found
            over = Kept(tenant, response_id, previous_id, created_at, items, b"[]", ended(shown))
            put_in(connection, over)
        return True

    def delete(self, tenant: str, response_id: str) -> bool:
        """Whether there was one. Nothing is left of it."""
        row = BackgroundRow
        with self._engine.begin() as connection:
            done = connection.execute(
                delete(row).where(row.tenant == tenant, row.id == response_id)
            )
        return done.rowcount > 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A response that is ours to answer until the lease ends. ``attempts`` are those before this
    one that count; ``age_s`` is how long ago it was asked for."""

    order: Order
    fence: int
    attempts: int
    age_s: float

    @property
    def key(self) -> tuple[str, int]:
        return self.order.id, self.fence


class Answering:
    """Of one gateway: ``holder`` names it, and no other process ever has that name.

    A lease ends by the database's clock unless its holder renews it; who takes over raises the
    fence, and what the one before still writes is not taken.
    """

    def __init__(self, engine: Engine, holder: str, lease_s: float) -> None:
        self._engine = engine
        self._holder = holder
        self._lease_s = lease_s

    def waiting(self) -> tuple[list[Waiting], dict[str, int]]:
        """Those that nobody works on, and how many of each tenant are being answered anywhere."""
        row = BackgroundRow
        free = (
            select(row.id, row.tenant, row.created_at)
            .where(row.leased_until < db_now())
            .order_by(row.created_at)
            .limit(MAX_LOOK_ROWS)
        )
        busy = (
            select(row.tenant, func.count())
            .where(row.holder != "", row.leased_until >= db_now())
            .group_by(row.tenant)
        )
        with self._engine.connect() as connection:
            found = connection.execute(free).all()
            running = connection.execute(busy).all() if found else []
        waiting = [Waiting(each.id, each.tenant, each.created_at, 1) for each in found]
        return waiting, {tenant: int(count) for tenant, count in running}

    def lease(self, response_id: str) -> Lease | None:
        """None: it is over, or another gateway's. The attempt counts until it is put back."""
        row = BackgroundRow
        take = (
            update(row)
            .where(row.id == response_id, row.leased_until < db_now())
            .values(
                holder=self._holder,
                fence=row.fence + 1,
                attempts=row.attempts + 1,
                leased_until=db_now() + self._lease_s,
            )
            .returning(
                row.tenant,
                row.owner,
                row.previous_id,
                row.created_at,
                row.input,
                row.request,
                row.shown,
                row.fence,
                row.attempts,
                (db_now() - row.created_at).label("age_s"),
            )
        )
        with self._engine.begin() as connection:
            found = connection.execute(take).one_or_none()
        if found is None:
            return None
        tenant, owner, *rest, fence, attempts, age_s = found
        order = Order(response_id, owner_of(tenant, owner), *rest)
        return Lease(order, fence, attempts - 1, age_s)

    def held(self) -> set[tuple[str, int]]:
        """The keys of the leases that are still ours: of no response that was cancelled."""
        row = BackgroundRow
        query = select(row.id, row.fence).where(row.holder == self._holder)
        with self._engine.connect() as connection:
            return {(each.id, each.fence) for each in connection.execute(query)}

    def renew(self) -> set[tuple[str, int]]:
        """A heart-beat: our leases go on. Returns what ``held`` does."""
        row = BackgroundRow
        renewed = (
            update(row)
            .where(row.holder == self._holder)
            .values(leased_until=db_now() + self._lease_s)
            .returning(row.id, row.fence)
        )
        with self._engine.begin() as connection:
            return {(each.id, each.fence) for each in connection.execute(renewed)}

    def finish(self, lease: Lease, output: bytes, response: bytes) -> bool:
        """It is over; whether that was taken. If not, it is somebody else's by now, or nobody's."""
        order = lease.order
        kept = Kept(
            order.owner.tenant,
            order.id,
            order.previous_id,
            order.created_at,
            order.input,
            output,
            response,
        )
        with self._engine.begin() as connection:
            done = connection.execute(delete(BackgroundRow).where(self._still_ours(lease)))
            if not _count(done):
                return False
            put_in(connection, kept)
        return True

    def put_back(self, lease: Lease, pause_s: float, counted: bool) -> None:
        """For another attempt after ``pause_s``; whether this one counts."""
        row = BackgroundRow
        with self._engine.begin() as connection:
            connection.execute(
                update(row)
                .where(self._still_ours(lease))
                .values(
                    holder="",
                    attempts=row.attempts - int(not counted),
                    leased_until=db_now() + pause_s,
                )
            )

    def _still_ours(self, lease: Lease) -> Any:
        row = BackgroundRow
        return and_(row.id == lease.order.id, row.fence == lease.fence, row.holder == self._holder)


def _count(result: Any) -> int:
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
