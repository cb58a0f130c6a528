"""A response in the background, told as a stream of events: to whoever asked for it, or comes back.

The stream is only a look at what is in the store. The response does not depend on it, nor on this
gateway.
"""

import asyncio
import contextlib
from typing import Any

from cluster.errors import StoreAway, UnknownResponse
from deployments.gateway.background.events import OPEN, encoded, events_of
from deployments.gateway.contract.asgi import Headers, Receive, Send
from deployments.gateway.contract.faults import fault_of
from deployments.gateway.stored_responses import StoredResponses

LOOK_S, SLOWER, MAX_LOOK_S = 0.25, 1.2, 2.0
"""Between looks at one that is not over: the longer it takes, the less a moment matters."""

EVENT_STREAM: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]


async def tell_events(
    stored: StoredResponses,
    tenant: str,
    response: dict[str, Any],
    after: int,
    head: Headers,
    receive: Receive,
    send: Send,
) -> None:
    """Every event with a number beyond ``after``, until ``response`` is over or the client leaves.

    What is deleted meanwhile ends with an error.
    """
    left, pause_s = asyncio.create_task(_until_left(receive)), LOOK_S
    try:
        with contextlib.suppress(OSError):
            await send({"type": "http.response.start", "status": 200, "headers": head})
            while not left.done():
                after = await _tell(events_of(response), after, send)
                if response["status"] not in OPEN:
                    break
                await asyncio.wait([left], timeout=pause_s)
                pause_s = min(SLOWER * pause_s, MAX_LOOK_S)
                try:
                    response = await stored.news(tenant, response)
                except StoreAway:
                    continue
                except UnknownResponse as error:
                    await _say(fault_of(error).events("responses", after + 1), send)
                    break
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        left.cancel()


async def _tell(events: list[dict[str, Any]], after: int, send: Send) -> int:
    """The number of the last one."""
    for event in events[after + 1 :]:
        await _say(encoded(event), send)
    return max(after, len(events) - 1)


async def _say(event: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": event, "more_body": True})


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
