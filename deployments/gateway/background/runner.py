"""Answers responses that nobody waits for on a connection: takes leases, asks the gateway's own
application, writes down what became of them.

One task drives it, and makes its calls of the store one after the other in one thread. The
requests themselves are as all others: they queue, count and are limited like them.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from cluster.batches.states import MAX_ATTEMPTS, judge, next_lines
from cluster.batches.views import Owner
from cluster.conversations.background import Lease
from cluster.errors import DeadlineExceeded, InternalError, StoreAway, TriremeError
from cluster.tenants.caller import Caller
from deployments.gateway.background.later import answered_response, failed_response, whole_request
from deployments.gateway.batches.call import Answered, AnswerTooLarge, call, told_as_answer
from deployments.gateway.batches.rounds import in_rounds
from deployments.gateway.batches.threads import Threads
from deployments.gateway.contract.asgi import ASGIApp
from deployments.gateway.stored_responses import StoredResponses

log = logging.getLogger("trireme.gateway")

PATH = "/v1/responses"

TICK_S = 0.25
"""Between rounds while some are being answered: so soon a cancellation elsewhere is known."""

IDLE_S = 1.0
"""Between looks for work. What is asked for at this gateway is seen at once."""

STOP_WAIT_S = 3.0

MAX_ANSWER_BYTES = 16 << 20
"""Of one response; the longest answer of the largest context is a tenth of it."""


@dataclass(frozen=True, slots=True)
class _End:
    output: bytes
    response: bytes


@dataclass(frozen=True, slots=True)
class _Back:
    pause_s: float
    counted: bool


class BackgroundRunner:
    """``again`` gives the present rights of who asked, or raises ``TriremeError``; None where
    callers are not told apart."""

    def __init__(
        self,
        stored: StoredResponses,
        gateway_id: str,
        app: ASGIApp,
        again: Callable[[Owner], Caller] | None,
    ) -> None:
        self._stored = stored
        self._answering = stored.answering(gateway_id)
        self._config = stored.background
        self._app = app
        self._again = again
        self._store = Threads("responses", 1, 4, stored.prepare)
        self._running: dict[Lease, asyncio.Task[None]] = {}
        self._over: dict[Lease, _End | _Back] = {}
        self._wake = asyncio.Event()
        self._looked_s = self._renewed_s = float("-inf")
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._stored.changed = self.look_now
        self._loop_task = asyncio.create_task(
            in_rounds(self._round, self._wake, self._pause_s, "the responses in the background")
        )

    async def stop(self) -> None:
        """What runs is given back, for another gateway to take at once."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        running = dict(self._running)
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        for lease in running:
            self._over.setdefault(lease, _Back(0.0, counted=False))
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                await self._write_down()
        except (StoreAway, TimeoutError):
            log.warning("responses are not given back: their leases end by themselves")
        self._store.stop()

    def look_now(self) -> None:
        """Something has changed."""
        self._looked_s = float("-inf")
        self._wake.set()

    # -------------------------------------------------------------- the loop

    def _pause_s(self) -> float:
        return TICK_S if self._running else IDLE_S

    async def _round(self) -> None:
        await self._write_down()
        if self._running:
            await self._watch()
        now = asyncio.get_running_loop().time()
        if now - self._looked_s >= IDLE_S:
            self._looked_s = now
            await self._take_some()

    async def _watch(self) -> None:
        """Keep our leases, and stop what is no more ours, or nobody's as it was cancelled."""
        leases, now = list(self._running), asyncio.get_running_loop().time()
        due = now - self._renewed_s >= self._config.lease_s / 4
        held = await self._store.run(self._answering.renew if due else self._answering.held)
        if due:
            self._renewed_s = now
        for lease in leases:
            task = self._running.get(lease)
            if lease.key not in held and task is not None:
                task.cancel()

    async def _take_some(self) -> None:
        room = self._config.max_concurrent - len(self._running)
        if room <= 0:
            return
        waiting, busy = await self._store.run(self._answering.waiting)
        allowed = [each for each in waiting if self._stored.policy(each.tenant) is not None]
        for response_id in next_lines(allowed, busy, room):
            take = functools.partial(self._answering.lease, response_id)
            lease = await self._store.run(take)
            if lease is not None:
                task = self._running[lease] = asyncio.create_task(self._answer(lease))
                task.add_done_callback(functools.partial(self._ended, lease))

    async def _write_down(self) -> None:
        """What has come since the last time. It is kept until the store has taken it."""
        for lease, over in list(self._over.items()):
            if isinstance(over, _End):
                finish = functools.partial(
                    self._answering.finish, lease, over.output, over.response
                )
                if await self._store.run(finish):
                    self._stored.told("kept")
            else:
                back = functools.partial(
                    self._answering.put_back, lease, over.pause_s, over.counted
                )
                await self._store.run(back)
            del self._over[lease]
            self._running.pop(lease, None)
            self._looked_s = float("-inf")  # there is room

    # -------------------------------------------------------------- one response

    async def _answer(self, lease: Lease) -> None:
        answered = await self._ask(lease)
        shown, late = lease.order.shown, lease.age_s > self._config.window_s
        verdict = judge(
            answered.status,
            attempts=lease.attempts,
            retry_after_s=answered.retry_after_s,
            may_retry=answered.may_retry and not late,
        )
        if verdict.pause_s is not None:
            self._over[lease] = _Back(verdict.pause_s, verdict.counted)
            return
        found = answered_response(shown, answered.body) if verdict.ok else None
        if found is None:
            found = b"[]", failed_response(shown, answered.status, answered.body)
        self._over[lease] = _End(*found)

    async def _ask(self, lease: Lease) -> Answered:
        order = lease.order
        request_id = f"{order.id}_{lease.fence}"
        try:
            if lease.attempts >= MAX_ATTEMPTS:
                # Whoever had it before was gone without a word.
                raise InternalError("a response in the background ends its gateways")
            if lease.age_s > self._config.window_s:
                raise DeadlineExceeded("There was no room for this response in time.")
            caller = None if self._again is None else self._again(order.owner)
            body = whole_request(order.request, order.input)
            return await call(
                self._app, PATH, body, request_id, caller, MAX_ANSWER_BYTES, spare=False
            )
        except TriremeError as error:
            answered = told_as_answer(error)
        except AnswerTooLarge:
            answered = told_as_answer(InternalError("an answer is too large"))
        return answered

    def _ended(self, lease: Lease, task: "asyncio.Task[None]") -> None:
        if lease not in self._over:
            if task.cancelled():
                self._running.pop(lease, None)  # nobody waits for it any more
            else:
                log.error("a response in the background failed", exc_info=task.exception())
                self._over[lease] = _Back(TICK_S, counted=True)
        self._wake.set()
