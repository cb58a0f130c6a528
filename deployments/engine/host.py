"""Ties one engine to its gateways: submissions in, one frame per step and gateway out."""

import asyncio
import logging
import uuid
from dataclasses import dataclass

from deployments.engine.channel.frames import (
    ABORTED,
    ERROR,
    PROTOCOL_VERSION,
    Load,
    Output,
    Recall,
    Recalled,
    Submit,
    Welcome,
)
from deployments.engine.channel.server import (
    ChannelServer,
    GatewayConnection,
    ServerSettings,
    StreamHandlers,
)
from deployments.engine.engine import (
    Engine,
    EngineDead,
    EngineInfo,
    EngineStats,
    EngineStep,
    RequestRefused,
)
from deployments.engine.journals import Journal, Journals
from deployments.engine.traces import EngineTraces
from deployments.router.recovery import ACQUITTED_TOKENS

log = logging.getLogger("trireme.engine")

LOOK_S = 0.1
"""How often the engine's process is looked at. Its own news of its end comes seconds later, when
all is freed, and meanwhile it would seem to hang."""

STEP_TIME_WEIGHT = 0.1
"""Weight of the newest step in the moving average of the step time."""


@dataclass(frozen=True)
class _Command:
    """A wish of a gateway on its way to the engine; ``submit`` is None for an abort."""

    request_ids: list[str]
    connection: GatewayConnection
    submit: Submit | None = None


class EngineHost:
    """Runs an engine behind a channel server.

    ``progress_timeout_s``: with work pending and no engine step for so long, the engine counts as
    stuck. ``died`` is set with the cause when the engine is gone; every connection is then closed,
    so that gateways know at once.
    """

    def __init__(
        self,
        engine: Engine,
        replica_id: str,
        settings: ServerSettings,
        progress_timeout_s: float,
        traces: EngineTraces | None = None,
    ) -> None:
        self.engine = engine
        self.replica_id = replica_id
        self.epoch = uuid.uuid4().hex
        self.progress_timeout_s = progress_timeout_s
        self._traces = traces
        self.info: EngineInfo | None = None
        self.port = 0
        self.died: Exception | None = None
        self.tokens_out = 0
        self.load = Load()
        self.journals = Journals()
        self._owners: dict[str, tuple[GatewayConnection, int]] = {}
        # Bounded by max_streams on every connection: a stream is one submission and one abort.
        self._commands: asyncio.Queue[_Command] = asyncio.Queue()
        self._stats = EngineStats(0, 0, 0.0)
        self._steps = 0
        self._step_s = 0.0
        self._last_step_s = 0.0
        self._draining = False
        self._trial = ""
        self._suspects: dict[str, int] = {}
        """Tokens that those have written here with whom another engine has died."""
        self._tasks: list[asyncio.Task[None]] = []
        self.server = ChannelServer(
            settings,
            StreamHandlers(
                self._on_submit, self._on_abort, self._welcome, self._on_recall, self._on_left
            ),
        )

    @property
    def preemptions(self) -> int:
        """Preemptions since the engine's start."""
        return self._stats.preemptions

    @property
    def pending(self) -> int:
        """Requests that the engine has accepted or is about to, and has not finished."""
        return len(self._owners)

    async def start(self, listen_host: str) -> None:
        """Start the engine, then listen. Raises whatever the engine's start raises."""
        self.info = await self.engine.start()
        self._last_step_s = asyncio.get_running_loop().time()
        self._refresh_load()
        self.port = await self.server.start(listen_host)
        for work in (self._feed(), self._pump(), self._look()):
            self._tasks.append(asyncio.create_task(work))

    def _welcome(self) -> Welcome:
        assert self.info is not None
        return Welcome(
            PROTOCOL_VERSION,
            self.replica_id,
            self.epoch,
            self.info.max_num_seqs,
            self.info.max_model_len,
            self.info.kv_tokens,
            self.load,
            self.info.exact_sampling,
            journals=True,
            poisons=True,
        )

    # ------------------------------------------------------------------ gateway -> engine

    def _on_submit(self, connection: GatewayConnection, submit: Submit) -> None:
        if self._draining:
            connection.refuse(submit.stream, "replica is draining", retryable=True)
            return
        request_id = f"{connection.number}.{submit.stream}"
        if submit.on_trial:
            if self._trial in self._owners:
                connection.refuse(submit.stream, "another request is on trial", retryable=True)
                return
            self._trial = request_id
        if submit.suspect or submit.on_trial:
            self._suspects[request_id] = 0
        if not self._owners:
            # An idle engine makes no steps: its silence starts counting now.
            self._last_step_s = asyncio.get_running_loop().time()
        self._owners[request_id] = (connection, submit.stream)
        if submit.journal:
            connection.journals[submit.stream] = self.journals.begin(
                submit.journal, submit.journal_s, submit.emitted, lambda: connection.is_open
            )
        if submit.traceparent and self._traces is not None:
            self._traces.submitted(request_id, submit)
        self._commands.put_nowait(_Command([request_id], connection, submit))

    def _on_abort(self, connection: GatewayConnection, streams: list[int]) -> None:
        ids = []
        for stream in streams:
            connection.forget(stream)
            request_id = f"{connection.number}.{stream}"
            if self._owners.pop(request_id, None) is not None:
                ids.append(request_id)
                if self._traces is not None:
                    self._traces.ended(request_id, ABORTED)
        if ids:
            self._commands.put_nowait(_Command(ids, connection))
            # With nothing left to do the engine makes no step that would bring the news.
            self._refresh_load()
            if not self._owners:
                self.server.broadcast_load(self.load, set(), force=True)

    def _on_recall(self, recall: Recall) -> Recalled:
        journal = self.journals.find(recall.journal, asyncio.get_running_loop().time())
        if journal is None:
            return Recalled(recall.ask, found=False)
        return Recalled(
            recall.ask,
            True,
            journal.tokens.tolist(),
            journal.finish,
            journal.stop_reason,
            journal.cached_tokens,
            journal.lives(),
        )

    def _on_left(self, journal: Journal) -> None:
        """A resumable request has ended: its tokens are kept for some time more."""
        loop = asyncio.get_running_loop()
        self.journals.end(journal, loop.time())
        loop.call_later(journal.keep_s, lambda: self.journals.expire(loop.time()))

    async def _feed(self) -> None:
        """Hand commands to the engine in the order in which they came."""
        while True:
            command = await self._commands.get()
            try:
                if command.submit is None:
                    await self.engine.abort(command.request_ids)
                elif command.request_ids[0] in self._owners:
                    await self.engine.submit(command.request_ids[0], command.submit)
            except RequestRefused as refusal:
                assert command.submit is not None
                self._owners.pop(command.request_ids[0], None)
                if self._traces is not None:
                    self._traces.ended(command.request_ids[0], ERROR)
                command.connection.refuse(
                    command.submit.stream, str(refusal), retryable=refusal.retryable
                )
            except Exception as error:
                # Whatever it was, the engine takes nothing any more.
                self._die(error)
                return

    # ------------------------------------------------------------------ engine -> gateway

    async def _pump(self) -> None:
        while True:
            try:
                step = await self.engine.next_step()
            except Exception as error:
                self._die(error)
                return
            self._forward(step)

    async def _look(self) -> None:
        while self.died is None:
            await asyncio.sleep(LOOK_S)
            try:
                self.engine.check()
            except EngineDead as error:
                self._die(error)

    def _forward(self, step: EngineStep) -> None:
        now = asyncio.get_running_loop().time()
        prompts, written = False, 0
        pack, owners = self.engine.pack, self._owners
        outboxes: dict[GatewayConnection, list[Output]] = {}
        for output in step.outputs:  # the loop runs once a token
            owner = owners.get(output.request_id)
            if owner is None:
                continue  # aborted while this step was running
            connection, stream = owner
            packed = pack(output, stream)
            outbox = outboxes.get(connection)
            if outbox is None:
                outboxes[connection] = [packed]
            else:
                outbox.append(packed)
            written += len(packed.tokens)
            if packed.cached_tokens is not None:
                prompts = True
                if self._traces is not None:
                    self._traces.first_token(output.request_id, packed.cached_tokens)
            if packed.finish is not None:
                del owners[output.request_id]
                if connection.journals:
                    connection.note([packed])
                if self._traces is not None:
                    self._traces.ended(output.request_id, packed.finish)
                connection.forget(stream)
        self.tokens_out += written
        if self._suspects:
            self._judge(step)
        self._note_step(step, now, prompts=prompts)
        self._refresh_load()
        for connection, outputs in outboxes.items():
            if connection.journals:
                connection.note(outputs)  # before they are sent, which may merge them
            connection.send_step(self.load, outputs, now)
        # An idle engine stays silent: its last word has to reach everybody.
        self.server.broadcast_load(self.load, set(outboxes), force=not self._owners)

    def _judge(self, step: EngineStep) -> None:
        """A suspect is acquitted once it has written enough tokens, or ended."""
        suspects = self._suspects
        for output in step.outputs:
            if output.request_id in suspects:
                suspects[output.request_id] += len(output.new_token_ids)
        for request_id, tokens in list(suspects.items()):
            if tokens >= ACQUITTED_TOKENS or request_id not in self._owners:
                del suspects[request_id]
        if self._trial not in suspects:
            self._trial = ""

    def _note_step(self, step: EngineStep, now: float, *, prompts: bool) -> None:
        """``prompts``: whether a prompt ended in it, so that its time says nothing of decoding."""
        took_s = now - self._last_step_s
        self._last_step_s = now
        self._steps += 1
        busy = self._stats.running > 0
        if busy and not prompts:
            weight = STEP_TIME_WEIGHT if self._step_s else 1.0
            self._step_s += weight * (took_s - self._step_s)
        if step.stats is not None:
            self._stats = step.stats

    def _refresh_load(self) -> None:
        assert self.info is not None
        # How many there are we know best; the engine's last step tells how many of them run. Those
        # that it has not scheduled yet (or not even received) wait.
        running = min(self._stats.running, len(self._owners))
        kv_use = self._stats.kv_use if self._owners else 0.0
        low = medium = high = 0
        for connection in self.server.connections:
            its_low, its_medium, its_high = connection.by_tier
            low, medium, high = low + its_low, medium + its_medium, high + its_high
        self.load = Load(
            running=running,
            waiting=len(self._owners) - running,
            kv_use=kv_use,
            kv_free_tokens=int(self.info.kv_tokens * (1.0 - kv_use)),
            step_s=self._step_s,
            steps=self._steps,
            draining=self._draining,
            by_tier=(low, medium, high),
        )

    # ------------------------------------------------------------------ health and end

    def check(self) -> None:
        """Raises ``EngineDead`` if the engine is dead, or has work and makes no step."""
        if self.died is not None:
            raise EngineDead(str(self.died)) from self.died
        self.engine.check()
        silent_s = asyncio.get_running_loop().time() - self._last_step_s
        if self._owners and silent_s > self.progress_timeout_s:
            raise EngineDead(f"{len(self._owners)} requests pending, no step for {silent_s:.0f} s")

    def _die(self, error: Exception) -> None:
        if self.died is not None:
            return  # by another way the news came sooner
        log.error("engine of %s died: %s", self.replica_id, error)
        self.died = error
        # With another suspect here it may as well have been that one.
        alone = sum(each in self._owners for each in self._suspects) == 1
        tried = self._owners.get(self._trial) if alone else None
        blameless = isinstance(error, EngineDead) and error.blameless
        self._owners.clear()
        self.server.stop_listening()
        for connection in list(self.server.connections):
            trial = tried[1] if tried is not None and tried[0] is connection else 0
            connection.say_died(
                str(error) or type(error).__name__, blameless=blameless, trial=trial
            )

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new and wait until the running streams have ended, or ``timeout_s``."""
        self._draining = True
        self._refresh_load()
        self.server.broadcast_load(self.load, set(), force=True)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._owners and self.died is None:
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._owners.clear()
        await self.server.stop()
        self.engine.stop()
