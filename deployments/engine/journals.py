"""What resumable requests have written, kept for a while after they end.

A gateway that dies takes the other copy of these tokens with it. Another gateway finds them here by
a name that only it and the dead one can make (``deployments/gateway/resumption.py``), and goes on.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deployments.engine.channel.frames import ABORTED, ERROR, Output

MAX_KEPT_TOKENS = 8 << 20
"""Tokens in journals of requests that have ended, at four bytes each; of more, the oldest go."""


@dataclass(slots=True, eq=False)
class Journal:
    """All output tokens of one request, those of earlier replicas included.

    ``finish`` is None unless the engine has ended it by itself. ``lives`` tells whether the gateway
    that asked for it still has its connection.
    """

    name: str
    keep_s: float
    lives: Callable[[], bool]
    tokens: "array[int]" = field(default_factory=lambda: array("I"))
    finish: int | None = None
    stop_reason: int | str | None = None
    cached_tokens: int | None = None
    ended_s: float | None = None

    def add(self, output: Output) -> None:
        """What it wrote in a step."""
        self.tokens.extend(output.tokens)
        if output.cached_tokens is not None and self.cached_tokens is None:
            self.cached_tokens = output.cached_tokens
        if output.finish is not None and output.finish not in (ABORTED, ERROR):
            self.finish, self.stop_reason = output.finish, output.stop_reason


class Journals:
    """One replica's. Times are on the caller's clock, in seconds."""

    def __init__(self, max_kept_tokens: int = MAX_KEPT_TOKENS) -> None:
        self._max_kept_tokens = max_kept_tokens
        self._running: dict[str, Journal] = {}
        self._ended: OrderedDict[str, Journal] = OrderedDict()
        self._kept_tokens = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def begin(
        self, name: str, keep_s: float, emitted: Sequence[int], lives: Callable[[], bool]
    ) -> Journal:
        """A request begins here, or goes on after ``emitted``, in place of an older journal."""
        journal = Journal(name, keep_s, lives, array("I", emitted))
        older = self._forget(name)
        if older is not None:
            journal.cached_tokens = older.cached_tokens
        self._running[name] = journal
        return journal

    def end(self, journal: Journal, now: float) -> None:
        """The request has left the engine, for whatever reason."""
        if self._running.get(journal.name) is not journal:
            return  # its client came back, and it goes on under the same name
        del self._running[journal.name]
        journal.ended_s = now
        self._ended[journal.name] = journal
        self._kept_tokens += len(journal.tokens)
        while self._kept_tokens > self._max_kept_tokens:
            self._forget(next(iter(self._ended)))

    def find(self, name: str, now: float) -> Journal | None:
        """What is known of a request, running or ended."""
        self.expire(now)
        return self._running.get(name) or self._ended.get(name)

    def expire(self, now: float) -> None:
        """Forget what has been kept long enough. All are kept equally long (one setting), so the
        oldest go first."""
        while self._ended:
            oldest = next(iter(self._ended.values()))
            assert oldest.ended_s is not None
            if oldest.ended_s + oldest.keep_s > now:
                return
            self._forget(oldest.name)

    def _forget(self, name: str) -> Journal | None:
        running = self._running.pop(name, None)
        if running is not None:
            return running
        ended = self._ended.pop(name, None)
        if ended is not None:
            self._kept_tokens -= len(ended.tokens)
        return ended
