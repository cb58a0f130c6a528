"""The spans of one request in the gateway: the request, its waits, and each attempt on a replica.

A request that goes on elsewhere has one attempt span more, linked to the one before. Names and
attributes follow OpenTelemetry's conventions for generative AI where those have a word for it.
Neither prompts nor answers are ever in them.
"""

import time
from typing import TYPE_CHECKING

from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.status import Status, StatusCode

from cluster.tracing import Tracer, trace_id, traceparent
from deployments.gateway.context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from deployments.gateway.streams import Stream
    from deployments.router import Placed

OPERATIONS = {
    "chat": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "tokenize": "tokenize",
}
"""What the conventions call our routes."""


QUEUE_SPAN_S = 0.001
"""Who waits less for a replica did not queue; a span costs some 40 µs."""


class RequestTraces:
    """Follows generations as ``FleetMetrics`` does. Times are those of the monotonic clock."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    # -------------------------------------------------------------- a generation

    def placed(self, stream: "Stream", placed: "Placed") -> None:
        """It goes to a replica, after waiting ``placed.waited_s``."""
        context, now = stream.context, time.monotonic()
        root = self._root(context)
        if not root.is_recording():
            stream.traceparent = traceparent(root)  # so that nobody further on decides anew
            return
        queued_s = now - placed.waited_s
        if stream.placements == 0:
            root.add_event("admitted", timestamp=self._tracer.at(queued_s))
        if placed.waited_s >= QUEUE_SPAN_S:
            queue = self._tracer.span(
                "queue", queued_s, {"trireme.tier": context.tier}, parent=root
            )
            queue.end(self._tracer.at(now))
        before: Span | None = stream.span
        stream.span = self._tracer.span(
            f"generate {stream.request.model}",
            now,
            {
                "gen_ai.provider.name": "vllm",
                "gen_ai.request.model": stream.request.model,
                "gen_ai.request.max_tokens": stream.sampling.max_tokens,
                "trireme.tier": stream.request.tier,
                "trireme.replica": placed.flight.replica_id,
                "trireme.verdict": placed.decision.choice.verdict.name.lower(),
                "trireme.attempt": stream.placements + 1,
                "trireme.tokens.before": stream.tokens,
            },
            parent=root,
            kind=SpanKind.CLIENT,
            links=[] if before is None else [Link(before.get_span_context())],
        )
        stream.traceparent = traceparent(stream.span)

    def first_token(self, stream: "Stream") -> None:
        if stream.span is not None:
            stream.span.add_event("first_token", timestamp=self._tracer.at(stream.first_token_s))

    def left(self, stream: "Stream", cause: str) -> None:
        """Its replica has lost it, or it was led away."""
        if stream.span is not None:
            told = {"trireme.cause": cause, "trireme.tokens": stream.tokens}
            stream.span.add_event("left", told)
            stream.span.set_status(Status(StatusCode.ERROR, cause))
            stream.span.end()
            stream.context.trace.add_event("failover", told)

    def resumed(self, stream: "Stream", *, exact: bool) -> None:
        """It writes on, after tokens that its client has."""
        if stream.span is not None:
            stream.span.add_event("resumed", {"trireme.exact": exact})

    def ended(self, stream: "Stream") -> None:
        span: Span | None = stream.span
        if span is None:
            return
        span.set_attribute("gen_ai.usage.output_tokens", stream.tokens)
        if stream.answer_s is not None:
            span.add_event("first_answer_token", timestamp=self._tracer.at(stream.answer_s))
        span.end()

    # -------------------------------------------------------------- the request

    def done(self, context: RequestContext, status: int, outcome: str) -> None:
        """Its response has ended, or its client has left."""
        root = self._root(context)
        if not root.is_recording():
            return
        told: dict[str, str | int | float] = {
            "http.response.status_code": status,
            "trireme.outcome": outcome,
            "trireme.tier": context.tier,
        }
        figures = context.figures
        if figures is not None:
            told |= {
                "gen_ai.usage.input_tokens": figures.prompt_tokens,
                "gen_ai.usage.output_tokens": figures.output_tokens,
                "trireme.usage.cached_tokens": figures.cached_tokens,
                "trireme.usage.analysis_tokens": figures.analysis_tokens,
                "trireme.failovers": figures.failovers,
            }
        if context.asked_tier is not None:
            told["trireme.asked_tier"] = context.asked_tier
        if outcome in ("failed", "refused"):
            kind = "" if context.failure is None else type(context.failure).__name__
            told["error.type"] = kind or str(status)
            root.set_status(Status(StatusCode.ERROR, outcome))
        root.set_attributes(told)
        root.end()

    def exemplar(self, context: RequestContext) -> dict[str, str] | None:
        """What a measurement of the request points to it by, if it is traced."""
        root = context.trace
        return {"trace_id": trace_id(root)} if root is not None and root.is_recording() else None

    def _root(self, context: RequestContext) -> "Span":
        if context.trace is None:
            operation = OPERATIONS.get(context.route, context.route or "request")
            context.trace = self._tracer.span(
                f"{operation} {context.model}".strip(),
                context.received_s,
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.provider.name": "vllm",
                    "gen_ai.request.model": context.model,
                    "trireme.request_id": context.request_id,
                    "trireme.route": context.route,
                },
                parent=context.traceparent,
                kind=SpanKind.SERVER,
            )
        span: Span = context.trace
        return span

    def stop(self) -> None:
        """Send what is left."""
        self._tracer.stop()
