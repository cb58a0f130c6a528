"""One request of a gateway to its own application, without a connection."""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from cluster.errors import TriremeError
from cluster.tenants.caller import Caller
from deployments.gateway.contract.asgi import ASGIApp, Message, Scope
from deployments.gateway.contract.spare import SPARE, SpareCall

LEFT = 499
"""Nothing was answered."""


class AnswerTooLarge(Exception):
    """The answer has more bytes than may be kept."""


@dataclass(frozen=True, slots=True)
class Answered:
    """``body`` is JSON."""

    status: int
    body: bytes
    retry_after_s: float | None = None
    may_retry: bool = True


async def call(
    app: ASGIApp,
    path: str,
    body: bytes,
    request_id: str,
    caller: Caller | None,
    max_answer_bytes: int,
    *,
    spare: bool = True,
) -> Answered:
    """Ask ``app`` with the rights of ``caller``, ``spare``: to be served in spare time. Raises
    ``AnswerTooLarge``.

    Cancelled, it leaves like a client that hangs up.
    """
    chunks: list[bytes] = []
    size = 0
    head: Message = {}
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.get_running_loop().create_future()
        raise AssertionError  # nothing fulfils it

    async def send(message: Message) -> None:
        nonlocal size, head
        if message["type"] == "http.response.start":
            head = message
        elif message["type"] == "http.response.body":
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= max_answer_bytes:
                chunks.append(chunk)

    await app(_scope(path, body, request_id, SpareCall(caller, spare)), receive, send)
    if size > max_answer_bytes:
        raise AnswerTooLarge
    headers = {name.lower(): value for name, value in head.get("headers", ())}
    return Answered(
        head.get("status", LEFT),
        b"".join(chunks),
        _seconds(headers.get(b"retry-after")),
        headers.get(b"x-should-retry") != b"false",
    )


def _scope(path: str, body: bytes, request_id: str, own: SpareCall) -> Scope:
    headers: list[tuple[bytes, bytes]] = [
        (b"host", b"gateway"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
    ]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
        SPARE: own,
    }
    return scope


def _seconds(value: bytes | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def told_as_answer(error: TriremeError) -> Answered:
    """``error`` as the door would have answered it."""
    return Answered(
        error.status,
        msgspec.json.encode(error.body()),
        error.retry_after_s,
        error.may_retry is not False,
    )
