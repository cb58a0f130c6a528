"""What a gateway knows of all callers: a snapshot of the store, in memory, replaced as a whole.

Nothing on a request's way does I/O. A thread asks the store for its count of changes a few times a
second and reads everything again when that has moved; while the store is away, the last snapshot
goes on serving.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cluster.tenants.snapshot import Snapshot, read_change, read_snapshot
from cluster.tenants.store import Store, StoreError

log = logging.getLogger("trireme.tenants")

SILENT_S = 3.0
"""A reading that takes so long counts as no answer."""

StoreState = Literal["unknown", "ok", "away"]


@dataclass(frozen=True, slots=True)
class DirectoryStatus:
    """``store``: whether it answered last time; ``away_s``: for how long it has not."""

    store: StoreState
    known: bool
    change: int
    keys: int
    tenants: int
    away_s: float
    error: str

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Directory:
    """``snapshot`` is None until the store was read for the first time.

    ``on_change`` is called in the directory's own thread with each new snapshot. The schema is
    brought up to date before the first reading. ``period_s`` is how old a snapshot may get, beside
    the time that one reading takes.
    """

    def __init__(
        self,
        store: Store,
        *,
        period_s: float,
        on_change: Callable[[Snapshot], None] = lambda snapshot: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._period_s = period_s
        self._on_change = on_change
        self._clock = clock
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._migrated = False
        self._answered_s = clock()
        self._error = ""
        self._asked = False
        self.snapshot: Snapshot | None = None

    def start(self) -> None:
        """Go on in a thread. Returns at once: a gateway starts though its store is away."""
        self._thread = threading.Thread(target=self._run, name="trireme-directory", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Blocks until a reading that is under way has ended, but not for a store that hangs."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(SILENT_S)
        self._store.close()

    def _run(self) -> None:
        while True:
            self.refresh()
            if self._ending.wait(self._period_s):
                return

    def refresh(self) -> bool:
        """Look once; returns whether the store answered."""
        try:
            if not self._migrated:
                self._store.migrate()
                self._migrated = True
            changed = self._read()
        except (StoreError, OSError) as error:
            self._went_away(error)
            return False
        now = self._clock()
        if self._error:
            log.info("the store is back after %.1f s", now - self._answered_s)
        self._asked, self._answered_s, self._error = True, now, ""
        if changed is not None:
            self.snapshot = changed
            self._on_change(changed)
        return True

    def _read(self) -> Snapshot | None:
        with self._store.engine.connect() as connection:
            # The count first: what changes while the rest is read makes it move once more.
            change = read_change(connection)
            if self.snapshot is not None and change == self.snapshot.change:
                return None
            return read_snapshot(connection, change)

    def _went_away(self, error: Exception) -> None:
        # The first line only, and the class: a driver may tell the whole statement.
        lines = str(error).splitlines()
        told = f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
        self._asked = True
        if not self._error:
            log.warning("the store is away, serving with what is known: %s", told)
        self._error = told

    def status(self) -> DirectoryStatus:
        """How it stands; for status pages and metrics."""
        snapshot, silent_s = self.snapshot, self._clock() - self._answered_s
        # A store that takes connections and never answers says nothing of itself.
        away = bool(self._error) or silent_s > self._period_s + SILENT_S
        state: StoreState = "away" if away else "ok" if self._asked else "unknown"
        return DirectoryStatus(
            state,
            snapshot is not None,
            0 if snapshot is None else snapshot.change,
            0 if snapshot is None else len(snapshot.keys),
            0 if snapshot is None else len(snapshot.tenants),
            round(silent_s, 3) if away else 0.0,
            self._error,
        )
