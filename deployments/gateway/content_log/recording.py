"""What one request brought and was answered, on its way from the event loop to the thread."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from deployments.gateway.content_log.answers import StreamedAnswer
from deployments.gateway.contract.asgi import Message, Receive, Send

PART_BYTES = 65_536
"""So much of a stream waits in its request before the thread takes it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a request once it is done; its text is elsewhere."""

    request_id: str
    tenant: str
    key: str
    model: str
    route: str
    tier: str
    status: int


class Recording:
    """One request. The event loop fills it through ``receive`` and ``send``; ``answer`` and ``raw``
    belong to the thread. ``hand_over`` takes parts of a long stream, in their order."""

    __slots__ = ("_bytes", "_hand_over", "_parts", "answer", "body", "lost", "raw", "streams")

    def __init__(self, limit_bytes: int, hand_over: Callable[["Recording"], None]) -> None:
        self.body: list[bytes] = []
        self.streams = False
        self.lost = False
        self.answer = StreamedAnswer(limit_bytes)
        self.raw = bytearray()
        self._parts: list[bytes] = []
        self._bytes = 0
        self._hand_over = hand_over

    def receiving(self, receive: Receive) -> Receive:
        async def recorded() -> Message:
            message = await receive()
            chunk = message.get("body")
            if chunk:
                self.body.append(chunk)
            return message

        return recorded

    def sending(self, send: Send) -> Send:
        # Once a token, without a coroutine of its own.
        def recorded(message: Message) -> Awaitable[None]:
            chunk = message.get("body")
            if chunk and not self.lost:
                self._parts.append(chunk)
                self._bytes += len(chunk)
                if self._bytes >= PART_BYTES:
                    self._hand_over(self)
            elif message["type"] == "http.response.start":
                self.streams = any(
                    name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message["headers"]
                )
            return send(message)

        return recorded

    def take_parts(self) -> list[bytes]:
        """What was sent since the last time."""
        parts, self._parts, self._bytes = self._parts, [], 0
        return parts

    def absorb(self, parts: list[bytes], limit_bytes: int) -> None:
        """For the thread: these were sent."""
        data = b"".join(parts)
        if self.streams:
            self.answer.feed(data)
        else:
            self.raw += data[: max(0, limit_bytes - len(self.raw))]
