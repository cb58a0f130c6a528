"""The way back: vLLM's response, with our headers, or our error in its place."""

import logging
import math
from collections.abc import Awaitable, Callable
from enum import Enum

import msgspec

from cluster.errors import InternalError, TriremeError
from deployments.gateway.context import RequestContext
from deployments.gateway.contract.asgi import Headers, Message, Send, answer_json, as_headers
from deployments.gateway.contract.chat_shape import ChatShape
from deployments.gateway.contract.faults import Fault, event_fault, fault_of, vllm_fault
from deployments.gateway.contract.responses_shape import (
    FINAL_EVENTS,
    ITEM_EVENTS,
    OPENING_EVENTS,
    ResponseShape,
)
from deployments.gateway.contract.routes import Route

log = logging.getLogger("trireme.gateway")

CLIENT_LEFT = 499
"""nginx's status for a client that closed the connection before the response was complete."""

_MAX_ERROR_BYTES = 65_536
_ERROR_EVENTS = (b'data: {"error"', b"event: error")
# What does not pass through a stream as it is.
_NOTED_EVENTS = _ERROR_EVENTS + OPENING_EVENTS + ITEM_EVENTS + FINAL_EVENTS
_OURS = (b"x-request-id", b"cache-control", b"x-accel-buffering")
# In JSON text quotes are escaped, so this is a field wherever it stands.
_USAGE = b'"usage":{'


class _State(Enum):
    HOLDING = 0  # nothing was sent; the head and the first chunks wait
    FAILING = 1  # vLLM answers with an error; its body is being collected
    OPEN = 2  # the head was sent; chunks pass
    OVER = 3  # the response is complete, or nobody reads it


class Reply:
    """The ``send`` that vLLM's application gets for one request.

    The head waits until ``context.settled`` or the end of the response, and at most until
    ``max_held_bytes`` of body were held: an error until then still gets its status. ``shape`` says
    what is to be changed in vLLM's answer; None: nothing. ``stop`` tells vLLM that nobody reads any
    more; it is called when our error ends a stream.
    """

    def __init__(
        self,
        send: Send,
        route: Route,
        context: RequestContext,
        *,
        max_held_bytes: int,
        clock: Callable[[], float],
        stop: Callable[[], None],
        shape: ChatShape | ResponseShape | None = None,
    ) -> None:
        self._send = send
        self._route = route
        self._context = context
        self._max_held_bytes = max_held_bytes
        self._clock = clock
        self._stop = stop
        self._shape = shape
        self._chat = shape if isinstance(shape, ChatShape) and shape.changes_chunks else None
        self._passes_as_it_is = context.asked_tier is None and self._chat is None
        self._state = _State.HOLDING
        self._head: Message | None = None
        self._held: list[Message] = []
        self._held_bytes = 0
        self._last: bytes = b""
        self.status: int | None = None
        """The HTTP status of the outcome; None while the response is not complete.

        A stream that failed after its head (200) was sent counts with its failure's status.
        """

    def __call__(self, message: Message) -> Awaitable[None]:
        # Once a token, without a coroutine of its own: this, and what ``keep_alive`` counts,
        # is all that the gateway adds to vLLM's own work.
        if self._state is _State.OPEN and self._passes_as_it_is and self._context.failure is None:
            body = message.get("body", b"")
            if message.get("more_body") and not body.startswith(_NOTED_EVENTS):
                self._last = body
                return self._send(message)
        return self._take(message)

    async def _take(self, message: Message) -> None:
        if self._state is _State.OPEN:
            await self._pass(message, message.get("body", b""))
        elif self._state is _State.OVER:
            return
        elif message["type"] == "http.response.start":
            self._head = message
            self._state = _State.FAILING if message["status"] >= 400 else _State.HOLDING
        elif message["type"] == "http.response.body":
            await self._hold(message)

    async def _pass(self, message: Message, body: bytes) -> None:
        if self._context.failure is not None:
            await self._end_stream(fault_of(self._context.failure))
        elif body.startswith(_NOTED_EVENTS):
            await self._pass_noted(body)
        elif message.get("more_body"):
            shaped = body if self._chat is None else self._chat.chunk(body)
            self._last = self._with_tier_told(shaped)
            await self._send({**message, "body": self._last})
        else:
            self._complete(200 if self._head is None else self._head["status"])
            await self._send(message)

    async def _pass_noted(self, event: bytes) -> None:
        if event.startswith(_ERROR_EVENTS):
            await self._end_stream(self._event_fault(event))
        else:
            shape = self._shape
            shaped = await shape.event(event) if isinstance(shape, ResponseShape) else event
            self._last = self._with_tier_told(shaped)
            await self._send({"type": "http.response.body", "body": self._last, "more_body": True})

    def _with_tier_told(self, body: bytes) -> bytes:
        """``body`` with the tier that served it in its usage, where another was asked for."""
        context = self._context
        if context.asked_tier is None:
            return body
        told = f'"asked_tier":"{context.asked_tier}","served_tier":"{context.tier}",'
        return body.replace(_USAGE, _USAGE + told.encode(), 1)

    def _event_fault(self, event: bytes) -> Fault:
        return event_fault(event, self._context.request_id, self._route.text_field)

    async def _hold(self, message: Message) -> None:
        body = message.get("body", b"")
        if self._state is not _State.FAILING or self._held_bytes + len(body) <= _MAX_ERROR_BYTES:
            self._held.append(message)
            self._held_bytes += len(body)
        final = not message.get("more_body")
        failure = self._context.failure
        if failure is not None:
            await self._answer(fault_of(failure))
            self._stop()
        elif self._state is _State.FAILING:
            if final:
                raw = b"".join(each.get("body", b"") for each in self._held)
                status = 500 if self._head is None else self._head["status"]
                request_id, field = self._context.request_id, self._route.text_field
                await self._answer(vllm_fault(status, raw, request_id, field))
        elif body.startswith(_ERROR_EVENTS):
            await self._answer(self._event_fault(body))
            self._stop()
        elif final or self._context.settled or self._held_bytes > self._max_held_bytes:
            await self._open(final)

    async def _open(self, final: bool) -> None:
        head, held, self._held = self._head, self._held, []
        if head is None:
            raise RuntimeError("a response body came before its head")
        unary = final and not _streams(head["headers"])
        shape = self._shape
        if unary and (shape is not None or self._context.asked_tier is not None):
            body = b"".join(message.get("body", b"") for message in held)
            body = self._with_tier_told(await _shaped(shape, body))
            held = [{"type": "http.response.body", "body": body}]
            kept = [each for each in head["headers"] if each[0].lower() != b"content-length"]
            head["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
        head["headers"] = self.headers(head["headers"])
        self._state = _State.OPEN
        if unary:
            self._complete(head["status"])
        await self._send(head)
        for message in held:
            # Through the front, as one of them may be what ends the stream.
            await (self._send(message) if unary else self(message))

    def headers(self, headers: Headers) -> Headers:
        """``headers`` of vLLM's, or of an answer in its place, with ours."""
        ours = self._named()
        if _streams(headers):
            # nginx buffers a response for which it is not told otherwise.
            ours |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        kept = [(name, value) for name, value in headers if name.lower() not in _OURS]
        return kept + as_headers(ours)

    def _named(self) -> dict[str, str]:
        spent_s = self._clock() - self._context.received_s
        named = {
            "x-request-id": self._context.request_id,
            "openai-processing-ms": str(math.ceil(1000 * spent_s)),
        }
        named |= self._context.rate_limits
        if self._context.ignored:
            named["x-trireme-ignored"] = ",".join(self._context.ignored)
        if self._context.model:
            named["x-trireme-tier"] = self._context.tier
        if self._context.asked_tier is not None:
            named["x-trireme-asked-tier"] = self._context.asked_tier
        if self._context.replica_id is not None:
            named["x-trireme-replica"] = self._context.replica_id
        if self._context.resume is not None:
            named["x-trireme-resumable"] = "1"
        if self._context.explain and self._context.decision is not None:
            named["x-trireme-decision"] = self._context.decision.line()
        return named

    def _complete(self, status: int) -> None:
        self._state = _State.OVER
        self.status = status

    # ------------------------------------------------------------------ failures

    async def fail(self, error: TriremeError) -> None:
        """Answer with ``error``, in whatever form the response so far still allows."""
        if self._state is _State.OPEN:
            await self._end_stream(fault_of(error))
        elif self._state is not _State.OVER:
            await self._answer(fault_of(error))

    async def finish(self, crash: BaseException | None) -> None:
        """vLLM's application returned or raised ``crash``: whatever is still open is a fault."""
        if self._state is _State.OVER:
            return
        failure = self._context.failure
        if failure is None:
            log.error(
                "vLLM's application left a request unanswered",
                exc_info=crash,
                extra={"request_id": self._context.request_id},
            )
            failure = InternalError()
        await self.fail(failure)

    def abandon(self) -> None:
        """Nobody reads any more: drop what still comes."""
        self._state = _State.OVER

    async def _answer(self, fault: Fault) -> None:
        self._held = []
        self._complete(fault.status)
        await answer_json(
            self._send,
            fault.status,
            fault.body(self._route.kind == "messages"),
            {**self._named(), **fault.headers},
        )

    async def _end_stream(self, fault: Fault) -> None:
        self._complete(fault.status)
        events = fault.events(self._route.kind, self._next_sequence_number())
        await self._send({"type": "http.response.body", "body": events, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self._stop()

    def _next_sequence_number(self) -> int:
        """Responses events are counted; the last one that passed says how far."""
        if self._route.kind != "responses":
            return 0
        try:
            data = self._last.partition(b"data: ")[2].partition(b"\n")[0]
            return int(msgspec.json.decode(data)["sequence_number"]) + 1
        except (msgspec.DecodeError, LookupError, TypeError, ValueError):
            return 0


async def _shaped(shape: ChatShape | ResponseShape | None, body: bytes) -> bytes:
    if isinstance(shape, ResponseShape):
        return await shape.whole(body)
    return body if shape is None else shape.whole(body)


def _streams(headers: Headers) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in headers
    )
