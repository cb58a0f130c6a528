"""A TCP proxy in this process, between gateways and one replica, that can break in every way."""

import asyncio
import contextlib
from dataclasses import dataclass, field

CHUNK_BYTES = 65_536


@dataclass(eq=False)
class Proxy:
    """Forwards ``port`` to ``target_port`` on loopback.

    ``to_engine`` and ``to_gateway`` say whether bytes pass in that direction: swallowed ones are
    lost for good, so whoever mends a connection must cut it. ``delay_s`` holds every chunk back.
    ``refusing``: new connections are closed at once.
    """

    target_port: int
    to_engine: bool = True
    to_gateway: bool = True
    delay_s: float = 0.0
    port: int = 0
    _server: asyncio.Server | None = None
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, upstream[1]}
        for pump in (self._pump(reader, upstream[1], up=True), self._pump(upstream[0], writer)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(_write_late(late, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self.to_engine if up else self.to_gateway:
                    late.put_nowait((loop.time() + self.delay_s, data))
        # What is delayed arrives before the end does.
        late.put_nowait((loop.time(), b""))
        try:
            await writing
        finally:
            writing.cancel()
        self._writers.discard(writer)
        writer.close()

    def cut(self) -> None:
        """Every connection breaks, for both sides, and new ones work."""
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Everything passes again, at once; connections that lost bytes are cut."""
        if not (self.to_engine and self.to_gateway):
            self.cut()
        self.to_engine = self.to_gateway = True
        self.delay_s = 0.0

    async def stop(self) -> None:
        """As if the machine behind it were gone: connections break, new ones are refused."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


async def _write_late(
    late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
) -> None:
    """Each chunk when it is due, and never before an earlier one; an empty one is the end."""
    loop = asyncio.get_running_loop()
    while True:
        due_s, data = await late.get()
        if due_s > loop.time():
            await asyncio.sleep(due_s - loop.time())
        if not data:
            return
        if not writer.is_closing():
            writer.write(data)
