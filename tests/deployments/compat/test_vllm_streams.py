"""Chunks go past the middleware; head and end do not."""

import importlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.compat import vllm_streams
from deployments.compat.vllm_streams import CHUNKS_TO, ROUTERS, StraightStream

START, BODY = "http.response.start", "http.response.body"


class Seen:
    """A middleware that notes what comes by, and a client that notes where it came from."""

    def __init__(self) -> None:
        self.by_middleware: list[str] = []
        self.order: list[tuple[str, bytes]] = []

    def middleware(self, app: ASGIApp) -> ASGIApp:
        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            async def note(message: Message) -> None:
                self.by_middleware.append(message["type"])
                await send(message)

            await app(scope, receive, note)

        return noting

    async def client(self, message: Message) -> None:
        self.order.append((message["type"], message.get("body", b"")))


async def told() -> AsyncIterator[str | bytes]:
    yield "data: ä\n\n"
    yield b"data: b\n\n"


def respond(_: Request) -> StraightStream:
    return StraightStream(told(), media_type="text/event-stream")


async def ask(seen: Seen, **more: Any) -> None:
    app = Starlette(
        routes=[Route("/", respond)], middleware=[Middleware(lambda app: seen.middleware(app))]
    )
    asgi = {"version": "3.0", "spec_version": "2.4"}
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "asgi": asgi, **more}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app(scope, receive, seen.client)


WHOLE = [(START, b""), (BODY, "data: ä\n\n".encode()), (BODY, b"data: b\n\n"), (BODY, b"")]


async def test_chunks_go_straight_between_head_and_end() -> None:
    seen = Seen()
    await ask(seen, **{CHUNKS_TO: seen.client})
    assert seen.order == WHOLE
    assert seen.by_middleware == [START, BODY]


async def test_a_scope_that_names_no_way_changes_nothing() -> None:
    seen = Seen()
    await ask(seen)
    assert seen.order == WHOLE
    assert seen.by_middleware == [START, BODY, BODY, BODY]


async def test_an_error_on_the_straight_way_ends_the_stream() -> None:
    seen = Seen()

    async def gone(_: Message) -> None:
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        await ask(seen, **{CHUNKS_TO: gone})
    assert seen.order == WHOLE[:1]


def test_every_router_of_vllms_that_streams_answers_so() -> None:
    vllm_streams.send_chunks_straight()
    for name in ROUTERS:
        assert importlib.import_module(name).StreamingResponse is StraightStream
