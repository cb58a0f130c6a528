"""The engine's end of the channel: gateways connect, submit streams and receive steps."""

import asyncio
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.config import TIERS
from deployments.engine.channel.frames import (
    PROTOCOL_VERSION,
    Abort,
    Died,
    Hello,
    Load,
    Output,
    Ping,
    Poison,
    ProtocolError,
    Recall,
    Recalled,
    Refused,
    Step,
    Submit,
    Welcome,
    decode_from_gateway,
    encode,
)
from deployments.engine.channel.framing import FramedProtocol
from deployments.engine.channel.poisons import Poisons
from deployments.engine.channel.tls import ChannelTls
from deployments.engine.journals import Journal

log = logging.getLogger("trireme.channel")

LOAD_NEWS_INTERVAL_S = 0.05
"""Least time between load reports to a gateway that has no tokens to receive."""

_TIER_INDEX: dict[str, int] = {tier: index for index, tier in enumerate(TIERS)}

MAX_LAST_WORDS = 500
"""Characters of an engine's error that its gateways are told."""

TOKEN_BYTES = 8
"""Upper estimate of a token's share of a held-back output, for the buffer bound."""


@dataclass(frozen=True)
class ServerSettings:
    """``max_buffered_bytes`` bounds what is held for one slow gateway, in kernel and in here."""

    secret: str
    heartbeat_s: float
    dead_after_s: float
    max_frame_bytes: int
    max_buffered_bytes: int
    max_streams: int
    tls: ChannelTls | None = None


@dataclass(frozen=True)
class StreamHandlers:
    """What the host does with a gateway's wishes. Called on the event loop; must not block."""

    submit: Callable[["GatewayConnection", Submit], None]
    abort: Callable[["GatewayConnection", list[int]], None]
    welcome: Callable[[], Welcome]
    recall: Callable[[Recall], Recalled]
    left: Callable[[Journal], None]


@dataclass
class ChannelServer:
    """Listens for gateways and keeps their connections."""

    settings: ServerSettings
    handlers: StreamHandlers
    connections: set["GatewayConnection"] = field(default_factory=set)
    poisons: Poisons = field(default_factory=Poisons)
    _server: asyncio.Server | None = None
    _heartbeat: asyncio.Task[None] | None = None
    _connection_count: int = 0

    async def start(self, host: str) -> int:
        """Listen on a free port of ``host``; returns the port."""
        loop, tls = asyncio.get_running_loop(), self.settings.tls
        self._server = await loop.create_server(
            self._accept, host, 0, ssl=None if tls is None else tls.server
        )
        self._heartbeat = loop.create_task(self._watch())
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _accept(self) -> "GatewayConnection":
        self._connection_count += 1
        return GatewayConnection(self, self._connection_count)

    async def _watch(self) -> None:
        """Drop gateways that have gone silent; their streams end with the connection."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.settings.heartbeat_s)
            if self.settings.tls is not None:
                self.settings.tls.refresh()
            oldest = loop.time() - self.settings.dead_after_s
            for connection in list(self.connections):
                if connection.last_received_s < oldest:
                    connection.fail(TimeoutError("gateway is silent"))

    def broadcast_load(self, load: Load, but: set["GatewayConnection"], *, force: bool) -> None:
        """Tell the gateways that got no tokens in this step how the replica is doing."""
        now = asyncio.get_running_loop().time()
        for connection in self.connections:
            connection.load = load
            if connection not in but and (
                force or now - connection.last_sent_s >= LOAD_NEWS_INTERVAL_S
            ):
                connection.send_step(load, [], now)

    def spread(self, poison: Poison, source: "GatewayConnection") -> None:
        """A gateway has found out what engines die of: the others must not try it again."""
        if self.poisons.add(poison, asyncio.get_running_loop().time()):
            for connection in self.connections:
                if connection is not source and connection.hears_poisons:
                    connection.send(encode(poison))

    def stop_listening(self) -> None:
        """Whoever tries to connect from now on is refused by the operating system."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        for connection in list(self.connections):
            connection.say_died("the replica was stopped", blameless=True)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


class GatewayConnection(FramedProtocol):
    """One gateway. ``streams`` has the numbers that it has running on this engine, with their tiers
    as indices; ``by_tier`` counts them. ``journals`` has those of its resumable streams."""

    def __init__(self, server: ChannelServer, number: int) -> None:
        super().__init__(server.settings.max_frame_bytes)
        self.server = server
        self.number = number
        self.gateway_id: str | None = None
        self.streams: dict[int, int] = {}
        self.by_tier = [0, 0, 0]
        self.journals: dict[int, Journal] = {}
        self.hears_poisons = False
        self.last_sent_s = 0.0
        self._held: dict[int, list[Output]] = {}
        self._held_bytes = 0
        self.load = Load()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=self.server.settings.max_buffered_bytes // 2)
        # Until the hello this connection is in nobody's list, so nobody else ends it.
        loop = asyncio.get_running_loop()
        self._greeting = loop.call_later(self.server.settings.dead_after_s, self._give_up)

    def _give_up(self) -> None:
        if self.gateway_id is None:
            self.fail(TimeoutError("no hello"))

    def on_frame(self, payload: bytes) -> None:
        message = decode_from_gateway(payload)
        if self.gateway_id is None:
            self._greet(message)
            return
        match message:
            case Submit():
                self._submit(message)
            case Abort(streams=streams):
                self.server.handlers.abort(self, streams)
            case Ping():
                self.send_step(self.load, [], asyncio.get_running_loop().time())
            case Recall():
                self.send(encode(self.server.handlers.recall(message)))
            case Poison():
                self.server.spread(message, self)
            case Hello():
                raise ProtocolError("second hello")

    def _greet(self, message: object) -> None:
        if not isinstance(message, Hello):
            raise ProtocolError("first frame is not a hello")
        if message.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol {message.protocol}, this side {PROTOCOL_VERSION}")
        if not hmac.compare_digest(message.secret.encode(), self.server.settings.secret.encode()):
            raise ProtocolError("wrong channel secret")
        self.gateway_id = message.gateway_id
        self.server.connections.add(self)
        welcome = self.server.handlers.welcome()
        self.load = welcome.load
        self.send(encode(welcome))
        self.hears_poisons = message.poisons
        if self.hears_poisons:
            for poison in self.server.poisons.standing(asyncio.get_running_loop().time()):
                self.send(encode(poison))

    def _submit(self, message: Submit) -> None:
        if message.stream in self.streams:
            raise ProtocolError(f"stream {message.stream} is already running")
        if len(self.streams) >= self.server.settings.max_streams:
            self.refuse(message.stream, "too many streams on this connection", retryable=True)
            return
        tier = _TIER_INDEX.get(message.tier)
        if tier is None:
            self.refuse(message.stream, f"unknown tier {message.tier!r}", retryable=False)
            return
        self.streams[message.stream] = tier
        self.by_tier[tier] += 1
        self.server.handlers.submit(self, message)

    def forget(self, stream: int) -> None:
        """The stream has ended."""
        tier = self.streams.pop(stream, None)
        if tier is not None:
            self.by_tier[tier] -= 1
        if self.journals:
            journal = self.journals.pop(stream, None)
            if journal is not None:
                self.server.handlers.left(journal)

    @property
    def is_open(self) -> bool:
        """Whether the gateway is still connected, as far as is known."""
        return self.transport is not None and not self.transport.is_closing()

    def note(self, outputs: list[Output]) -> None:
        """Keep what resumable streams have written."""
        for output in outputs:
            journal = self.journals.get(output.stream)
            if journal is not None:
                journal.add(output)

    def refuse(self, stream: int, message: str, *, retryable: bool) -> None:
        self.forget(stream)
        self.send(encode(Refused(stream, message, retryable)))

    def say_died(self, message: str, *, blameless: bool = False, trial: int = 0) -> None:
        """The engine has ended: the last word, after which the connection closes."""
        for stream in list(self.streams):
            self.forget(stream)
        self.send(encode(Died(message[:MAX_LAST_WORDS], blameless, trial)))
        self.close()
        # A gateway that does not read would keep it open.
        dead_after_s = self.server.settings.dead_after_s
        asyncio.get_running_loop().call_later(dead_after_s, self.fail, ConnectionError(message))

    def send_step(self, load: Load, outputs: list[Output], now: float) -> None:
        """Send, or hold back and merge while the gateway does not read fast enough.

        Merging keeps the bound: a slow gateway costs its streams' unread tokens, never one frame
        a step, and nobody else waits for it.
        """
        self.load = load
        if self.writable and not self._held:
            self.last_sent_s = now
            low, medium, high = self.by_tier
            self.send(encode(Step(load, outputs, (low, medium, high))))
            return
        for output in outputs:
            self._hold(output)
        if self._held_bytes > self.server.settings.max_buffered_bytes:
            self.fail(BufferError("gateway does not read; its buffer is full"))

    def _hold(self, output: Output) -> None:
        self._held_bytes += TOKEN_BYTES * len(output.tokens) + sum(map(len, output.details or ()))
        earlier = self._held.setdefault(output.stream, [])
        last = earlier[-1] if earlier else None
        if last is None or last.details is not None or output.details is not None:
            earlier.append(output)
            self._held_bytes += 64
            return
        last.tokens = last.tokens + output.tokens
        last.finish = output.finish
        last.stop_reason = output.stop_reason

    def on_writable(self) -> None:
        if self._held:
            outputs = [output for held in self._held.values() for output in held]
            self._held, self._held_bytes = {}, 0
            self.send_step(self.load, outputs, asyncio.get_running_loop().time())

    def on_closed(self, error: Exception | None) -> None:
        self._greeting.cancel()
        self.server.connections.discard(self)
        if self.gateway_id is None:
            # Gateways knock without a word to find out whether a replica lives.
            log.log(logging.WARNING if error else logging.DEBUG, "connection refused: %s", error)
        elif self.streams:
            log.info("gateway %s left with %d streams", self.gateway_id, len(self.streams))
        self.server.handlers.abort(self, list(self.streams))
