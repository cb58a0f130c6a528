"""The few words of ASGI that the door speaks."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]


def as_headers(values: Mapping[str, str]) -> Headers:
    """Header names in lower case, values as latin-1, as ASGI wants them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in values.items()]


async def answer(
    send: Send,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    content_type: str = "application/json",
) -> None:
    """One whole response."""
    head = as_headers({"content-type": content_type, "content-length": str(len(body)), **headers})
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, status: int, body: Any, headers: Mapping[str, str]) -> None:
    """One whole response with ``body`` as JSON."""
    await answer(send, status, msgspec.json.encode(body), headers)
