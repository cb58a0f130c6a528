"""Deletes responses that are too old, and the oldest of tenants that hold too much."""

import logging
import math
import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine, delete, func, select

from cluster.conversations.policy import Policy
from cluster.conversations.tables import ResponseRow
from cluster.tenants.store import StoreError

log = logging.getLogger("trireme.gateway")

EVERY_S = 60.0
BATCH_ROWS = 200
"""Of a transaction: while one writes, nobody else does (SQLite)."""


def expire(
    engine: Engine,
    policy: Callable[[str], Policy],
    now_s: float,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Hold every tenant to its policy; returns how many responses were deleted.

    ``now_s`` is Unix time. Raises ``StoreError``.
    """
    row = ResponseRow
    per_tenant = select(row.tenant, func.min(row.created_at).label("first"), func.count(),
                        func.sum(row.size_bytes)).group_by(row.tenant)  # fmt: skip
    with engine.connect() as connection:
        found = connection.execute(per_tenant).all()
    deleted = 0
    for tenant, first, count, size_bytes in found:
        rule = policy(tenant)
        oldest = now_s - rule.retain_s
        if count > rule.max_responses or size_bytes > rule.max_bytes:
            oldest = max(oldest, _oldest_that_fits(engine, tenant, rule))
        while first < oldest and not stop():
            gone = _delete_some(engine, tenant, oldest)
            deleted += gone
            if gone < BATCH_ROWS:
                break
    return deleted


def _oldest_that_fits(engine: Engine, tenant: str, rule: Policy) -> float:
    """When the oldest response was created that may stay."""
    row = ResponseRow
    newest_first = row.created_at.desc(), row.id
    held = (
        select(
            row.created_at,
            func.row_number().over(order_by=newest_first).label("place"),
            func.sum(row.size_bytes).over(order_by=newest_first).label("bytes_so_far"),
        )
        .where(row.tenant == tenant)
        .subquery()
    )
    # Of rows with one and the same time none stays, if not all can.
    query = select(func.max(held.c.created_at)).where(
        (held.c.place > rule.max_responses) | (held.c.bytes_so_far > rule.max_bytes)
    )
    with engine.connect() as connection:
        too_old = connection.execute(query).scalar()
    return 0.0 if too_old is None else math.nextafter(too_old, math.inf)


def _delete_some(engine: Engine, tenant: str, oldest: float) -> int:
    row = ResponseRow
    ids = (
        select(row.id)
        .where(row.tenant == tenant, row.created_at < oldest)
        .order_by(row.created_at)
        .limit(BATCH_ROWS)
    )
    with engine.begin() as connection:
        done = connection.execute(delete(row).where(row.tenant == tenant, row.id.in_(ids)))
    return done.rowcount


class Expiry:
    """A thread that does so. ``prepare`` is called before, until it succeeds (migrations)."""

    def __init__(
        self, engine: Engine, policy: Callable[[str], Policy], prepare: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._prepare = prepare
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="responses-expiry", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait_s: float = 3.0) -> None:
        """A store that hangs is not waited for."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._prepare()
                gone = expire(self._engine, self._policy, time.time(), self._stop.is_set)
                if gone:
                    log.info("deleted %d stored responses that were too old or too many", gone)
            except (StoreError, OSError) as error:
                # The class only: a driver tells the whole statement, values and all.
                log.warning("stored responses cannot be expired: %s", type(error).__name__)
            self._stop.wait(EVERY_S)
