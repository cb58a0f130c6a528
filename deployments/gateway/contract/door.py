"""The door of the gateway: everything between the HTTP server and vLLM's own application.

It decides who gets in (routes, bodies, fields, values), settles model and tier, and sees to it that
what goes out is OpenAI's (or Anthropic's) contract. It runs no model code: the work is vLLM's.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec

from cluster.config import TIERS, Tier
from cluster.errors import (
    Forbidden,
    InternalError,
    InvalidRequest,
    TriremeError,
    UnknownModel,
    UnknownRoute,
    clipped,
)
from cluster.tenants.caller import Caller
from deployments.compat.render_cost import render_cost_s
from deployments.gateway.batches.desk import BatchDesk, owner_of_caller
from deployments.gateway.context import RequestContext, current_request
from deployments.gateway.contract.asgi import (
    ASGIApp,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    answer,
    answer_json,
)
from deployments.gateway.contract.batch_routes import answer_batch
from deployments.gateway.contract.body import (
    ClientLeft,
    decode_body,
    encode_body,
    read_body,
    texts_of,
)
from deployments.gateway.contract.caps import cap_output
from deployments.gateway.contract.chat_shape import ChatShape
from deployments.gateway.contract.effort import settle_tier, write_tier
from deployments.gateway.contract.faults import fault_of
from deployments.gateway.contract.fields import keep_known_fields
from deployments.gateway.contract.head import check_head, inner_scope, request_id_of
from deployments.gateway.contract.limits import Limits
from deployments.gateway.contract.models_list import ModelsList
from deployments.gateway.contract.openapi import document
from deployments.gateway.contract.permit import (
    Access,
    check_model,
    check_scope,
    check_tier,
    default_tier,
    is_open,
)
from deployments.gateway.contract.refuse import Incoming, linger, refuse
from deployments.gateway.contract.respond import CLIENT_LEFT, Reply
from deployments.gateway.contract.responses_shape import ResponseShape
from deployments.gateway.contract.resumable import ResumableSend, asked_resume, fit_to_resume
from deployments.gateway.contract.routes import (
    BATCH,
    STORED,
    Route,
    find_route,
    model_id,
    speaks_anthropic,
)
from deployments.gateway.contract.service_tier import service_tier
from deployments.gateway.contract.spare import SPARE, SpareCall
from deployments.gateway.contract.stored_routes import answer_stored
from deployments.gateway.contract.told_events import EVENT_STREAM, tell_events
from deployments.gateway.contract.turn import Turn, begin_turn
from deployments.gateway.contract.unbroken import UnbrokenRuns
from deployments.gateway.contract.values import check_values
from deployments.gateway.stored_responses import StoredResponses
from deployments.router.tiers import TierAlias

log = logging.getLogger("trireme.gateway")

_MIN_HELD_BYTES = 65_536

Shape = ChatShape | ResponseShape | None


class Door:
    """An ASGI application over vLLM's applications, one for each served model.

    ``names`` maps every name that a caller may write to its model and tier; responses carry the
    model's own name, never the alias, as OpenAI's do. ``metrics`` gives a body and its content
    type. ``clock`` is the event loop's monotonic clock, in seconds. ``tier_to_serve`` may lower the
    tier of a request to a model (brown-out). ``access`` tells who calls; None lets everybody in.
    ``check_limits`` raises where the caller is known to be over a limit; ``usage`` answers what a
    caller has used, from the query. ``stored`` keeps responses; None: nothing is kept. ``batches``
    has files and batches; None: there are no such routes. ``resume_s``: for so long a stream that
    was cut can be resumed; 0: not at all.

    ``on_done`` is called once for each request to a route that generates or tokenizes (of a
    response in the background: when it is made), with the status of its outcome: 499 when the
    client left before the end; the failure's status when a stream failed after its 200. The
    context's ``model`` is empty if the request was refused before its model was known.
    """

    def __init__(
        self,
        apps: Mapping[str, ASGIApp],
        names: Mapping[str, TierAlias],
        *,
        default_tier: Tier,
        limits: Limits,
        max_model_len: Mapping[str, int],
        ready: Callable[[], bool],
        metrics: Callable[[], Awaitable[tuple[bytes, str]]],
        clock: Callable[[], float],
        on_done: Callable[[RequestContext, int], None],
        tier_to_serve: Callable[[str, Tier], Tier] = lambda model, tier: tier,
        access: Access | None = None,
        check_limits: Callable[[RequestContext], None] = lambda context: None,
        usage: Callable[[Caller | None, bytes], Awaitable[dict[str, Any]]] | None = None,
        stored: StoredResponses | None = None,
        batches: BatchDesk | None = None,
        resume_s: float = 0.0,
    ) -> None:
        self._apps = apps
        self._names = names
        self._default_tier: Tier = default_tier
        self._limits = limits
        self._max_model_len = max_model_len
        self._models = ModelsList(names, max_model_len, int(time.time()))
        self._ready = ready
        self._metrics = metrics
        self._clock = clock
        self._on_done = on_done
        self._tier_to_serve = tier_to_serve
        self._access = access
        self._check_limits = check_limits
        self._usage = usage
        self._stored = stored
        self._batches = batches
        self._resume_s = resume_s
        self._unwinding: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, Incoming(receive), send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)

    async def _http(self, scope: Scope, receive: Incoming, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = request_id_of(headers)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            check_head(scope, self._limits)
            route = find_route(scope["method"], path)
            if route.generates:
                await self._forward(route, request_id, headers, scope, receive, send)
            else:
                caller = await self._caller(route, scope["headers"])
                if route.kind == "usage":
                    await self._tell_usage(caller, scope, request_id, send)
                    return
                if route.kind in STORED:
                    await answer_stored(
                        self._stored, caller, route.kind, scope, path, receive, send, request_id
                    )
                    return
                if route.kind in BATCH:
                    await answer_batch(
                        self._batches, caller, route.kind, scope, path, receive, send, request_id
                    )
                    return
                await self._own(route, path, request_id, send, scope["method"] == "HEAD", caller)
        except ClientLeft:
            pass
        except TriremeError as error:
            fault = fault_of(error)
            body = fault.body(speaks_anthropic(path))
            answered = {"x-request-id": request_id, **fault.headers}
            if path == "/v1/files" and scope["method"] == "POST" and not receive.whole:
                await refuse(send, fault.status, body, answered)
                await linger(receive, send)
            else:
                await answer_json(send, fault.status, body, answered)

    async def _caller(self, route: Route, headers: Headers) -> Caller | None:
        """Who calls, None where nobody is asked. Raises ``TriremeError`` for who may not."""
        if self._access is None or is_open(route.kind, self._access):
            return None
        caller = await self._access.caller(headers)
        with self._counted("scope"):
            check_scope(caller, route.kind)
        return caller

    @contextlib.contextmanager
    def _counted(self, reason: str) -> Iterator[None]:
        try:
            yield
        except Forbidden:
            if self._access is not None:
                self._access.refused(reason)
            raise

    async def _own(
        self,
        route: Route,
        path: str,
        request_id: str,
        send: Send,
        head_only: bool,
        caller: Caller | None,
    ) -> None:
        named = {"x-request-id": request_id}
        if head_only:
            send = _without_body(send)
        if route.kind == "health":
            await answer_json(send, 200, {"status": "ok"}, named)
        elif route.kind == "ready":
            if self._ready():
                await answer_json(send, 200, {"status": "ready"}, named)
            else:
                await answer_json(send, 503, {"status": "not ready"}, {**named, "retry-after": "1"})
        elif route.kind == "metrics":
            body, content_type = await self._metrics()
            await answer(send, 200, body, named, content_type)
        elif route.kind == "openapi":
            await answer_json(send, 200, document(), named)
        elif route.kind == "models":
            await answer_json(send, 200, self._models.all(caller), named)
        else:
            await answer_json(send, 200, self._models.one(model_id(path), caller), named)

    async def _tell_usage(
        self, caller: Caller | None, scope: Scope, request_id: str, send: Send
    ) -> None:
        if self._usage is None:
            raise UnknownRoute(scope["method"], scope["path"])
        answered = await self._usage(caller, scope.get("query_string", b""))
        await answer_json(send, 200, answered, {"x-request-id": request_id})

    # ------------------------------------------------------------------ to vLLM

    async def _forward(
        self,
        route: Route,
        request_id: str,
        headers: Mapping[bytes, bytes],
        scope: Scope,
        receive: Incoming,
        send: Send,
    ) -> None:
        context = RequestContext(request_id, "", self._default_tier, None, self._clock())
        context.explain = b"x-trireme-explain" in headers
        context.route = route.kind
        context.traceparent = headers.get(b"traceparent", b"").decode("latin-1")
        status = CLIENT_LEFT
        coming = ordered = False
        try:
            limits = self._limits
            await self._admit(route, scope, context)
            if self._resume_s:
                context.resume, request_id = asked_resume(headers, request_id, self._resume_s)
                context.request_id = request_id
            raw = await read_body(headers, receive, limits.max_body_bytes, limits.body_s)
            body, shape = await self._prepare_or_fail(route, raw, context)
            if isinstance(shape, ResponseShape) and shape.turn.later is not None:
                ordered = await self._order(route, context, body, shape, receive, send)
            else:
                status = await self._run(route, context, body, shape, scope, receive, send)
        except ClientLeft:
            pass
        except TriremeError as error:
            fault = fault_of(error)
            answered = {"x-request-id": request_id, **context.rate_limits, **fault.headers}
            status, coming = fault.status, not receive.whole
            say = refuse if coming else answer_json
            await say(send, status, fault.body(route.kind == "messages"), answered)
        finally:
            if not ordered:
                self._on_done(context, status)
        if coming:
            await linger(receive, send)

    async def _admit(self, route: Route, scope: Scope, context: RequestContext) -> None:
        """Before the body is read: who may not call costs no more than that."""
        spare: SpareCall | None = scope.get(SPARE)
        if spare is None:
            caller = context.caller = await self._caller(route, scope["headers"])
        else:
            caller = context.caller = spare.caller
            context.spare = context.behind = spare.spare
        if caller is not None and self._access is not None:
            context.cache_salt = self._access.cache_salt(caller)

    async def _prepare_or_fail(
        self, route: Route, raw: bytes, context: RequestContext
    ) -> tuple[bytes, Shape]:
        try:
            body, size_bytes, turn = decode_body(raw), len(raw), None
            if context.resume is not None:
                context.resume = fit_to_resume(route.kind, body, context.resume)
            if route.kind == "responses":
                turn = await begin_turn(self._stored, body, context.caller)
                size_bytes += turn.recalled_bytes
            encoded = self._prepare(route, body, size_bytes, context)
            return encoded, _shape_of(route, body, context, turn)
        except TriremeError:
            raise
        except Exception as error:
            log.exception("a body could not be read", extra={"request_id": context.request_id})
            raise InternalError(str(error)) from error

    def _prepare(
        self, route: Route, body: dict[str, Any], size_bytes: int, context: RequestContext
    ) -> bytes:
        """The body as vLLM gets it. Fills in ``context``; raises ``TriremeError``."""
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("`model` is required and must be a string.", param="model")
        alias = self._names.get(name)
        if alias is None or alias.model not in self._apps:
            raise UnknownModel(name)
        caller = context.caller
        with self._counted("model"):
            check_model(caller, alias.model, clipped(name))
        self._settle_service_tier(route, body, context)
        context.ignored = keep_known_fields(route.kind, body)
        runs = UnbrokenRuns(self._limits.max_unbroken_run_chars, route.text_field)
        runs.check(texts_of(body))
        render_cost_s.set(runs.cost_s(size_bytes))
        default = default_tier(caller, self._default_tier)
        context.effort, context.tier = settle_tier(route.kind, body, alias, default)
        with self._counted("tier"):
            check_tier(caller, context.tier)
        self._brown_out(route, body, alias.model, context)
        self._check_limits(context)
        context.tools = bool(body.get("tools"))
        context_tokens = self._max_model_len.get(alias.model)
        check_values(route.kind, body, context_tokens)
        cap_output(
            route.kind, body, self._limits.max_output_tokens.get(context.tier), context_tokens
        )
        body["model"] = alias.model
        encoded = encode_body(body)
        context.model = alias.model
        return encoded

    def _settle_service_tier(
        self, route: Route, body: dict[str, Any], context: RequestContext
    ) -> None:
        used, context.tells_service_tier = service_tier(route.kind, body, context.caller)
        if context.spare:
            return  # a line of a batch, whatever it says
        context.service_tier = used
        context.ahead = used == "priority"
        context.spare = context.behind = used == "flex"

    def _brown_out(
        self, route: Route, body: dict[str, Any], model: str, context: RequestContext
    ) -> None:
        """Serve at a lower tier if the router asks for it, and keep what was asked for."""
        shown = None if context.resume is None else context.resume.shown
        if shown is not None:
            # What it goes on with was written at this one.
            served = min(context.tier, shown.served_tier, key=TIERS.index)
        elif context.ahead:
            served = context.tier
        else:
            served = self._tier_to_serve(model, context.tier)
        if served != context.tier and write_tier(route.kind, body, served):
            context.asked_tier, context.tier = context.tier, served

    async def _order(
        self,
        route: Route,
        context: RequestContext,
        body: bytes,
        shape: ResponseShape,
        receive: Receive,
        send: Send,
    ) -> bool:
        """Leave the request for the background, and answer that it is queued, or tell how it goes.
        It is counted when it runs."""
        owner, response_id = owner_of_caller(context.caller), f"resp_{uuid.uuid4().hex}"
        queued = await shape.queued(response_id, body, owner)
        reply = Reply(send, route, context, max_held_bytes=0, clock=self._clock, stop=_nothing)
        turn = shape.turn
        if turn.streams and turn.stored is not None:
            response, head = msgspec.json.decode(queued), reply.headers(EVENT_STREAM)
            await tell_events(turn.stored, turn.tenant, response, -1, head, receive, send)
            return True
        size = str(len(queued)).encode()
        plain = [(b"content-type", b"application/json"), (b"content-length", size)]
        await reply({"type": "http.response.start", "status": 200, "headers": plain})
        await reply({"type": "http.response.body", "body": queued})
        return True

    async def _run(
        self,
        route: Route,
        context: RequestContext,
        body: bytes,
        shape: Shape,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> int:
        """vLLM's application over ``body``; returns the status of the outcome."""
        gone = asyncio.Event()
        if context.resume is not None:
            send = ResumableSend(send, context, context.resume)
        reply = Reply(
            send,
            route,
            context,
            # The first events of a Responses stream repeat instructions and tools, twice.
            max_held_bytes=_MIN_HELD_BYTES + 2 * len(body),
            clock=self._clock,
            stop=gone.set,
            shape=shape,
        )
        inner = inner_scope(scope, context.request_id, len(body), reply)
        app = self._apps[context.model]
        watch = asyncio.create_task(_watch(receive, gone, reply))
        current_request.set(context)
        work = asyncio.create_task(_guarded(app, inner, _replay(body, gone), reply))
        try:
            # A server that cancels us instead of reporting a disconnect must not leave vLLM's
            # handler running: it unwinds on the disconnect that it is told of.
            await asyncio.shield(work)
        except asyncio.CancelledError:
            reply.abandon()
            gone.set()
            self._unwinding.add(work)
            work.add_done_callback(self._unwinding.discard)
            raise
        finally:
            watch.cancel()
        return CLIENT_LEFT if reply.status is None else reply.status


def _shape_of(
    route: Route, body: dict[str, Any], context: RequestContext, turn: Turn | None
) -> Shape:
    if route.kind == "chat":
        told = context.service_tier if context.tells_service_tier else None
        return ChatShape.of(body, told)
    if turn is not None:
        asked = context.effort or context.asked_tier or context.tier
        return ResponseShape(asked, context.service_tier, time.time, turn)
    return None


def _nothing() -> None:
    """There is nobody to stop."""


async def _guarded(app: ASGIApp, scope: Scope, receive: Receive, reply: Reply) -> None:
    try:
        await app(scope, receive, reply)
    except Exception as error:
        # The connection may be what broke; then there is nobody to tell.
        with contextlib.suppress(OSError):
            await reply.finish(error)
    else:
        await reply.finish(None)


def _replay(body: bytes, gone: asyncio.Event) -> Receive:
    """The body in one message, then silence until the client is gone."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


async def _watch(receive: Receive, gone: asyncio.Event, reply: Reply) -> None:
    """Wait for the client to leave."""
    while (await receive())["type"] != "http.disconnect":
        pass
    reply.abandon()
    gone.set()


def _without_body(send: Send) -> Send:
    async def head_only(message: Message) -> None:
        await send({**message, "body": b""} if "body" in message else message)

    return head_only


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
