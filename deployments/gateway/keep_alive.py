"""Keeps streams alive while they are silent, and ends those that nobody reads.

A comment (``: keep-alive``) between two events tells every proxy on the way that the connection is
in use; clients ignore it. A client that does not read fills the connection's buffers, and then the
application waits in ``send``: after a while it is told that the client has left.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from cluster.errors import SlowReader
from deployments.gateway.contract.asgi import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("trireme.gateway")

COMMENT = b": keep-alive\n\n"
BORDER = b"\n\n"
"""What an event ends with; a comment may not stand inside one."""

LOOKS = 8
"""Looks at a stream within the shorter of the two times."""


class KeepAlive:
    """An ASGI application around ``app``. A stream that is silent for ``every_s`` gets a comment;
    one that is not read for ``unread_s`` ends."""

    def __init__(self, app: ASGIApp, *, every_s: float, unread_s: float) -> None:
        self._app = app
        self._every_s = every_s
        self._unread_s = unread_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stream = _Stream(receive, send, self._every_s, self._unread_s)
        try:
            await self._app(scope, stream.receive, stream.send)
        finally:
            stream.close()


class _Stream:
    """One response. Nothing is done for one that is no event stream."""

    def __init__(self, receive: Receive, send: Send, every_s: float, unread_s: float) -> None:
        self._receive = receive
        self._send = send
        self._every_s = every_s
        self._unread_s = unread_s
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None
        # What ``send`` notes, once a token, and the timer reads: no clock is asked per token.
        self._last: Message = {}
        self._sending: Awaitable[None] | None = None
        # What the timer saw last, and since when it has not changed.
        self._seen: tuple[Message, bool] = ({}, False)
        self._since_s = 0.0
        self._over = False

    def send(self, message: Message) -> Awaitable[None]:
        # Once a token, without a coroutine of its own.
        self._last = message
        self._sending = sending = self._send(message)
        if self._timer is None and _opens_event_stream(message):
            self._since_s = self._now()
            self._wait()
        return sending

    @property
    def _unread(self) -> bool:
        """Whether what was sent last is still waiting to be written."""
        # The frame of a coroutine is gone when that is over.
        return getattr(self._sending, "cr_frame", None) is not None

    async def receive(self) -> Message:
        """What the server says, or that the client has left, once we have given it up."""
        if self._cut.done():
            return {"type": "http.disconnect"}
        heard = asyncio.ensure_future(self._receive())
        either: set[asyncio.Future[Any]] = {heard, self._cut}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return heard.result() if heard.done() else {"type": "http.disconnect"}
        finally:
            heard.cancel()

    def close(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
        self._cut.cancel()

    # ------------------------------------------------------------------ the timer

    def _wait(self) -> None:
        pause_s = min(self._every_s, self._unread_s) / LOOKS
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _look(self) -> None:
        """Nothing has changed since a look: for so long the stream is silent, or is not read."""
        last, unread = self._last, self._unread
        if self._over or (_ends(last) and not unread):
            return
        now = self._now()
        if last is not self._seen[0] or unread != self._seen[1]:
            self._seen, self._since_s = (last, unread), now
        unchanged_s = now - self._since_s
        if unread:
            if unchanged_s >= self._unread_s:
                log.warning("%s", SlowReader(unchanged_s))
                if not self._cut.done():
                    self._cut.set_result(None)
                return
        elif unchanged_s >= self._every_s and _at_border(last):
            self._since_s = now
            self._comment = asyncio.create_task(self._say())
        self._wait()

    async def _say(self) -> None:
        comment = {"type": "http.response.body", "body": COMMENT, "more_body": True}
        self._sending = sending = self._send(comment)
        # A connection that is closed is told of through ``receive``.
        with contextlib.suppress(OSError):
            await sending


def _ends(message: Message) -> bool:
    return message.get("type") == "http.response.body" and not message.get("more_body", False)


def _at_border(message: Message) -> bool:
    """Whether a comment may follow it: it is the head, or an event's end."""
    body: bytes = message.get("body", b"")
    return message["type"] == "http.response.start" or body.endswith(BORDER)


def _opens_event_stream(message: Message) -> bool:
    return message["type"] == "http.response.start" and any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message["headers"]
    )
