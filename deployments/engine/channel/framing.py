"""Cuts a byte stream into frames, for both ends of the channel."""

import asyncio
from abc import abstractmethod
from typing import cast

from deployments.engine.channel.frames import HEADER, ProtocolError


class Traffic:
    """Frames and bytes of all channels of this process, since it started."""

    __slots__ = ("bytes_in", "bytes_out", "frames_in", "frames_out")

    def __init__(self) -> None:
        self.frames_in = self.bytes_in = self.frames_out = self.bytes_out = 0


traffic = Traffic()


class FramedProtocol(asyncio.Protocol):
    """A TCP connection that speaks length-prefixed frames.

    ``max_frame_bytes`` bounds what a peer can make this side buffer. Subclasses implement
    ``on_frame`` and ``on_closed``; both run on the event loop, ``on_closed`` exactly once.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.transport: asyncio.Transport | None = None
        self.writable = True
        self.last_received_s = 0.0
        self._buffer = bytearray()

    @abstractmethod
    def on_frame(self, payload: bytes) -> None: ...

    @abstractmethod
    def on_closed(self, error: Exception | None) -> None: ...

    def on_writable(self) -> None:
        """The transport's write buffer has drained after it had been full."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the base class.
        self.transport = cast(asyncio.Transport, transport)
        self.last_received_s = asyncio.get_running_loop().time()

    def data_received(self, data: bytes) -> None:
        self.last_received_s = asyncio.get_running_loop().time()
        traffic.bytes_in += len(data)
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        try:
            while end - start >= 4:
                (size,) = HEADER.unpack_from(buffer, start)
                if size > self.max_frame_bytes:
                    raise ProtocolError(f"frame of {size} bytes, limit {self.max_frame_bytes}")
                if end - start - 4 < size:
                    break
                traffic.frames_in += 1
                self.on_frame(bytes(memoryview(buffer)[start + 4 : start + 4 + size]))
                start += 4 + size
        except ProtocolError as error:
            self.fail(error)
            return
        if start:
            del buffer[:start]

    def fail(self, error: Exception) -> None:
        """Close at once; ``on_closed`` follows with ``error``."""
        self._error: Exception | None = error
        self._buffer.clear()
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.on_closed(getattr(self, "_error", None) or exc)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.on_writable()

    def send(self, frame: bytes) -> None:
        """Write a whole frame (see ``frames.encode``). No-op on a closed connection."""
        if self.transport is not None:
            traffic.frames_out += 1
            traffic.bytes_out += len(frame)
            self.transport.write(frame)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
