"""Quotas as a gateway asks for them: exact over all gateways while Redis answers, else a share.

Every admission and change is booked twice: in Redis, and in this process's own ledger, which then
knows what to do when Redis is away. Runs on one event loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from cluster.quotas.clock import steady_clock
from cluster.quotas.ledger import (
    Change,
    Known,
    Ledger,
    booked,
    day_of,
    month_of,
    slot_at,
)
from cluster.quotas.owed import Owed
from cluster.quotas.remote import Answer, Call, Held, LedgerAway, RemoteLedger
from cluster.quotas.shares import share_of, used_since
from cluster.quotas.work import Subject, Uses, Verdict, Work

log = logging.getLogger("trireme.quotas")

FLUSH_S = 0.02
"""Changes wait so long for a reservation to travel with, or for each other."""

RETRY_S = 0.5
"""Between attempts to reach a Redis that is away."""

MAX_BATCH = 256
"""Reservations of one call; Redis does nothing else meanwhile (some 20 µs each)."""

_Asked = tuple[Sequence[Subject], Work, Callable[[Verdict], None]]


class Limiter:
    """``remote`` None: this process is the only gateway. ``gateways`` share the limits while
    Redis has not been heard of."""

    def __init__(
        self,
        remote: RemoteLedger | None,
        *,
        gateways: int = 1,
        lease_s: float = 15.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.ledger = Ledger()
        self._remote = remote
        self._gateways = gateways
        self._lease_s = lease_s
        self._clock = clock or steady_clock()
        self._offset_s = 0.0
        """Redis's clock less ours."""
        self._up = False
        self._birth = ""
        self._owed = Owed()
        self._asked: list[_Asked] = []
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._heart: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def seed(self, name: str, day: tuple[float, float], month: tuple[float, float]) -> None:
        """Before ``start``: so much (weighted tokens, cost) of day and month is known to be used,
        from an account that outlives the books."""
        now = self.now()
        if self._remote is None:
            self.ledger.at_least(name, day, month, now)
            return
        book = self.ledger.book(name, now)
        every = Uses(
            day_weighted=day[0], month_weighted=month[0], day_cost=day[1], month_cost=month[1]
        )
        book.known = Known(now, day_of(now), month_of(now), every, book.uses())

    # -------------------------------------------------------------- life

    async def start(self) -> None:
        """With a first attempt to reach Redis."""
        if self._remote is not None:
            await self._connect(self._remote)
            self._beat()
            self._task = asyncio.create_task(self._run(self._remote))

    async def stop(self) -> None:
        """What was used is told to Redis if it answers, and what was held given back."""
        if self._remote is None:
            return
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for timer in (self._timer, self._heart):
            if timer is not None:
                timer.cancel()
        self._resolve([], None)
        with contextlib.suppress(LedgerAway):
            while self._up and self._owed:
                sequence, changes = self._owed.take()
                await self._remote.call(Call(sequence, changes=changes))
                self._owed.arrived()
            await self._remote.leave()
        await self._remote.close()

    # -------------------------------------------------------------- requests

    @property
    def shared(self) -> bool:
        """Whether Redis answers: then an admission takes a round trip."""
        return self._up

    @property
    def gateways(self) -> int:
        """Gateways that share the limits, as last known."""
        return self._gateways

    def now(self) -> float:
        """The books' clock, in unix seconds."""
        return self._clock() + self._offset_s

    def ask(self, subjects: Sequence[Subject], work: Work, then: Callable[[Verdict], None]) -> None:
        """Book ``work`` for all subjects or none, and tell ``then``: at once, or a round trip
        later. Whoever does not want what is booked any more gives it back (``given_back``)."""
        if self._up:
            self._asked.append((subjects, work, then))
            self._wake.set()
        else:
            then(self.reserve_here(subjects, work))

    def reserve_here(self, subjects: Sequence[Subject], work: Work) -> Verdict:
        """The same by this process's own books; its share of the limits if there are others."""
        now = self.now()
        if self._remote is not None:
            subjects = [
                Subject(
                    each.name,
                    share_of(each.limits, self.ledger.book(each.name, now), self._gateways, now),
                )
                for each in subjects
            ]
        verdict = self.ledger.reserve(subjects, work, now)
        if self._remote is not None and verdict.refused is None:
            self._owe([each.name for each in subjects], booked(work, verdict.slot))
        return verdict

    def change(self, names: Sequence[str], change: Change) -> None:
        """Book what became of an admitted request."""
        now = self.now()
        self.ledger.change(names, change, now)
        if self._remote is not None:
            self._owe(names, change)

    def _owe(self, names: Sequence[str], change: Change) -> None:
        self._owed.add(names, change)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._wake.set()

    def _beat(self) -> None:
        """The lease is renewed by every call, so there must be one from time to time."""
        self._wake.set()
        self._heart = asyncio.get_running_loop().call_later(self._lease_s / 3.0, self._beat)

    # -------------------------------------------------------------- to Redis and back

    async def _run(self, remote: RemoteLedger) -> None:
        while True:
            if not self._up:
                self._resolve([], None)
                await asyncio.sleep(RETRY_S)
                self._owed.prune(slot_at(self.now()))
                await self._connect(remote)
                continue
            await self._wake.wait()
            self._wake.clear()
            await self._exchange(remote)

    async def _exchange(self, remote: RemoteLedger) -> None:
        asked, self._asked = self._asked[:MAX_BATCH], self._asked[MAX_BATCH:]
        if self._asked:
            self._wake.set()
        sequence, changes = self._owed.take()
        call = Call(sequence, changes=changes, asked=[each[:2] for each in asked])
        try:
            answer = await remote.call(call)
        except LedgerAway as error:
            log.warning("quotas: Redis is away (%s); limits are shared by count", error)
            self._up = False
            self._resolve(asked, None)
            return
        except asyncio.CancelledError:
            self._resolve(asked, None)
            raise
        self._owed.arrived()
        self._resolve(asked, answer)
        if answer.lapsed or answer.birth != self._birth:
            # We were not heard of for too long, or Redis was restarted: tell it all again.
            self._up = False
            await self._connect(remote)
        else:
            self._heard(answer)

    def _heard(self, answer: Answer) -> None:
        self._offset_s = answer.now - self._clock()
        self._gateways = max(1, answer.gateways)

    def _resolve(self, asked: Sequence[_Asked], answer: Answer | None) -> None:
        """Hand out verdicts: the answer's, or for all who ask those of our own books."""
        if answer is None:
            asked, self._asked = [*asked, *self._asked], []
            for subjects, work, then in asked:
                _tell(then, self.reserve_here(subjects, work))
            return
        for (subjects, work, then), verdict in zip(asked, answer.verdicts, strict=True):
            names = [each.name for each in subjects]
            if verdict.refused is None:
                self.ledger.change(names, booked(work, verdict.slot), answer.now)
            self._learn(names, verdict.uses, answer.now)
            _tell(then, verdict)

    def _learn(self, names: Sequence[str], uses: Sequence[Uses], now: float) -> None:
        day, month = day_of(now), month_of(now)
        for name, every in zip(names, uses, strict=True):
            book = self.ledger.book(name, now)
            book.known = Known(now, day, month, every, book.uses())

    # -------------------------------------------------------------- after an absence

    async def _connect(self, remote: RemoteLedger) -> None:
        """Tell Redis what it does not know: what this gateway holds, and what went on meanwhile."""
        try:
            hello = await remote.call(Call())
            self._heard(hello)
            lost = self._birth not in ("", hello.birth)
            if lost:
                self._owed.forget_window()
                self._owe_windows()
            else:
                sequence, changes = self._owed.take()
                if changes:
                    await remote.call(Call(sequence, changes=changes))
                    self._owed.arrived()
            self._owed.forget_held()
            sequence, changes = self._owed.take()
            await remote.call(Call(sequence, self._holdings(), changes))
            self._owed.arrived()
        except LedgerAway as error:
            log.debug("quotas: Redis is still away: %s", error)
            return
        self._birth, self._up = hello.birth, True
        log.info("quotas: Redis answers; %d gateways share the limits", self._gateways)

    def _owe_windows(self) -> None:
        for name, book in self.ledger:
            for slot, (requests, tokens) in book.window.items():
                self._owed.add([name], Change(slot, requests, tokens))

    def _holdings(self) -> list[Held]:
        on_its_way = self._owed.used()
        now, found = self.now(), []
        day, month = day_of(now), month_of(now)
        for name, book in self.ledger:
            known = book.known
            if book.idle and known is None:
                continue
            day_used, day_cost, month_used, month_cost = (
                (0.0, 0.0, 0.0, 0.0) if known is None else used_since(known, book, day, month)
            )
            tokens, cost = on_its_way.get(name, (0.0, 0.0))
            found.append(
                Held(
                    name, book.concurrent, book.held, book.held_cost,
                    day, max(0.0, day_used - tokens), max(0.0, day_cost - cost),
                    month, max(0.0, month_used - tokens), max(0.0, month_cost - cost),
                )
            )  # fmt: skip
        return found


def _tell(then: Callable[[Verdict], None], verdict: Verdict) -> None:
    """One that fails must not keep the others waiting."""
    try:
        then(verdict)
    except Exception:
        log.exception("a request could not go on after its admission")


def given_back(work: Work, slot: int) -> Change:
    """Undo a reservation that nobody waits for any more."""
    return Change(slot, -work.requests, -work.tokens, -work.requests, -work.weighted, -work.cost)
