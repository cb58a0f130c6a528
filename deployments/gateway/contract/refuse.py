"""The answer to a request whose body is still coming.

A connection that is closed while bytes come in is reset, and the reset takes with it what the
client has not read yet: the answer. So the answer is sent, the rest of the body is read and
forgotten, and only then the connection is closed (nginx calls it a lingering close).
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec

from deployments.gateway.contract.asgi import Message, Receive, Send, as_headers

LINGER_S = 30.0
"""How long the rest of the body may go on coming; nginx's ``lingering_time``."""

LINGER_IDLE_S = 5.0
"""How long it may pause; nginx's ``lingering_timeout``."""


class Incoming:
    """A request's ``receive`` that knows whether the body is here in ``whole``."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.whole = False

    async def __call__(self) -> Message:
        message = await self._receive()
        # When the client has left, there is no "more_body": nothing more comes then either.
        self.whole = not message.get("more_body", False)
        return message


async def refuse(send: Send, status: int, body: Any, headers: Mapping[str, str]) -> None:
    """A whole response with ``body`` as JSON, after which the connection stays until ``linger``."""
    encoded = msgspec.json.encode(body)
    head = {
        "content-type": "application/json",
        "content-length": str(len(encoded)),
        **headers,
        "connection": "close",
    }
    await send({"type": "http.response.start", "status": status, "headers": as_headers(head)})
    await send({"type": "http.response.body", "body": encoded, "more_body": True})


async def linger(receive: Incoming, send: Send) -> None:
    """Let the rest of the body come in, then close the connection."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while not receive.whole:
                async with asyncio.timeout(LINGER_IDLE_S):
                    await receive()
    await send({"type": "http.response.body", "body": b""})
