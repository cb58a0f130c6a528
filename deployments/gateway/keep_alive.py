"""Keeps streams alive while they are silent, and ends those that nobody reads.

A comment (``: keep-alive``) between two events tells every proxy on the way that the connection is
in use; clients ignore it. A client that does not read fills the connection's buffers, and then the
application waits in ``send``: after a while it is told that the client has left.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from cluster.errors import SlowReader
from deployments.gateway.contract.asgi import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("trireme.gateway")

COMMENT = b": keep-alive\n\n"
BORDER = b"\n\n"
"""What an event ends with; a comment may not stand inside one."""

LOOKS = 4
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
        self._sending_since_s: float | None = None
        self._last_s = 0.0
        self._at_border = False
        self._over = False

    async def send(self, message: Message) -> None:
        """Once a token; all else is on the timer."""
        self._sending_since_s = self._now()
        try:
            await self._send(message)
        finally:
            self._sending_since_s = None
        if self._timer is not None:
            self._last_s = self._now()
            body = message.get("body", b"")
            if body:
                self._at_border = body.endswith(BORDER)
            self._over = not message.get("more_body", False)
        elif message["type"] == "http.response.start" and _is_event_stream(message):
            self._last_s, self._at_border = self._now(), True
            self._wait()

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
        if self._over:
            return
        now, since_s = self._now(), self._sending_since_s
        if since_s is not None and now - since_s >= self._unread_s:
            log.warning("%s", SlowReader(now - since_s))
            if not self._cut.done():
                self._cut.set_result(None)
            return
        silent = since_s is None and now - self._last_s >= self._every_s
        if silent and self._at_border and (self._comment is None or self._comment.done()):
            self._last_s = now
            self._comment = asyncio.create_task(self._say())
        self._wait()

    async def _say(self) -> None:
        self._sending_since_s = self._now()
        # A connection that is closed is told of through ``receive``.
        with contextlib.suppress(OSError):
            await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
        self._sending_since_s = None


def _is_event_stream(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message["headers"]
    )
