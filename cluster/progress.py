"""What `up` says while it works: one line a phase with its seconds, live on a terminal."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.status import Status

_NAME_COLUMNS = 14

# A phase that ends sooner is told by its final line alone.
_QUIET_S = 2.0


class Progress:
    """Writes to `console`; on anything but a terminal every change is a plain line of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._phase = ""
        self._started = 0.0
        self._news = ""
        self._shown = ""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase; the last `news` in it stands in its final line. Nothing is said if it fails."""
        self._phase, self._started, self._news, self._shown = name, time.monotonic(), "", ""
        if not self._console.is_terminal:
            yield
        else:
            with self._console.status(self._line()) as self._status:
                yield
            self._status = None
        self._shown = self._news
        self.say(self._line())

    def news(self, text: str) -> None:
        """How the phase stands."""
        self._news = text

    def tick(self) -> None:
        """Show the seconds and the news; call it a few times a second while waiting."""
        if self._status is not None:
            self._status.update(self._line())
        elif self._news != self._shown and time.monotonic() - self._started > _QUIET_S:
            self._shown = self._news
            self.say(self._line())

    def say(self, text: str = "") -> None:
        # The terminal may be gone (rich then wants to exit), and that must not keep a cluster from
        # being taken down.
        with contextlib.suppress(OSError, SystemExit):
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _line(self) -> str:
        took_s = time.monotonic() - self._started
        return f"{self._phase:<{_NAME_COLUMNS}}{took_s:6.1f} s   {self._news}".rstrip()
