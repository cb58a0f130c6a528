"""A file a day, readable by its owner only, and deleted when it is old."""

import contextlib
import os
import re
from datetime import date, timedelta
from pathlib import Path

_OURS = re.compile(r"(\d{4}-\d\d-\d\d)\.[A-Za-z0-9_-]+\.jsonl")


class DayFiles:
    """``folder/2026-01-31.<source>.jsonl``; several processes, each a ``source``, may share it."""

    def __init__(self, folder: Path, source: str, retain_days: int) -> None:
        self._folder = folder
        self._source = re.sub(r"[^A-Za-z0-9_-]", "_", source)
        self._retain_days = retain_days
        self._day: date | None = None
        self._descriptor = -1

    def turn_to(self, day: date) -> None:
        """It is that day: close another one's file, and delete what is too old. Raises
        ``OSError``."""
        if day == self._day:
            return
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        self._delete_before(day - timedelta(days=self._retain_days))
        self._day = day

    def append(self, line: bytes) -> None:
        """Into the day's file. Raises ``OSError``."""
        if self._descriptor < 0:
            path = self._folder / f"{self._day}.{self._source}.jsonl"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)
            os.fchmod(self._descriptor, 0o600)
        while line:
            line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._day = -1, None

    def _delete_before(self, first: date) -> None:
        for path in self._folder.iterdir():
            named = _OURS.fullmatch(path.name)
            with contextlib.suppress(ValueError):
                if named is not None and date.fromisoformat(named[1]) < first:
                    path.unlink(missing_ok=True)
