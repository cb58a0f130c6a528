"""The gateway's end of the channel: one link to each replica, kept up for as long as it exists."""

import asyncio
import itertools
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from deployments.engine.channel.frames import (
    PROTOCOL_VERSION,
    Abort,
    Died,
    Hello,
    Ping,
    Poison,
    ProtocolError,
    Recall,
    Recalled,
    Refused,
    Step,
    Submit,
    Welcome,
    decode_from_engine,
    encode,
)
from deployments.engine.channel.framing import FramedProtocol
from deployments.engine.channel.tls import ChannelTls

log = logging.getLogger("trireme.channel")

FIRST_RETRY_S, LAST_RETRY_S = 0.1, 2.0
"""Pauses between attempts to reconnect double from the first to the last."""

KNOCK_S = 0.25
"""How long it may take to find out whether a replica that hung up still listens."""


class EngineGone(ConnectionError):
    """The engine is dead, and not only the connection. ``trial`` is our stream that was on trial, 0
    for none, None where nobody was left to say so."""

    def __init__(self, message: str, trial: int | None = None) -> None:
        super().__init__(message)
        self.trial = trial


class ReplicaStopped(ConnectionError):
    """The replica was made to end: nothing that it ran is to blame."""


@dataclass(frozen=True)
class Endpoint:
    """Where a replica listens, and who it must turn out to be."""

    replica_id: str
    host: str
    port: int


@dataclass(frozen=True)
class LinkSettings:
    secret: str
    gateway_id: str
    heartbeat_s: float
    dead_after_s: float
    connect_timeout_s: float
    max_frame_bytes: int
    tls: ChannelTls | None = None


class LinkHandlers(Protocol):
    """Called on the event loop as things happen on a link; must not block.

    ``on_down`` gets an ``EngineGone`` when the engine itself is known to be dead.
    """

    def on_up(self, link: "EngineLink", welcome: Welcome) -> None: ...
    def on_step(self, link: "EngineLink", step: Step) -> None: ...
    def on_refused(self, link: "EngineLink", refused: Refused) -> None: ...
    def on_poison(self, poison: Poison) -> None: ...
    def on_down(self, link: "EngineLink", error: Exception | None) -> None: ...


class EngineLink:
    """Connects, reconnects, and carries streams. ``run`` lives until ``close``."""

    def __init__(self, endpoint: Endpoint, settings: LinkSettings, handlers: LinkHandlers) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.handlers = handlers
        self.on_hangup: Callable[[EngineLink], None] | None = None
        """Told at once that a connection has ended; ``on_down`` follows with the reason."""
        self._connection: _EngineConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._asks = itertools.count(1)

    def open(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def is_up(self) -> bool:
        connection = self._connection
        return connection is not None and connection.welcomed and not connection.ended.done()

    def silent_s(self, now: float) -> float:
        """Seconds since anything came from the replica; 0 without a connection."""
        return 0.0 if self._connection is None else now - self._connection.last_received_s

    def submit(self, submit: Submit) -> None:
        if self._connection is not None:
            self._connection.send(encode(submit))

    def abort(self, streams: list[int]) -> None:
        if self._connection is not None:
            self._connection.send(encode(Abort(streams)))

    def warn(self, poison: Poison) -> None:
        """Let the replica tell other gateways what engines die of, if it can."""
        if self._connection is not None and self._connection.poisons:
            self._connection.send(encode(poison))

    async def recall(self, journal: str) -> Recalled | None:
        """What the replica knows of a resumable request; None when it cannot say."""
        connection = self._connection
        if connection is None or not connection.journals or connection.ended.done():
            return None
        ask = next(self._asks)
        answer = connection.asked[ask] = asyncio.get_running_loop().create_future()
        try:
            connection.send(encode(Recall(ask, journal)))
            await asyncio.wait({answer, connection.ended}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            del connection.asked[ask]

    async def _run(self) -> None:
        pause_s = FIRST_RETRY_S
        while True:
            connection = await self._connect()
            if connection is not None:
                self._connection = connection
                try:
                    error = await self._keep_alive(connection)
                finally:
                    self._connection = None
                    connection.close()
                if connection.welcomed:
                    pause_s = FIRST_RETRY_S
                    error = await self._explained(error)
                    self.handlers.on_down(self, error)
                log.warning("link to %s is down: %s", self.endpoint.replica_id, error)
            await asyncio.sleep(pause_s)
            pause_s = min(LAST_RETRY_S, 2.0 * pause_s)

    async def _explained(self, error: Exception | None) -> Exception | None:
        """``EngineGone`` if nobody listens any more where the replica did: its process is dead.

        Silence proves nothing, and neither does a connection that breaks while others work."""
        if isinstance(error, EngineGone | ReplicaStopped | TimeoutError | ProtocolError):
            return error
        try:
            async with asyncio.timeout(KNOCK_S):
                _, writer = await asyncio.open_connection(self.endpoint.host, self.endpoint.port)
        except ConnectionRefusedError:
            return EngineGone("the replica's process is gone")
        except (OSError, TimeoutError):
            return error
        writer.close()
        return error

    async def _connect(self) -> "_EngineConnection | None":
        loop, tls = asyncio.get_running_loop(), self.settings.tls
        if tls is not None:
            tls.refresh()
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: _EngineConnection(self),
                    self.endpoint.host,
                    self.endpoint.port,
                    ssl=None if tls is None else tls.client,
                )
        except ssl.SSLError as error:
            log.warning("no TLS with %s: %s", self.endpoint.replica_id, error)
            return None
        except (OSError, TimeoutError):
            return None
        return connection

    async def _keep_alive(self, connection: "_EngineConnection") -> Exception | None:
        """Ping until the connection ends; silence ends it."""
        loop = asyncio.get_running_loop()
        ping = encode(Ping())
        while not connection.ended.done():
            await asyncio.wait({connection.ended}, timeout=self.settings.heartbeat_s)
            if loop.time() - connection.last_received_s > self.settings.dead_after_s:
                connection.fail(TimeoutError("replica is silent"))
            elif connection.welcomed:
                connection.send(ping)
        return connection.ended.result()


class _EngineConnection(FramedProtocol):
    """One TCP connection of a link."""

    def __init__(self, link: EngineLink) -> None:
        super().__init__(link.settings.max_frame_bytes)
        self.link = link
        self.welcomed = False
        self.journals = self.poisons = False
        self.asked: dict[int, asyncio.Future[Recalled]] = {}
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        settings = self.link.settings
        self.send(encode(Hello(PROTOCOL_VERSION, settings.secret, settings.gateway_id, True)))

    def on_frame(self, payload: bytes) -> None:
        message = decode_from_engine(payload)
        if type(message) is Step:
            self.link.handlers.on_step(self.link, message)
        elif isinstance(message, Refused):
            self.link.handlers.on_refused(self.link, message)
        elif isinstance(message, Welcome):
            self._on_welcome(message)
        elif isinstance(message, Poison):
            self.link.handlers.on_poison(message)
        elif isinstance(message, Recalled):
            answer = self.asked.get(message.ask)
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif isinstance(message, Died):
            if message.blameless:
                self.fail(ReplicaStopped(message.message))
            else:
                self.fail(EngineGone(message.message, message.trial))

    def _on_welcome(self, welcome: Welcome) -> None:
        if self.welcomed:
            raise ProtocolError("second welcome")
        if welcome.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol {welcome.protocol}, this side {PROTOCOL_VERSION}")
        if welcome.replica_id != self.link.endpoint.replica_id:
            raise ProtocolError(f"replica is {welcome.replica_id}")  # the port was reused
        self.welcomed = True
        self.journals, self.poisons = welcome.journals, welcome.poisons
        self.link.handlers.on_up(self.link, welcome)

    def on_closed(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
        if self.welcomed and self.link.on_hangup is not None:
            self.link.on_hangup(self.link)
