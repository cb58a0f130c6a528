"""Every metric of Trireme, declared once as a table; the objects are made from it.

Labels are bounded: models and pools come from the configuration, everything else is a closed set
that stands in the table. No label ever holds what a client wrote.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cluster.config import TIERS
from cluster.quotas.work import KINDS

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


CONFIGURED = ("model", "pool")
"""Labels whose values are names of the configuration."""

NAMED_TENANTS = 20
OTHER_TENANTS = "other"
"""How many tenants are told apart at a time, the busiest; and the `tenant` of all others."""

UNKNOWN_MODEL = "unknown"
"""The ``model`` of requests that were refused before their model was known."""

LOOP_LAG_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
)  # fmt: skip
"""No request may hold a loop up for more than 0.1 s (``deployments/gateway/contract``)."""


@dataclass(frozen=True)
class Metric:
    """One row. ``name`` carries the unit; a counter's ``_total`` is added on exposition.

    ``values`` are all that a label can be, for each label that is neither a tier nor CONFIGURED.
    A label of ``named`` can have so many other values at a time besides; those are made with their
    first event.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    named: Mapping[str, int] = field(default_factory=dict, hash=False)

    def closed(self, label: str) -> tuple[str, ...]:
        """The values of a label that is not CONFIGURED. Raises ``KeyError`` if none are told."""
        return TIERS if label == "tier" else self.values[label]

    def label_sets(
        self, models: Sequence[str], pools: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, ...]]:
        """Every set of label values that the row can have. ``pools`` are (model, pool)."""
        homes: Sequence[tuple[str, ...]] = [()]
        if self.labels[:2] == CONFIGURED:
            homes = pools
        elif "pool" in self.labels:
            raise KeyError(f"{self.name}: `pool` goes with `model`, first of all labels")
        elif self.labels[:1] == ("model",):
            homes = [(model,) for model in models]
        rest = self.labels[len(homes[0]) if homes else 0 :]
        for home, more in product(homes, product(*map(self.closed, rest))):
            yield (*home, *more)


CHANNEL_METRICS: tuple[Metric, ...] = (
    Metric(
        "trireme_channel_frames",
        "counter",
        "frames",
        ("direction",),
        "Frames on this process's token channels.",
        values={"direction": ("in", "out")},
    ),
    Metric(
        "trireme_channel_bytes",
        "counter",
        "bytes",
        ("direction",),
        "Bytes on this process's token channels.",
        values={"direction": ("in", "out")},
    ),
    Metric(
        "trireme_certificate_expiry_seconds",
        "gauge",
        "seconds",
        (),
        "Until the first of the certificates that this process uses expires; +Inf if it uses none.",
    ),
)
"""In every process that has token channels."""

ACCESS_METRICS: tuple[Metric, ...] = (
    Metric(
        "trireme_access_refusals",
        "counter",
        "requests",
        ("reason",),
        "Requests that were not let in: missing, invalid, expired and revoked credentials; a "
        "token of an unknown_tenant; a scope, model or tier that the caller has not; unavailable "
        "(nobody is known yet).",
        values={
            "reason": (
                *("missing", "invalid", "expired", "revoked", "unknown_tenant"),
                *("scope", "model", "tier", "unavailable"),
            )
        },
    ),
    Metric(
        "trireme_store_away_seconds",
        "gauge",
        "seconds",
        (),
        "For how long the store of tenants and keys has not answered this gateway, which goes on "
        "with what it knows; 0 while it answers.",
    ),
    Metric(
        "trireme_key_expiry_seconds",
        "gauge",
        "seconds",
        (),
        "Until the first of the API keys that are good expires; +Inf if none ever does. Keys that "
        "were rotated or revoked do not count.",
    ),
)
"""Who may call."""

GATEWAY_METRICS: tuple[Metric, ...] = (
    *CHANNEL_METRICS,
    *ACCESS_METRICS,
    Metric(
        "trireme_stored_responses",
        "counter",
        "requests",
        ("outcome",),
        "Responses that were to be kept (`responses.enabled`): kept, or not_kept as the store did "
        "not answer in time; their clients were told so.",
        values={"outcome": ("kept", "not_kept")},
    ),
    Metric(
        "trireme_batch_lines",
        "counter",
        "requests",
        ("outcome",),
        "Attempts at requests of batches (`batch.enabled`): answered; failed, for good; put_back, "
        "to be tried again; lost, as another gateway has taken the request over.",
        values={"outcome": ("answered", "failed", "put_back", "lost")},
    ),
    Metric(
        "trireme_requests",
        "counter",
        "requests",
        ("model", "tier", "outcome"),
        "Requests by how they ended: ok, refused, invalid, failed, cancelled.",
        values={"outcome": ("ok", "refused", "invalid", "failed", "cancelled")},
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
        values={"channel": ("analysis", "final")},
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
        "trireme_event_loop_lag_seconds",
        "histogram",
        "seconds",
        (),
        "How late a gateway's event loop comes to what is due. All its streams share the loop.",
        LOOP_LAG_BUCKETS_S,
    ),
    Metric(
        "trireme_placements",
        "counter",
        "requests",
        ("model", "tier", "verdict"),
        "Placements by why the replica could be chosen: home (the tier's own zone, or no zones), "
        "spill (outside of it), late (the first token is expected after its objective).",
        values={"verdict": ("home", "spill", "late")},
    ),
    Metric(
        "trireme_shadow_decisions",
        "counter",
        "requests",
        ("outcome",),
        "Placements that the shadow policy was asked about: same, other.",
        values={"outcome": ("same", "other")},
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
        values={"quantile": ("0.1", "0.25", "0.5", "0.75", "0.9", "0.95")},
    ),
    Metric(
        "trireme_retried_generations",
        "counter",
        "requests",
        ("model", "tier", "cause"),
        "Generations sent to another replica, with the tokens that they had: replica_lost, died, "
        "hung, failed (by the engine, alone), drained, slow, refused.",
        values={"cause": ("replica_lost", "died", "hung", "failed", "drained", "slow", "refused")},
    ),
    Metric(
        "trireme_failovers",
        "counter",
        "requests",
        ("model", "tier", "kind"),
        "Generations that went on in the middle of their output on another replica: exact (the "
        "tokens are those that the first would have written), equivalent (drawn from the same "
        "distribution).",
        values={"kind": ("exact", "equivalent")},
    ),
    Metric(
        "trireme_stream_resumptions",
        "counter",
        "requests",
        ("model", "tier", "outcome"),
        "Clients that came back with `Last-Event-ID`: continued (generated further), complete (all "
        "was written), gone (nobody had kept it).",
        values={"outcome": ("continued", "complete", "gone")},
    ),
    Metric(
        "trireme_failover_stall_seconds",
        "histogram",
        "seconds",
        ("model", "tier"),
        "From the last token of the replica left to the first of the next one: the pause that the "
        "client sees.",
        LATENCY_BUCKETS_S,
    ),
    Metric(
        "trireme_ejections",
        "counter",
        "replicas",
        ("model", "pool", "cause"),
        "Replicas put aside by this gateway: hung, slow.",
        values={"cause": ("hung", "slow")},
    ),
    Metric(
        "trireme_ejected_replicas",
        "gauge",
        "replicas",
        ("model", "pool"),
        "Replicas that are put aside now.",
    ),
    Metric(
        "trireme_recovering_requests",
        "gauge",
        "requests",
        ("state",),
        "Requests that lost their replica: waiting for their turn, or placed again (going) and "
        "without a new token. The second is bounded by the retry budget.",
        values={"state": ("waiting", "going")},
    ),
    Metric(
        "trireme_quarantined_requests",
        "counter",
        "requests",
        ("model", "tier"),
        "Requests of which engines died, and that were put into quarantine.",
    ),
    Metric(
        "trireme_quarantine_refusals",
        "counter",
        "requests",
        ("model", "tier"),
        "Requests refused because they are in quarantine.",
    ),
    Metric(
        "trireme_runaway_generations",
        "counter",
        "requests",
        ("model", "tier", "cause"),
        "Generations that were ended without an answer in sight: analysis (they thought for the "
        "tier's max_analysis_tokens), repetition (their last tokens were a loop).",
        values={"cause": ("analysis", "repetition")},
    ),
    Metric(
        "trireme_objectives",
        "counter",
        "requests",
        ("model", "tier", "objective", "outcome"),
        "Objectives kept and missed. served: requests that ended well, or were refused or failed; "
        "ttft and tpot: generations whose first token and pace kept the tier's objective.",
        values={"objective": ("served", "ttft", "tpot"), "outcome": ("kept", "missed")},
    ),
    Metric(
        "trireme_objective_seconds",
        "gauge",
        "seconds",
        ("tier", "objective"),
        "The tier's objective, as configured.",
        values={"objective": ("ttft", "tpot")},
    ),
    Metric(
        "trireme_objective_share_ratio",
        "gauge",
        "ratio",
        ("tier",),
        "Share of requests that are to keep each objective, as configured.",
    ),
    Metric(
        "trireme_refused_generations",
        "counter",
        "requests",
        ("model", "tier", "reason"),
        "Generations refused by the router: full (queue, or no prospect in time), waited (too long "
        "in the queue), displaced (made room for another tenant), no_replica.",
        values={"reason": ("full", "waited", "displaced", "no_replica")},
    ),
    Metric(
        "trireme_browned_out_requests",
        "counter",
        "requests",
        ("model", "asked", "tier"),
        "Requests served at a lower tier than was asked for, because of overload.",
        values={"asked": TIERS},
    ),
    Metric(
        "trireme_quota_refusals",
        "counter",
        "requests",
        ("tier", "kind"),
        "Requests refused because a limit of their tenant or key was used up, by its kind.",
        values={"kind": KINDS},
    ),
    Metric(
        "trireme_quota_demotions",
        "counter",
        "requests",
        ("tier",),
        "Requests served after others of their tier, as a limit of their caller is nearly used up.",
    ),
    Metric(
        "trireme_quota_shared",
        "gauge",
        "boolean",
        (),
        "1 while this gateway counts quotas together with the others in Redis; 0 while it keeps to "
        "its share, as Redis is away, or counts alone.",
    ),
    Metric(
        "trireme_quota_gateways",
        "gauge",
        "gateways",
        (),
        "Gateways that share the quotas, as last known.",
    ),
    Metric(
        "trireme_tenant_requests",
        "counter",
        "requests",
        ("tenant", "outcome"),
        "Requests of the tenant that were admitted, by how they ended.",
        values={
            "tenant": (OTHER_TENANTS,),
            "outcome": ("ok", "refused", "invalid", "failed", "cancelled"),
        },
        named={"tenant": NAMED_TENANTS},
    ),
    Metric(
        "trireme_tenant_tokens",
        "counter",
        "tokens",
        ("tenant", "tier", "kind"),
        "Tokens of the tenant's requests, as booked to it: prompt, cached (a part of the prompt), "
        "analysis, final.",
        values={
            "tenant": (OTHER_TENANTS,),
            "kind": ("prompt", "cached", "analysis", "final"),
        },
        named={"tenant": NAMED_TENANTS},
    ),
    Metric(
        "trireme_tenant_cost",
        "counter",
        "currency",
        ("tenant",),
        "Cost of the tenant's requests by usage.prices, in usage.currency.",
        values={"tenant": (OTHER_TENANTS,)},
        named={"tenant": NAMED_TENANTS},
    ),
    Metric(
        "trireme_tenant_quota_used_ratio",
        "gauge",
        "ratio",
        ("tenant",),
        "Of the limit of which the tenant has used most, the share in use at its last admission; 0 "
        "after a minute or two without one. Of all others together, the highest.",
        values={"tenant": (OTHER_TENANTS,)},
        named={"tenant": NAMED_TENANTS},
    ),
    Metric(
        "trireme_usage_records",
        "counter",
        "requests",
        ("state",),
        "Usage records: queued (a request is done), written (to the store; also those of a gateway "
        "that died here), dropped (the queue was full or its disk failed), invalid (the store does "
        "not take it), torn (a file ended within one: a crash).",
        values={"state": ("queued", "written", "dropped", "invalid", "torn")},
    ),
    Metric(
        "trireme_usage_queue_bytes",
        "gauge",
        "bytes",
        (),
        "Usage records on this gateway's disk that are not in the store yet.",
    ),
    Metric(
        "trireme_content_log_records",
        "counter",
        "requests",
        ("state",),
        "Records of the content log: written, withheld (text that took too long to redact), "
        "dropped (the queue was full), failed (the disk).",
        values={"state": ("written", "withheld", "dropped", "failed")},
    ),
    Metric(
        "trireme_queue_drain_seconds",
        "gauge",
        "seconds",
        ("model", "tier"),
        "Backlog of the tier in this gateway: predicted time until what waits now is placed.",
    ),
    Metric(
        "trireme_load_news_age_seconds",
        "gauge",
        "seconds",
        ("model", "pool"),
        "Age of the oldest load report that placements rest on, of the pool's replicas.",
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
    *CHANNEL_METRICS,
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
        "trireme_replica_preemptions",
        "counter",
        "requests",
        ("model", "pool"),
        "Requests that the engine took out of its batch again, as the KV cache was full.",
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

AUTOSCALER_METRICS: tuple[Metric, ...] = (
    Metric(
        "trireme_replicas_wanted",
        "gauge",
        "replicas",
        ("model", "pool"),
        "Replicas that the pool should have by the autoscaler's last decision.",
    ),
    Metric(
        "trireme_replicas_starting",
        "gauge",
        "replicas",
        ("model", "pool"),
        "Replicas that were asked for and are not ready.",
    ),
    Metric(
        "trireme_replicas_held_back",
        "gauge",
        "boolean",
        ("model", "pool"),
        "1 while the autoscaler would want more replicas than the pool's max_replicas, else 0.",
    ),
    Metric(
        "trireme_cold_start_seconds",
        "gauge",
        "seconds",
        ("model", "pool"),
        "Time from asking for a replica until it is ready, as measured lately.",
    ),
    Metric(
        "trireme_load_replicas",
        "gauge",
        "replicas",
        ("model",),
        "Replicas that the requests of now would fill while keeping their objectives.",
    ),
    Metric(
        "trireme_backlog_seconds",
        "gauge",
        "seconds",
        ("model",),
        "Time in which all output that is predicted for queued and running requests would be "
        "written at the present rate.",
    ),
    Metric(
        "trireme_slo_slack_ratio",
        "gauge",
        "ratio",
        ("model", "tier"),
        "1 less the tier's latency over its objective, the worse of first token and pace; below 0 "
        "the tier is late.",
    ),
    Metric(
        "trireme_autoscaler_signals_fresh",
        "gauge",
        "boolean",
        ("model",),
        "1 while every gateway is heard; 0 otherwise, and no pool shrinks then.",
    ),
)

TABLES: Mapping[str, tuple[Metric, ...]] = {
    "gateway": GATEWAY_METRICS,
    "engine": ENGINE_METRICS,
    "autoscaler": AUTOSCALER_METRICS,
}
"""What each kind of process exports."""


class Metrics:
    """The ``prometheus_client`` objects of one process, by the names of the table.

    Each instance has its own registry, so that several can live in one process (tests do that).
    """

    def __init__(self, table: Iterable[Metric], registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._table = tuple(table)
        self._made = {row.name: self._make(row) for row in self._table}

    def begin(self, models: Sequence[str], pools: Sequence[tuple[str, str]]) -> None:
        """Export every counter and histogram from zero on: what appears with its first event hides
        that event from ``rate()``. ``pools`` are (model, pool)."""
        for row in self._table:
            if row.labels and (row.kind != "gauge" or row.named):
                for values in row.label_sets(models, pools):
                    self._made[row.name].labels(*values)

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
