"""Silent streams get comments between events; unread ones end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from deployments.gateway.contract.asgi import Message, Receive, Scope, Send
from deployments.gateway.keep_alive import COMMENT, KeepAlive

EVENT = b'data: {"n": 1}\n\n'
STREAM = [(b"Content-Type", b"text/event-stream; charset=utf-8")]

Body = Callable[[Receive, Send], Awaitable[None]]


class Client:
    """What a server would do for one connection: it keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.left = asyncio.Event()

    async def send(self, message: Message) -> None:
        await self.reading.wait()
        if message["type"] == "http.response.body":
            self.sent.append(message["body"])

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def serve(client: Client, body: Body, headers: Any = STREAM, **settings: float) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await body(receive, send)
        await send({"type": "http.response.body", "body": b""})

    times = {"every_s": 0.05, "unread_s": 10.0, **settings}
    await KeepAlive(app, **times)({"type": "http"}, client.receive, client.send)


def chunk(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def test_a_silent_stream_gets_comments_and_a_busy_one_does_not() -> None:
    async def silent(_: Receive, send: Send) -> None:
        await send(chunk(EVENT))
        await asyncio.sleep(0.3)
        await send(chunk(EVENT))

    async def busy(_: Receive, send: Send) -> None:
        for _ in range(30):
            await send(chunk(EVENT))
            await asyncio.sleep(0.01)

    client = Client()
    await serve(client, silent)
    assert client.sent[0] == EVENT
    assert client.sent[-2:] == [EVENT, b""]
    assert 2 <= client.sent.count(COMMENT) <= 6
    client = Client()
    await serve(client, busy, every_s=0.2)
    assert COMMENT not in client.sent


async def test_a_comment_never_stands_inside_an_event() -> None:
    async def halting(_: Receive, send: Send) -> None:
        await send(chunk(EVENT[:6]))
        await asyncio.sleep(0.2)
        await send(chunk(EVENT[6:]))
        await asyncio.sleep(0.2)

    client = Client()
    await serve(client, halting)
    assert b"".join(client.sent).startswith(EVENT)
    assert COMMENT in client.sent


async def test_other_responses_pass_as_they_are() -> None:
    async def slow(_: Receive, send: Send) -> None:
        await asyncio.sleep(0.2)
        await send(chunk(b"{}"))

    client = Client()
    await serve(client, slow, headers=[(b"content-type", b"application/json")])
    assert client.sent == [b"{}", b""]


async def test_a_client_that_leaves_is_told_of_and_what_it_sends_arrives() -> None:
    async def waits(receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    client = Client()
    asyncio.get_running_loop().call_later(0.1, client.left.set)
    await serve(client, waits)


async def test_a_client_that_does_not_read_is_given_up() -> None:
    told = asyncio.Event()

    async def writes(receive: Receive, send: Send) -> None:
        async def watch() -> None:
            assert (await receive())["type"] == "http.disconnect"
            told.set()
            writing.cancel()

        async def write() -> None:
            while True:
                await send(chunk(EVENT))
                await asyncio.sleep(0.01)

        writing = asyncio.create_task(write())
        await asyncio.gather(watch(), writing, return_exceptions=True)
        client.reading.set()  # so that the end gets out

    client = Client()
    asyncio.get_running_loop().call_later(0.1, client.reading.clear)
    async with asyncio.timeout(5.0):
        await serve(client, writes, unread_s=0.2)
    assert told.is_set()


async def test_nothing_is_left_of_a_stream_that_has_ended() -> None:
    async def short(receive: Receive, send: Send) -> None:
        asking = asyncio.ensure_future(receive())
        await send(chunk(EVENT))
        await asyncio.sleep(0)
        asking.cancel()

    before = len(asyncio.all_tasks())
    for _ in range(20):
        await serve(Client(), short)
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) == before
