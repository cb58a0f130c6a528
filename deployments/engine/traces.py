"""The span of each request in an engine replica, under the gateway's span of the attempt."""

import time
from typing import TYPE_CHECKING

from cluster.tracing import Tracer
from deployments.engine.channel.frames import ABORTED, ERROR, LENGTH, REPETITION, STOP, Submit

if TYPE_CHECKING:
    from opentelemetry.trace import Span

FINISHED = {
    STOP: "stop",
    LENGTH: "length",
    ABORTED: "abort",
    ERROR: "error",
    REPETITION: "repetition",
}


class EngineTraces:
    """Follows the requests whose gateway traces them; all others cost one look at a string."""

    def __init__(self, tracer: Tracer, replica_id: str) -> None:
        self._tracer = tracer
        self._replica_id = replica_id
        self._spans: dict[str, tuple[Span, int]] = {}

    def submitted(self, request_id: str, submit: Submit) -> None:
        span = self._tracer.span(
            "engine",
            time.monotonic(),
            {
                "trireme.replica": self._replica_id,
                "trireme.tier": submit.tier,
                "trireme.priority": submit.priority,
                "gen_ai.usage.input_tokens": len(submit.prompt_token_ids),
                "trireme.tokens.before": len(submit.emitted),
            },
            parent=submit.traceparent,
        )
        if span.is_recording():
            self._spans[request_id] = span, len(submit.emitted)

    def first_token(self, request_id: str, cached_tokens: int) -> None:
        entry = self._spans.get(request_id)
        if entry is not None:
            entry[0].add_event("first_token", {"trireme.usage.cached_tokens": cached_tokens})

    def ended(self, request_id: str, finish: int) -> None:
        """``finish`` is a ``FinishCode``; one that its gateway gave up has ``ABORTED``."""
        entry = self._spans.pop(request_id, None)
        if entry is not None:
            entry[0].set_attribute("gen_ai.response.finish_reasons", [FINISHED[finish]])
            entry[0].end()

    def stop(self) -> None:
        """Send what is left."""
        for request_id in list(self._spans):
            self.ended(request_id, ERROR)
        self._tracer.stop()
