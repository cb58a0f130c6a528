"""Every metric of Trireme, declared once as a table; the objects are made from it.

Labels are bounded: models and pools come from the configuration, tiers and outcomes are closed
sets, replicas are those that live. No label ever holds what a client wrote.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Kind = Literal["counter", "gauge", "histogram"]

LATENCY_BUCKETS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 1200.0,
)  # fmt: skip
"""From one prefill of a short prompt to a long high-effort analysis before its answer."""

TOKEN_INTERVAL_BUCKETS_S = (
    0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.030, 0.050, 0.080, 0.15, 0.5,
)  # fmt: skip
"""gpt-oss-120b writes a token every 3 to 40 ms (vLLM's own first bucket, 10 ms, hides that)."""

DECISION_BUCKETS_S = (
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2,
)  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """One row. ``name`` carries the unit; a counter's ``_total`` is added on exposition."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


GATEWAY_METRICS: tuple[Metric, ...] = (
    Metric(
        "trireme_requests",
        "counter",
        "requests",
        ("model", "tier", "outcome"),
        "Requests by how they ended: ok, refused, invalid, failed, cancelled.",
    ),
    Metric(
        "trireme_requests_in_flight",
        "gauge",
        "requests",
        ("model", "tier"),
        "Generations on replicas, placed by this gateway.",
    ),
    Metric(
        "trireme_queue_length",
        "gauge",
        "requests",
        ("model", "tier"),
        "Generations that wait in this gateway for a replica with room.",
    ),
    Metric(
        "trireme_queue_wait_seconds",
        "histogram",
        "seconds",
        ("model", "tier"),
        "From admission to placement on a replica.",
        LATENCY_BUCKETS_S,
    ),
    Metric(
        "trireme_time_to_first_token_seconds",
        "histogram",
        "seconds",
        ("model", "tier"),
        "From the request's arrival at the gateway to its first token of any channel.",
        LATENCY_BUCKETS_S,
    ),
    Metric(
        "trireme_time_to_first_answer_token_seconds",
        "histogram",
        "seconds",
        ("model", "tier"),
        "From the request's arrival at the gateway to the first token of the final channel.",
        LATENCY_BUCKETS_S,
    ),
    Metric(
        "trireme_time_per_output_token_seconds",
        "histogram",
        "seconds",
        ("model", "tier"),
        "Mean time between the tokens of one generation, after its first.",
        TOKEN_INTERVAL_BUCKETS_S,
    ),
    Metric(
        "trireme_prompt_tokens",
        "counter",
        "tokens",
        ("model", "tier"),
        "Prompt tokens of placed generations.",
    ),
    Metric(
        "trireme_cached_prompt_tokens",
        "counter",
        "tokens",
        ("model", "tier"),
        "Prompt tokens that a replica found in its prefix cache.",
    ),
    Metric(
        "trireme_output_tokens",
        "counter",
        "tokens",
        ("model", "tier", "channel"),
        "Tokens written: before the final channel opened (analysis) and from then on (final).",
    ),
    Metric(
        "trireme_router_decision_seconds",
        "histogram",
        "seconds",
        (),
        "Time that the router takes for one round of placements.",
        DECISION_BUCKETS_S,
    ),
    Metric(
        "trireme_placements",
        "counter",
        "requests",
        ("model", "tier", "verdict"),
        "Placements by why the replica could be chosen: home (the tier's own zone, or no zones), "
        "spill (outside of it), late (the first token is expected after its objective).",
    ),
    Metric(
        "trireme_shadow_decisions",
        "counter",
        "requests",
        ("outcome",),
        "Placements that the shadow policy was asked about: same, other.",
    ),
    Metric(
        "trireme_shadow_gain_seconds",
        "gauge",
        "seconds",
        (),
        "How much sooner all requests together were predicted to finish had the shadow policy been "
        "obeyed; negative: later.",
    ),
    Metric(
        "trireme_prediction_coverage_ratio",
        "gauge",
        "ratio",
        ("tier", "quantile"),
        "Share of finished requests whose output was no longer than the quantile predicted; equal "
        "to the quantile when predictions are calibrated.",
    ),
    Metric(
        "trireme_retried_generations",
        "counter",
        "requests",
        ("model", "tier", "cause"),
        "Generations sent to another replica before their first token: replica_lost, refused.",
    ),
    Metric(
        "trireme_replicas",
        "gauge",
        "replicas",
        ("model", "pool"),
        "Replicas that this gateway is connected to.",
    ),
    Metric(
        "trireme_channel_reconnects",
        "counter",
        "connections",
        (),
        "Connections to replicas that broke and were tried again.",
    ),
)

ENGINE_METRICS: tuple[Metric, ...] = (
    Metric(
        "trireme_replica_running",
        "gauge",
        "requests",
        ("model", "pool"),
        "Requests in the engine's running batch.",
    ),
    Metric(
        "trireme_replica_waiting",
        "gauge",
        "requests",
        ("model", "pool"),
        "Requests accepted by the replica and not yet running.",
    ),
    Metric(
        "trireme_replica_kv_use_ratio",
        "gauge",
        "ratio",
        ("model", "pool"),
        "Share of the KV cache in use, 0 to 1.",
    ),
    Metric(
        "trireme_replica_step_seconds",
        "gauge",
        "seconds",
        ("model", "pool"),
        "Moving average of the engine's step time.",
    ),
    Metric(
        "trireme_replica_output_tokens",
        "counter",
        "tokens",
        ("model", "pool"),
        "Tokens that the engine wrote.",
    ),
    Metric(
        "trireme_replica_gateways",
        "gauge",
        "connections",
        ("model", "pool"),
        "Gateways connected to the replica.",
    ),
    Metric(
        "trireme_replica_start_seconds",
        "gauge",
        "seconds",
        ("model", "pool"),
        "Time from the start of the replica's engine until it was ready.",
    ),
)


class Metrics:
    """The ``prometheus_client`` objects of one process, by the names of the table.

    Each instance has its own registry, so that several can live in one process (tests do that).
    """

    def __init__(self, table: Iterable[Metric], registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._made = {row.name: self._make(row) for row in table}

    def _make(self, row: Metric) -> Counter | Gauge | Histogram:
        match row.kind:
            case "counter":
                return Counter(row.name, row.help, row.labels, registry=self.registry)
            case "gauge":
                return Gauge(row.name, row.help, row.labels, registry=self.registry)
            case "histogram":
                return Histogram(
                    row.name, row.help, row.labels, registry=self.registry, buckets=row.buckets
                )

    def counter(self, name: str) -> Counter:
        made = self._made[name]
        assert isinstance(made, Counter)
        return made

    def gauge(self, name: str) -> Gauge:
        made = self._made[name]
        assert isinstance(made, Gauge)
        return made

    def histogram(self, name: str) -> Histogram:
        made = self._made[name]
        assert isinstance(made, Histogram)
        return made
