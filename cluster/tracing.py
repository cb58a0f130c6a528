"""Traces through OpenTelemetry: what one process needs to make spans and to send them.

Off unless the configuration names a collector: then there is no tracer at all, and nothing is
imported. Spans are sent from a thread, in batches; a collector that is slow or away costs spans,
and nothing else.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.config import TracingConfig

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, Span, SpanKind

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]

SEND_EVERY_S = 2.0
MAX_ATTRIBUTES = 64


def tracer(config: TracingConfig, service: str, instance: str) -> "Tracer | None":
    """A tracer for this process, or None if nothing is traced.

    ``service`` and ``instance`` name the process in its spans.
    """
    if config.endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=config.endpoint, timeout=config.timeout_s)
    return Tracer(config, exporter, service, instance)


class Tracer:
    """Makes spans from times that were taken already, and tells others of them by `traceparent`.

    Times are on the monotonic clock (``time.monotonic``, which event loops show as well). It keeps
    to itself: OpenTelemetry's process-wide provider stays as others set it.
    """

    def __init__(
        self, config: TracingConfig, exporter: "SpanExporter", service: str, instance: str
    ) -> None:
        from opentelemetry.context import Context
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._nothing = Context()
        self._internal = SpanKind.INTERNAL
        self._within = set_span_in_context
        batch = min(512, config.max_queued_spans)
        processor = BatchSpanProcessor(
            exporter,
            max_queue_size=config.max_queued_spans,
            schedule_delay_millis=1000 * SEND_EVERY_S,
            max_export_batch_size=batch,
            export_timeout_millis=1000 * config.timeout_s,
        )
        self._provider = TracerProvider(
            sampler=ParentBased(root=TraceIdRatioBased(config.share)),
            resource=Resource({"service.name": service, "service.instance.id": instance}),
            span_limits=SpanLimits(max_attributes=MAX_ATTRIBUTES),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("trireme")
        self._propagator = TraceContextTextMapPropagator()
        # Wall-clock nanoseconds at zero of the monotonic clock; steps of the wall clock while the
        # process lives would tear traces apart.
        self._zero_ns = time.time_ns() - time.monotonic_ns()

    def span(
        self,
        name: str,
        start_s: float,
        attributes: Attributes,
        *,
        parent: "Span | str | None" = None,
        kind: "SpanKind | None" = None,
        links: "Sequence[Link]" = (),
    ) -> "Span":
        """A span that began at ``start_s``. ``parent`` is a span, or a `traceparent` from outside.

        Without a parent it is the root of a trace of its own. A span that is not to be recorded
        takes everything and does nothing.
        """
        return self._tracer.start_span(
            name,
            context=self._context(parent),
            kind=kind or self._internal,
            attributes=attributes,
            links=links,
            start_time=self.at(start_s),
        )

    def _context(self, parent: "Span | str | None") -> "Context":
        if parent is None or parent == "":
            return self._nothing
        if isinstance(parent, str):
            # What is no `traceparent` gives an empty context.
            return self._propagator.extract({"traceparent": parent}, self._nothing)
        return self._within(parent, self._nothing)

    def at(self, time_s: float) -> int:
        """A monotonic time in seconds, as nanoseconds of the wall clock."""
        return self._zero_ns + int(time_s * 1e9)

    def stop(self) -> None:
        """Send what is there, within the time limit of a transmission, and stop."""
        self._provider.shutdown()


def traceparent(span: Any) -> str:
    """The span's context in W3C's form, for the next process."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def trace_id(span: Any) -> str:
    return f"{span.get_span_context().trace_id:032x}"
