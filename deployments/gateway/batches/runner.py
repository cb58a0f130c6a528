"""Answers lines of batches: takes leases, asks the gateway's own application, writes answers down.

One task drives it. All its calls of the store are made one after the other in one thread, and the
jobs of whole batches in another, so that no call of its own waits for another's locks.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence

from cluster.batches.folder import Folder
from cluster.batches.lines import answered_line, line_id, read_line
from cluster.batches.states import Waiting, judge, next_lines
from cluster.batches.views import Owner
from cluster.batches.work import Answer, Lease, Work
from cluster.config import BatchConfig
from cluster.errors import InternalError, StoreAway, TriremeError
from cluster.tenants.caller import Caller
from deployments.gateway.batches.call import Answered, AnswerTooLarge, call, told_as_answer
from deployments.gateway.batches.jobs import Jobs
from deployments.gateway.batches.rounds import in_rounds
from deployments.gateway.batches.threads import Threads
from deployments.gateway.contract.asgi import ASGIApp

log = logging.getLogger("trireme.gateway")

TICK_S = 0.25
"""Between looks for work while there is some."""

GATHER_S = 0.02
"""For which answers are gathered: each write to the store is a transaction."""

IDLE_S = 2.0
"""Between looks while no batch is open."""

LOOK_S = 1.0
"""How old what is known of waiting batches may be."""

SWEEP_S = 60.0

MAX_ANSWER_BYTES = 16 << 20
"""Of one request; the longest answer of the largest context is a tenth of it."""

SPAN_BYTES = 4 << 20
"""Lines that stand so near to each other are read at once."""


class BatchRunner:
    """``again`` gives the present rights of a batch's owner, or raises ``TriremeError``; None where
    callers are not told apart. ``has_time`` tells whether lines may start. ``told`` counts attempts
    by outcome."""

    def __init__(
        self,
        work: Work,
        jobs: Jobs,
        folder: Folder,
        config: BatchConfig,
        prepare: Callable[[], None],
        *,
        app: ASGIApp,
        again: Callable[[Owner], Caller] | None,
        has_time: Callable[[], bool],
        told: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._work = work
        self._jobs = jobs
        self._folder = folder
        self._config = config
        self._app = app
        self._again = again
        self._has_time = has_time
        self._told = told
        self._store = Threads("batch-lines", 1, 4, prepare)
        self._jobs_thread = Threads("batch-jobs", 1, 1, prepare)
        self._running: dict[Lease, asyncio.Task[None]] = {}
        self._answers: dict[Lease, Answer] = {}
        self._back: dict[Lease, tuple[float, bool]] = {}
        self._wake = asyncio.Event()
        self._waiting: list[Waiting] = []
        self._busy: dict[str, int] = {}
        self._looked_s = self._renewed_s = self._swept_s = float("-inf")
        self._open = True
        self._loop_task: asyncio.Task[None] | None = None
        self._job: asyncio.Task[bool] | asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop_task = asyncio.create_task(
            in_rounds(self._round, self._wake, self._pause_s, "the batches")
        )

    async def stop(self) -> None:
        """Lines that run are given back, for another gateway to take at once."""
        for task in (self._loop_task, self._job):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lease in self._running:
            if lease not in self._answers and lease not in self._back:
                self._back[lease] = (0.0, False)
        try:
            async with asyncio.timeout(self._config.max_wait_s):
                await self._write_down()
        except (StoreAway, TimeoutError):
            log.warning("lines of batches are not given back: their leases end by themselves")
        self._store.stop()
        self._jobs_thread.stop()

    def look_now(self, _: object = None) -> None:
        """Something has changed."""
        self._looked_s = float("-inf")
        self._wake.set()

    # -------------------------------------------------------------- the loop

    def _pause_s(self) -> float:
        return TICK_S if self._open or self._running else IDLE_S

    async def _round(self) -> None:
        if self._running:
            await asyncio.sleep(GATHER_S)
        now = asyncio.get_running_loop().time()
        if now - self._renewed_s >= self._config.lease_s / 4 and self._running:
            await self._renew()
            self._renewed_s = now
        await self._write_down()
        if now - self._looked_s >= LOOK_S:
            await self._look()
            self._looked_s = asyncio.get_running_loop().time()
        await self._start_lines()

    async def _renew(self) -> None:
        leases = list(self._running)
        held = await self._store.run(lambda: self._work.renew(leases))
        for lease in leases:
            task = self._running.get(lease)
            if lease.key not in held and task is not None:
                # Its batch is to stop, or another gateway has it.
                task.cancel()

    async def _look(self) -> None:
        """See what there is to do for batches as a whole, and what waits."""

        def look() -> tuple[bool, list[Waiting], dict[str, int]]:
            if not self._work.unfinished():
                return False, [], {}
            self._work.advance()
            return True, *self._work.waiting()

        self._open, self._waiting, self._busy = await self._store.run(look)
        now = asyncio.get_running_loop().time()
        if self._job is not None and self._job.done():
            if not self._job.cancelled() and (error := self._job.exception()) is not None:
                log.warning("a batch as a whole is not moved on: %s", type(error).__name__)
            self._job = None
        if self._job is None and now - self._swept_s >= SWEEP_S:
            self._swept_s = now
            self._job = asyncio.create_task(self._jobs_thread.run(self._jobs.sweep))
            self._job.add_done_callback(self.look_now)
        elif self._job is None and self._open:
            self._job = step = asyncio.create_task(self._jobs_thread.run(self._jobs.step))
            step.add_done_callback(self._stepped)

    def _stepped(self, job: "asyncio.Task[bool]") -> None:
        if not job.cancelled() and job.exception() is None and job.result():
            self.look_now()

    # -------------------------------------------------------------- lines

    async def _start_lines(self) -> None:
        room = self._config.max_concurrent_lines - len(self._running)
        # By the handful: each lease is a write to the store.
        few = room < max(1, self._config.max_concurrent_lines // 8)
        if not self._waiting or few or not self._has_time():
            return
        for batch_id, count in next_lines(self._waiting, self._busy, room).items():
            await self._start(batch_id, count)

    async def _start(self, batch_id: str, count: int) -> None:
        leases, owner, endpoint, texts = await self._store.run(lambda: self._take(batch_id, count))
        for lease in leases:
            run = self._answer(lease, owner, endpoint, texts.get(lease.number))
            task = self._running[lease] = asyncio.create_task(run)
            task.add_done_callback(functools.partial(self._ended, lease))
        self._busy[owner.tenant] = self._busy.get(owner.tenant, 0) + len(leases)
        if not leases:
            self._waiting = [each for each in self._waiting if each.batch_id != batch_id]

    def _take(self, batch_id: str, count: int) -> tuple[list[Lease], Owner, str, dict[int, bytes]]:
        """In a thread. A folder that does not answer gives the lines back."""
        leases = self._work.lease(batch_id, count)
        if not leases:
            return [], Owner(), "", {}
        owner, endpoint, file_id = self._work.owners([batch_id])[batch_id]
        try:
            texts = self._texts(file_id, leases)
        except FileNotFoundError:
            texts = {}
        except OSError:
            self._work.put_back(dict.fromkeys(leases, (TICK_S, False)))
            raise
        return leases, owner, endpoint, texts

    def _texts(self, file_id: str, leases: Sequence[Lease]) -> dict[int, bytes]:
        start = min(each.at_byte for each in leases)
        end = max(each.at_byte + each.size_bytes for each in leases)
        if end - start <= SPAN_BYTES:
            data = self._folder.read(file_id, start, end)
            return {each.number: data[each.at_byte - start :][: each.size_bytes] for each in leases}
        return {
            each.number: self._folder.read(file_id, each.at_byte, each.at_byte + each.size_bytes)
            for each in leases
        }

    async def _answer(self, lease: Lease, owner: Owner, endpoint: str, text: bytes | None) -> None:
        request_id = f"{line_id(lease.batch_id, lease.number)}_{lease.fence}"
        answered = await self._ask(owner, endpoint, text, request_id)
        verdict = judge(
            answered.status,
            attempts=lease.attempts,
            retry_after_s=answered.retry_after_s,
            may_retry=answered.may_retry,
        )
        if verdict.pause_s is not None:
            self._back[lease] = verdict.pause_s, verdict.counted
            return
        line = answered_line(
            lease.batch_id,
            lease.number,
            lease.custom_id,
            answered.status,
            request_id,
            answered.body,
        )
        self._answers[lease] = Answer(lease, verdict.ok, line)

    async def _ask(
        self, owner: Owner, endpoint: str, text: bytes | None, request_id: str
    ) -> Answered:
        try:
            caller = None if self._again is None else self._again(owner)
            if text is None:
                raise InternalError("the input file of a batch is gone")
            body = bytes(read_line(text).body)
            return await call(self._app, endpoint, body, request_id, caller, MAX_ANSWER_BYTES)
        except TriremeError as error:
            return told_as_answer(error)
        except AnswerTooLarge:
            return told_as_answer(InternalError("an answer of a batch is too large"))

    def _ended(self, lease: Lease, task: "asyncio.Task[None]") -> None:
        if lease in self._answers or lease in self._back:
            self._wake.set()
            return
        if not task.cancelled() and task.exception() is not None:
            log.error("a line of a batch failed", exc_info=task.exception())
        # Given up: it is another's, or its batch is to stop and waits for this.
        self._back[lease] = TICK_S, not task.cancelled()
        self._wake.set()

    async def _write_down(self) -> None:
        """What has come since the last time. It is kept until the store has taken it."""
        answers, back = dict(self._answers), dict(self._back)
        if answers:
            taken = await self._store.run(lambda: self._work.record(answers.values()))
            for lease, answer in answers.items():
                del self._answers[lease]
                self._running.pop(lease, None)
                if lease.key not in taken:
                    self._told("lost")
                else:
                    self._told("answered" if answer.ok else "failed")
            if not self._running:
                self.look_now()  # that may have been the last ones
        if back:
            await self._store.run(lambda: self._work.put_back(back))
            for lease in back:
                del self._back[lease]
                self._running.pop(lease, None)
                self._told("put_back")
