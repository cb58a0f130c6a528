"""The gateway's queue of usage records: memory, then disk within ``flush_s``, then the store.

A thread writes what has come and syncs it to the disk. So a process that is killed, or a machine
that loses power, loses the records of the last ``flush_s`` (and of the write that was under way),
and nothing else. The queue is bounded: what comes while the disk's part is full is dropped and
counted. ``put`` never waits.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from cluster.usage.record import UsageRecord
from cluster.usage.segments import Numbered, QueueFolder, frames

log = logging.getLogger("trireme.usage")

SEGMENT_BYTES = 1 << 20
SEGMENT_S = 1.0
"""A segment that is so large or old is closed, and so taken up by who writes it to the store."""

MAX_IN_MEMORY = 100_000
"""Records that wait for the disk: more than a gateway ends in a minute."""


class UsageQueue:
    """``dropped`` is called with how many records were lost, from any thread."""

    def __init__(
        self,
        folder: QueueFolder,
        *,
        flush_s: float,
        max_bytes: int,
        dropped: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.folder = folder
        self._flush_s = flush_s
        self._max_bytes = max_bytes
        self._dropped = dropped
        self._coming: deque[Numbered] = deque()
        self._sequence = 0
        self._file: IO[bytes] | None = None
        self._file_bytes = 0
        self._file_age_s = 0.0
        self._numbers = 0
        self._closed: deque[tuple[Path, int]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="usage-queue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Everything is on the disk, and every segment closed, when it returns."""
        self._stop.set()
        self._thread.join()

    def put(self, record: UsageRecord) -> None:
        """Take a record."""
        if len(self._coming) >= MAX_IN_MEMORY:
            self._dropped(1)
            return
        self._sequence += 1
        self._coming.append((self._sequence, record))

    @property
    def size_bytes(self) -> int:
        """On the disk, and not yet in the store."""
        return self._bytes

    # -------------------------------------------------------------- for who empties it

    def next_segment(self) -> Path | None:
        """The oldest that is closed."""
        with self._lock:
            return self._closed[0][0] if self._closed else None

    def segment_done(self, path: Path) -> None:
        """The store has it."""
        path.unlink(missing_ok=True)
        with self._lock:
            if self._closed and self._closed[0][0] == path:
                self._bytes -= self._closed.popleft()[1]

    # -------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._stop.wait(self._flush_s):
            self._write()
        self._write()
        self._close()

    def _write(self) -> None:
        self._file_age_s += self._flush_s
        if self._coming:
            entries = [self._coming.popleft() for _ in range(len(self._coming))]
            data = frames(entries)
            if self._bytes + len(data) > self._max_bytes:
                self._dropped(len(entries))
                return
            try:
                self._append(data)
            except OSError as error:
                if not self._broken:
                    log.error("usage records cannot be written: %s", error)
                self._broken = True
                self._dropped(len(entries))
                self._close()
                return
            self._broken = False
        if self._file_bytes >= SEGMENT_BYTES or self._file_age_s >= SEGMENT_S:
            self._close()

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._numbers += 1
            self._file = self.folder.new_segment(self._numbers)
            self._file_bytes, self._file_age_s = 0, 0.0
        written = 0
        while written < len(data):
            written += self._file.write(data[written:])
        os.fdatasync(self._file.fileno())
        self._file_bytes += len(data)
        self._bytes += len(data)

    def _close(self) -> None:
        if self._file is not None:
            path = Path(self._file.name)
            self._file.close()
            self._file = None
            with self._lock:
                self._closed.append((path, self._file_bytes))
