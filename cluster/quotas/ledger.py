"""The books of one process: what every subject uses, in memory. ``ledger.lua`` keeps the same in
Redis.

Requests and tokens per minute are counted in a *sliding window* of half-second slots and not in a
token bucket: a bucket lets twice its size through in a minute that begins with it full. What was
booked leaves 60.0 to 60.5 s later, so no 60 s hold more than the limit, and a steady load gets at
least 99.2 % of it. A request counts whole in the slot of its admission; what it turns out to need
besides is booked there too, or, once that has left the window, in the present slot.

Budgets are what has been used since midnight or the first of the month (UTC) and what running
requests have reserved.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from cluster.quotas.work import KINDS, Kind, Refused, Subject, Uses, Verdict, Work, exceeded

SLOTS_PER_S = 2
WINDOW_SLOTS = 121
"""Slots that count: the present one and those of 60 s before it."""

MAX_BOOKS = 65_536
"""Subjects that are kept; of more, the one that was idle for the longest is forgotten."""

DAY_S = 86_400


def slot_at(now: float) -> int:
    return int(now * SLOTS_PER_S)


def leaves_at(slot: int) -> float:
    """When what was booked in ``slot`` leaves the window, in unix seconds."""
    return (slot + WINDOW_SLOTS) / SLOTS_PER_S


def day_of(now: float) -> int:
    return int(now // DAY_S)


def month_of(now: float) -> int:
    """A number that grows by one each month."""
    date = datetime.fromtimestamp(now, UTC)
    return 12 * date.year + date.month - 1


def month_begins(month: int) -> float:
    """The unix time at which a month begins."""
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()


class Change(NamedTuple):
    """What happens to a subject's books after an admission. All are differences.

    ``requests`` and ``tokens`` belong to ``slot``. ``held`` and ``held_cost`` are reserved of the
    budgets, ``used`` and ``used_cost`` taken from them; tokens are weighted.
    """

    slot: int
    requests: int = 0
    tokens: int = 0
    concurrent: int = 0
    held: float = 0.0
    held_cost: float = 0.0
    used: float = 0.0
    used_cost: float = 0.0


class Known(NamedTuple):
    """What the books of all gateways had of a subject at ``at``, and this gateway's own then."""

    at: float
    day: int
    month: int
    every: Uses
    own: Uses


@dataclass(slots=True)
class Book:
    """One subject's. ``known`` is for who also asks the books of all gateways."""

    window: dict[int, list[int]] = field(default_factory=dict)
    order: deque[int] = field(default_factory=deque)
    requests: int = 0
    tokens: int = 0
    concurrent: int = 0
    held: float = 0.0
    held_cost: float = 0.0
    day: int = 0
    day_used: float = 0.0
    day_cost: float = 0.0
    month: int = 0
    month_used: float = 0.0
    month_cost: float = 0.0
    known: Known | None = None

    def turn(self, now: float) -> None:
        """Let go of what has left the window, and begin a new day or month."""
        oldest = slot_at(now) - WINDOW_SLOTS
        while self.order and self.order[0] <= oldest:
            requests, tokens = self.window.pop(self.order.popleft())
            self.requests -= requests
            self.tokens -= tokens
        day = day_of(now)
        if day != self.day:
            self.day, self.day_used, self.day_cost = day, 0.0, 0.0
            month = month_of(now)
            if month != self.month:
                self.month, self.month_used, self.month_cost = month, 0.0, 0.0

    def uses(self) -> Uses:
        return Uses(
            self.requests,
            self.tokens,
            self.concurrent,
            self.day_used + self.held,
            self.month_used + self.held,
            self.day_cost + self.held_cost,
            self.month_cost + self.held_cost,
            self.order[-1] if self.order else 0,
            self.held,
            self.held_cost,
        )

    def add(self, change: Change, now: float) -> None:
        """Book a change, after ``turn``."""
        if change.requests or change.tokens:
            self._add_to_window(change, now)
        self.concurrent = max(0, self.concurrent + change.concurrent)
        self.held = max(0.0, self.held + change.held)
        self.held_cost = max(0.0, self.held_cost + change.held_cost)
        self.day_used += change.used
        self.day_cost += change.used_cost
        self.month_used += change.used
        self.month_cost += change.used_cost

    def _add_to_window(self, change: Change, now: float) -> None:
        present = slot_at(now)
        slot = min(change.slot, present)
        requests, tokens = change.requests, change.tokens
        if slot <= present - WINDOW_SLOTS:
            # It has left, and so has what would be given back; what is owed is owed now.
            slot, requests, tokens = present, max(0, requests), max(0, tokens)
        entry = self.window.get(slot)
        if entry is None:
            entry = self.window[slot] = [0, 0]
            self.order.append(slot)
            if len(self.order) > 1 and self.order[-2] > slot:
                self.order = deque(sorted(self.order))
        entry[0] += requests
        entry[1] += tokens
        self.requests += requests
        self.tokens += tokens

    @property
    def idle(self) -> bool:
        return not (self.window or self.concurrent or self.held)


class Ledger:
    """All subjects' books. ``now`` is unix time in seconds and must not go back by much."""

    def __init__(self, max_books: int = MAX_BOOKS) -> None:
        self._books: OrderedDict[str, Book] = OrderedDict()
        self._max_books = max_books

    def __len__(self) -> int:
        return len(self._books)

    def reserve(self, subjects: Sequence[Subject], work: Work, now: float) -> Verdict:
        """Book ``work`` for all subjects, or for none if one has no room."""
        slot = slot_at(now)
        books = [self.book(subject.name, now) for subject in subjects]
        for subject, book in zip(subjects, books, strict=True):
            uses = book.uses()
            found = exceeded(subject, uses, work)
            if found is not None:
                kind, limit = found
                wait_s = self._wait_s(book, kind, limit, work, now)
                refused = Refused(subject.name, kind, limit, wait_s)
                return Verdict(refused, tuple(each.uses() for each in books), slot, now)
        change = booked(work, slot)
        for book in books:
            book.add(change, now)
        return Verdict(None, tuple(book.uses() for book in books), slot, now)

    def change(self, names: Sequence[str], change: Change, now: float) -> None:
        """Book what became of an admitted request."""
        for name in names:
            self.book(name, now).add(change, now)

    def at_least(
        self, name: str, day: tuple[float, float], month: tuple[float, float], now: float
    ) -> None:
        """Somebody knows that so much (weighted tokens, cost) of day and month has been used."""
        book = self.book(name, now)
        book.day_used, book.day_cost = max(book.day_used, day[0]), max(book.day_cost, day[1])
        book.month_used = max(book.month_used, month[0])
        book.month_cost = max(book.month_cost, month[1])

    def uses(self, name: str, now: float) -> Uses:
        return self.book(name, now).uses()

    def __iter__(self) -> Iterator[tuple[str, Book]]:
        return iter(self._books.items())

    def book(self, name: str, now: float) -> Book:
        """The subject's, as of ``now``."""
        book = self._books.get(name)
        if book is None:
            book = self._books[name] = Book()
            self._forget()
        else:
            self._books.move_to_end(name)
        book.turn(now)
        return book

    def _forget(self) -> None:
        while len(self._books) > self._max_books:
            self._books.popitem(last=False)

    @staticmethod
    def _wait_s(book: Book, kind: Kind, limit: float, work: Work, now: float) -> float:
        if kind in ("requests_per_minute", "tokens_per_minute"):
            index = KINDS.index(kind)
            asked = min(work[index], limit)
            used = book.requests if index == 0 else book.tokens
            for slot in book.order:
                used -= book.window[slot][index]
                if used + asked <= limit:
                    return max(0.0, leaves_at(slot) - now)
            return WINDOW_SLOTS / SLOTS_PER_S
        return wait_of(kind, now)


def wait_of(kind: Kind, now: float) -> float:
    """Until there is room again, for bounds that are no window; 1 s where nobody can know."""
    if kind.endswith("_day"):
        return (day_of(now) + 1) * DAY_S - now
    if kind.endswith("_month"):
        return month_begins(month_of(now) + 1) - now
    return 1.0


def booked(work: Work, slot: int) -> Change:
    """An admission as a change."""
    return Change(
        slot, work.requests, work.tokens, work.requests, held=work.weighted, held_cost=work.cost
    )
