"""The dashboards. Their order is that of an operator's questions: is it well, who suffers, why."""

from collections.abc import Iterator

from cluster.metrics import TABLES, Metric
from cluster.telemetry.names import SUFFIXES, read_by
from cluster.telemetry.panels import (
    MP,
    MT,
    WINDOW,
    Board,
    M,
    Panel,
    Query,
    quantile,
    quantiles,
    rate,
)

MISSED = "tier:trireme_objectives_missed:ratio_rate5m"


def _overview() -> Board:
    health = (
        Panel(
            "Healthy replicas",
            "Replicas that a gateway may place on, as the gateway that reaches fewest sees it. "
            "Zero: see runbooks/TriremeNoReplica.md.",
            "short",
            (Query(f"model:trireme_open_replicas:min{{{M}}}", "{{model}}"),),
            "number",
            (1, 0.5),
            "trireme-faults",
        ),
        Panel(
            "Objectives kept",
            "Share of requests of the last 5 minutes that kept each objective of their tier. Red: "
            "open Tiers for which one, then Engines (slow steps) or Router (long queues).",
            "percentunit",
            (
                Query(
                    f"1 - avg by (tier, objective) ({MISSED}{{{MT}}})",
                    "{{tier}} {{objective}}",
                ),
            ),
            "number",
            (0.99, 0.95),
            "trireme-tiers",
        ),
        Panel(
            "Processes down",
            "Processes that Prometheus cannot reach. Not zero: `trireme status` says which; Ray "
            "Serve replaces replicas that died, so look for why in their logs.",
            "short",
            (Query('count(up{job="trireme"} == 0) or vector(0)', "down"),),
            "number",
            (1, 1),
        ),
    )
    traffic = (
        Panel(
            "Requests by outcome",
            "Refused and failed should be near zero. Refused: capacity (Autoscaling). Failed: "
            "Faults. Invalid: a client sends what is not understood.",
            "reqps",
            (
                Query(
                    f"sum by (outcome) (tier:trireme_requests:rate5m{{{MT}}})",
                    "{{outcome}}",
                ),
            ),
            "stacked",
        ),
        Panel(
            "Requests by tier",
            "The mix matters more than the sum: one high request is the work of ten low ones. A "
            "shift to high needs replicas, not patience.",
            "reqps",
            (Query(f"sum by (tier) (tier:trireme_requests:rate5m{{{MT}}})", "{{tier}}"),),
            "stacked",
        ),
        Panel(
            "Output tokens",
            "Tokens written a second. Falls while requests wait: engines are slow or gone "
            "(Engines). Booked when an answer ends, so long answers come in steps.",
            "short",
            (
                Query(
                    f"sum by (channel) (tier:trireme_output_tokens:rate5m{{{MT}}})",
                    "{{channel}}",
                ),
            ),
            "stacked",
            link="trireme-tiers",
        ),
    )
    saturation = (
        Panel(
            "Waiting requests",
            "Requests that no replica has room for. Growing for minutes: more replicas are needed, "
            "or replicas are lost (Faults).",
            "short",
            (Query(f"sum by (tier) (trireme_queue_length{{{MT}}})", "{{tier}}"),),
            "stacked",
            link="trireme-router",
        ),
        Panel(
            "KV cache in use",
            "The fullest replica of each pool. Near 1 with preemptions (Engines): lower "
            "max_num_seqs, or add replicas.",
            "percentunit",
            (Query(f"max by (pool) (trireme_replica_kv_use_ratio{{{MP}}})", "{{pool}}"),),
            limits=(0.9, 0.97),
            link="trireme-engines",
        ),
        Panel(
            "Running requests",
            "Requests in the engines' batches, against what came in. Flat while requests wait: "
            "every seat that keeps the objectives is taken.",
            "short",
            (Query(f"sum by (pool) (trireme_replica_running{{{MP}}})", "{{pool}}"),),
            link="trireme-engines",
        ),
    )
    return Board(
        "trireme-overview",
        "Trireme / Overview",
        "Is it well?",
        (("Is it well?", health), ("Traffic", traffic), ("Saturation", saturation)),
    )


def _tiers() -> Board:
    objectives = (
        Panel(
            "Missed objectives",
            "Share of requests that missed. served: refused or failed; ttft: the first token came "
            "late (queue, prefill); tpot: the engines are too full for this tier.",
            "percentunit",
            (Query(f"{MISSED}{{{MT}}}", "{{tier}} {{objective}}"),),
            limits=(0.01, 0.05),
        ),
        Panel(
            "Budget burnt, 1 h",
            "How many times as fast as it may be the error budget is used up. Over 14: paged. "
            "See runbooks/TriremeObjectiveBurnsFast.md.",
            "short",
            (
                Query(
                    f"tier:trireme_objectives_missed:ratio_rate1h{{{MT}}}"
                    " / on (tier) group_left () (1 - tier:trireme_objective_share:max)",
                    "{{tier}} {{objective}}",
                ),
            ),
            limits=(6, 14.4),
        ),
        Panel(
            "Objectives",
            "What is configured under `tiers.<tier>.slo`, in seconds.",
            "s",
            (
                Query(
                    'max by (tier, objective) (trireme_objective_seconds{tier=~"$tier"})',
                    "{{tier}} {{objective}}",
                ),
            ),
            "number",
        ),
    )
    latency = (
        Panel(
            "Time to first token",
            "From arrival to the first token of any channel. High with a long queue wait: "
            "capacity. High without: long prompts (prefill), or a gateway short of CPU.",
            "s",
            quantiles("trireme_time_to_first_token_seconds", "tier", MT, "{{tier}}"),
        ),
        Panel(
            "Time to first answer token",
            "What a person waits for: the analysis is over. High at high effort is normal; a rise "
            "at the same effort means longer analyses (Tokens) or slower engines.",
            "s",
            quantiles("trireme_time_to_first_answer_token_seconds", "tier", MT, "{{tier}}"),
        ),
        Panel(
            "Time per output token",
            "Mean pace of each generation. Over the objective: batches are too large for this "
            "tier (max_num_seqs), or a replica is slow (Faults).",
            "s",
            quantiles("trireme_time_per_output_token_seconds", "tier", MT, "{{tier}}"),
        ),
        Panel(
            "Queue wait",
            "From admission to placement. Over a second for low: its replicas are lent out or too "
            "few; see placements (Router).",
            "s",
            quantiles("trireme_queue_wait_seconds", "tier", MT, "{{tier}}"),
            link="trireme-router",
        ),
    )
    tokens = (
        Panel(
            "Analysis and answer",
            "Tokens a second, by channel. More analysis than usual for the same requests: a "
            "changed prompt, or a client that asks for more effort.",
            "short",
            (
                Query(
                    f"sum by (tier, channel) (tier:trireme_output_tokens:rate5m{{{MT}}})",
                    "{{tier}} {{channel}}",
                ),
            ),
            "stacked",
        ),
        Panel(
            "Prompt tokens",
            "Tokens a second that came in, and those found in a prefix cache. Cached falls while "
            "prompts do not: sessions are torn apart, or the system prompt has changed.",
            "short",
            (
                Query(rate("trireme_prompt_tokens_total", "tier", MT), "{{tier}} all"),
                Query(rate("trireme_cached_prompt_tokens_total", "tier", MT), "{{tier}} cached"),
            ),
        ),
        Panel(
            "Served at a lower tier",
            "Requests a second that brown-out has lowered. More than none: overload; see "
            "runbooks/TriremeBrownOut.md.",
            "reqps",
            (
                Query(
                    rate("trireme_browned_out_requests_total", "asked, tier", M),
                    "{{asked}} as {{tier}}",
                ),
            ),
        ),
        Panel(
            "In flight",
            "Generations on replicas. Compare with Waiting: a tier that waits while another has "
            "many in flight lacks its share.",
            "short",
            (Query(f"sum by (tier) (trireme_requests_in_flight{{{MT}}})", "{{tier}}"),),
            "stacked",
        ),
    )
    return Board(
        "trireme-tiers",
        "Trireme / Tiers",
        "Who waits, and for what?",
        (("Objectives", objectives), ("Latency", latency), ("Tokens", tokens)),
    )


def _engines() -> Board:
    batch = (
        Panel(
            "Batch",
            "Requests running on each replica. One far above its peers: look at its step time; "
            "the router should even that out within seconds.",
            "short",
            (Query(f"trireme_replica_running{{{MP}}}", "{{pool}} {{instance}}"),),
        ),
        Panel(
            "Waiting in engines",
            "Accepted and not running. More than a few: max_num_seqs is larger than the KV cache "
            "holds, so the engine queues what the router should have.",
            "short",
            (Query(f"trireme_replica_waiting{{{MP}}}", "{{pool}} {{instance}}"),),
        ),
        Panel(
            "Step time",
            "Pace of decoding. Twice its peers' at the same batch: a bad GPU or link; the gateway "
            "puts it aside (Faults), and the node should be drained.",
            "s",
            (Query(f"trireme_replica_step_seconds{{{MP}}}", "{{pool}} {{instance}}"),),
        ),
        Panel(
            "Output tokens",
            "Tokens a second of each replica. Zero with a batch: the engine hangs; the gateway "
            "moves its requests, Ray Serve replaces it.",
            "short",
            (
                Query(
                    rate("trireme_replica_output_tokens_total", "pool, instance", MP),
                    "{{pool}} {{instance}}",
                ),
            ),
        ),
    )
    memory = (
        Panel(
            "KV cache",
            "Share in use. Over 0.97 for minutes: new requests wait; see "
            "runbooks/TriremeKvCacheFull.md.",
            "percentunit",
            (Query(f"trireme_replica_kv_use_ratio{{{MP}}}", "{{pool}} {{instance}}"),),
            limits=(0.9, 0.97),
        ),
        Panel(
            "Preemptions",
            "Requests a second that are taken out of the batch and computed again. More than a "
            "few a minute: see runbooks/TriremePreemptionStorm.md.",
            "ops",
            (
                Query(
                    rate("trireme_replica_preemptions_total", "pool, instance", MP),
                    "{{pool}} {{instance}}",
                ),
            ),
        ),
        Panel(
            "Prefix cache hits",
            "Share of prompt tokens that a cache held, over all replicas. A fall after a change of "
            "the system prompt is normal and heals; else see placements (Router).",
            "percentunit",
            (
                Query(
                    f"sum(rate(trireme_cached_prompt_tokens_total{{{M}}}{WINDOW}))"
                    f" / (sum(rate(trireme_prompt_tokens_total{{{M}}}{WINDOW})) > 0)",
                    "hits",
                ),
            ),
        ),
    )
    processes = (
        Panel(
            "Gateways connected",
            "Each replica should have every gateway. Fewer: a network fault between those two; "
            "see Reconnects (Faults).",
            "short",
            (Query(f"trireme_replica_gateways{{{MP}}}", "{{pool}} {{instance}}"),),
        ),
        Panel(
            "Last start",
            "Seconds from the start of a replica until it was ready. Longer than it used to be: "
            "see runbooks/TriremeColdStartSlow.md.",
            "s",
            (Query(f"trireme_replica_start_seconds{{{MP}}}", "{{pool}} {{instance}}"),),
        ),
        Panel(
            "Memory of processes",
            "Resident memory. Rising for days without more traffic: a leak; restart the replica "
            "(it drains) and report it.",
            "bytes",
            (Query('process_resident_memory_bytes{job="trireme"}', "{{instance}}"),),
        ),
        Panel(
            "CPU of processes",
            "Cores in use. A gateway near 1 is at its end: raise gateway.replicas, or "
            "gateway.stream_interval.",
            "short",
            (
                Query(
                    f'sum by (instance) (rate(process_cpu_seconds_total{{job="trireme"}}{WINDOW}))',
                    "{{instance}}",
                ),
            ),
        ),
    )
    return Board(
        "trireme-engines",
        "Trireme / Engines",
        "What do the replicas do?",
        (("Batch", batch), ("KV cache", memory), ("Processes", processes)),
    )


def _vllm() -> Board:
    own = 'job="trireme"'
    return Board(
        "trireme-vllm",
        "Trireme / vLLM",
        "vLLM's own numbers, of pools with real engines.",
        (
            (
                "Scheduler",
                (
                    Panel(
                        "Running and waiting",
                        "As vLLM's scheduler counts them; should agree with Engines. Waiting "
                        "grows: lower max_num_seqs or add replicas.",
                        "short",
                        (
                            Query(f"vllm:num_requests_running{{{own}}}", "{{instance}} running"),
                            Query(f"vllm:num_requests_waiting{{{own}}}", "{{instance}} waiting"),
                        ),
                    ),
                    Panel(
                        "KV cache",
                        "vLLM's own share in use. Near 1: see runbooks/TriremeKvCacheFull.md.",
                        "percentunit",
                        (Query(f"vllm:kv_cache_usage_perc{{{own}}}", "{{instance}}"),),
                        limits=(0.9, 0.97),
                    ),
                    Panel(
                        "Prefix cache hits",
                        "Of the tokens that were looked up. Far below the gateways' number: the "
                        "router's picture of the caches is stale.",
                        "percentunit",
                        (
                            Query(
                                f"rate(vllm:prefix_cache_hits_total{{{own}}}{WINDOW})"
                                f" / (rate(vllm:prefix_cache_queries_total{{{own}}}{WINDOW}) > 0)",
                                "{{instance}}",
                            ),
                        ),
                    ),
                ),
            ),
        ),
    )


def _router() -> Board:
    queues = (
        Panel(
            "Queues",
            "Requests that wait, by tier. Only one tier: its zone is too small; all: capacity.",
            "short",
            (Query(f"sum by (tier) (trireme_queue_length{{{MT}}})", "{{tier}}"),),
        ),
        Panel(
            "Backlog",
            "Predicted seconds until what waits now is placed; it is what Retry-After says. Above "
            "max_queue_wait_s, requests are refused.",
            "s",
            (Query(f"max by (tier) (trireme_queue_drain_seconds{{{MT}}})", "{{tier}}"),),
        ),
        Panel(
            "Refused",
            "By reason. full: no prospect of being served in time; waited: over "
            "max_queue_wait_s; displaced: made room for another tenant; no_replica: Faults.",
            "reqps",
            (Query(rate("trireme_refused_generations_total", "reason", MT), "{{reason}}"),),
            "stacked",
        ),
    )
    decisions = (
        Panel(
            "Placements by verdict",
            "home is the tier's own zone. Much spill: zones do not fit the mix yet (they follow "
            "within a minute). late: even the best replica is behind; capacity.",
            "reqps",
            (Query(rate("trireme_placements_total", "verdict", MT), "{{verdict}}"),),
            "stacked",
        ),
        Panel(
            "Decision time",
            "One round of placements. Over 5 ms: see runbooks/TriremeRouterSlow.md.",
            "s",
            quantiles("trireme_router_decision_seconds", "", "", ""),
            limits=(0.002, 0.005),
        ),
        Panel(
            "Event loop lag",
            "How late a gateway comes to what is due. Over 50 ms, all its streams stutter: "
            "more gateways, or gateway.stream_interval.",
            "s",
            quantiles("trireme_event_loop_lag_seconds", "instance", "", "{{instance}}"),
            limits=(0.02, 0.05),
        ),
        Panel(
            "Age of load news",
            "The oldest report that placements rest on. Over 2.5 s: see "
            "runbooks/TriremeLoadNewsStale.md.",
            "s",
            (Query(f"max by (pool) (trireme_load_news_age_seconds{{{MP}}})", "{{pool}}"),),
            limits=(1.5, 2.5),
        ),
    )
    prediction = (
        Panel(
            "Coverage of predicted lengths",
            "Each line should lie at its own quantile. Off by 0.15: see "
            "runbooks/TriremePredictionsOff.md.",
            "percentunit",
            (
                Query(
                    "avg by (tier, quantile) "
                    '(trireme_prediction_coverage_ratio{tier=~"$tier",quantile=~"0.5|0.9"})',
                    "{{tier}} {{quantile}}",
                ),
            ),
        ),
        Panel(
            "Shadow policy",
            "How often the policy under `router.shadow` would have chosen otherwise. Empty "
            "without one.",
            "reqps",
            (Query(rate("trireme_shadow_decisions_total", "outcome", ""), "{{outcome}}"),),
        ),
        Panel(
            "Shadow policy's gain",
            "Seconds that all requests together would have saved by obeying it. Rising for days: "
            "consider making it `router.policy`.",
            "s",
            (Query("sum(trireme_shadow_gain_seconds)", "gain"),),
        ),
    )
    channel = (
        Panel(
            "Channel frames",
            "Frames a second. An engine sends one a step and gateway; far more in than that: many "
            "short steps.",
            "short",
            (
                Query(
                    f"sum by (instance, direction) (rate(trireme_channel_frames_total{WINDOW}))",
                    "{{instance}} {{direction}}",
                ),
            ),
        ),
        Panel(
            "Channel bytes",
            "Bytes a second. Prompts go out, tokens come in; near the network's limit: prompts "
            "are very long, or log-probabilities are asked for.",
            "Bps",
            (
                Query(
                    f"sum by (instance, direction) (rate(trireme_channel_bytes_total{WINDOW}))",
                    "{{instance}} {{direction}}",
                ),
            ),
        ),
    )
    return Board(
        "trireme-router",
        "Trireme / Router",
        "Why does it wait, and why there?",
        (
            ("Queues", queues),
            ("Decisions", decisions),
            ("Prediction", prediction),
            ("Token channel", channel),
        ),
    )


def _autoscaling() -> Board:
    size = (
        Panel(
            "Replicas wanted and there",
            "wanted above there for long: no nodes; see runbooks/TriremeReplicasMissing.md.",
            "short",
            (
                Query(f"max by (pool) (trireme_replicas_wanted{{{MP}}})", "{{pool}} wanted"),
                Query(f"max by (pool) (trireme_replicas{{{MP}}})", "{{pool}} there"),
                Query(f"max by (pool) (trireme_replicas_starting{{{MP}}})", "{{pool}} starting"),
            ),
        ),
        Panel(
            "At its greatest size",
            "1 while max_replicas keeps it from growing; see "
            "runbooks/TriremeAutoscalerAtMaximum.md.",
            "short",
            (Query(f"max by (pool) (trireme_replicas_held_back{{{MP}}})", "{{pool}}"),),
        ),
        Panel(
            "Load",
            "Replicas that the requests of now would fill while keeping their objectives. Above "
            "what is there: objectives are being missed, or soon will.",
            "short",
            (Query(f"max by (model) (trireme_load_replicas{{{M}}})", "{{model}}"),),
        ),
    )
    why = (
        Panel(
            "Backlog",
            "Seconds in which all predicted output would be written. Rising: replicas are too few "
            "or slow.",
            "s",
            (Query(f"max by (model) (trireme_backlog_seconds{{{M}}})", "{{model}}"),),
        ),
        Panel(
            "Slack",
            "1 less latency over objective; below 0 the tier is late. Below 0 without growth: the "
            "pool is at its greatest size, or signals are not fresh.",
            "percentunit",
            (Query(f"min by (tier) (trireme_slo_slack_ratio{{{MT}}})", "{{tier}}"),),
        ),
        Panel(
            "Signals fresh",
            "1 while every gateway is heard. 0: see runbooks/TriremeAutoscalerBlind.md.",
            "short",
            (Query(f"min by (model) (trireme_autoscaler_signals_fresh{{{M}}})", "{{model}}"),),
        ),
        Panel(
            "Cold start",
            "Seconds from asking for a replica until it is ready, as measured. It is how far the "
            "autoscaler must look ahead; see runbooks/TriremeColdStartSlow.md.",
            "s",
            (Query(f"max by (pool) (trireme_cold_start_seconds{{{MP}}})", "{{pool}}"),),
        ),
    )
    return Board(
        "trireme-autoscaling",
        "Trireme / Autoscaling",
        "Is it the right size? (Empty unless `autoscaling.enabled`.)",
        (("Size", size), ("Why", why)),
    )


def _faults() -> Board:
    requests = (
        Panel(
            "Failed and refused",
            "Any failed request was lost to its client. See the gateways' logs by request id, and "
            "runbooks/TriremeRequestsFail.md.",
            "reqps",
            (
                Query(
                    "sum by (tier, outcome) "
                    f'(tier:trireme_requests:rate5m{{{MT},outcome=~"failed|refused"}})',
                    "{{tier}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Failovers",
            "Answers that went on elsewhere, unnoticed by the client. A peak goes with a lost "
            "replica; a steady rate does not: see runbooks/TriremeFailovers.md.",
            "ops",
            (Query(rate("trireme_failovers_total", "kind", MT), "{{kind}}"),),
        ),
        Panel(
            "Moved generations",
            "By cause. refused: a replica was full; drained: it leaves; hung, slow, died, "
            "replica_lost: faults of replicas; failed: the engine failed that one alone.",
            "ops",
            (Query(rate("trireme_retried_generations_total", "cause", MT), "{{cause}}"),),
            "stacked",
        ),
        Panel(
            "Pause at a failover",
            "What the client sees: no token for so long. Over seconds: the others have no room "
            "(Queues), or the fault is noticed late (failover.hang_min_s).",
            "s",
            (
                Query(quantile(0.5, "trireme_failover_stall_seconds", "", MT), "p50"),
                Query(quantile(0.99, "trireme_failover_stall_seconds", "", MT), "p99"),
            ),
        ),
        Panel(
            "Recovering",
            "Requests that lost their replica and have no new token. waiting for long: the retry "
            "budget is used up, or there is no room.",
            "short",
            (Query("sum by (state) (trireme_recovering_requests)", "{{state}}"),),
        ),
        Panel(
            "Quarantine",
            "Requests that took engines down, and refusals of the same again. Any: "
            "see runbooks/TriremeRequestQuarantined.md.",
            "short",
            (
                Query(
                    f"sum(increase(trireme_quarantined_requests_total{{{MT}}}{WINDOW}))",
                    "quarantined",
                ),
                Query(
                    f"sum(increase(trireme_quarantine_refusals_total{{{MT}}}{WINDOW}))",
                    "refused",
                ),
            ),
        ),
    )
    replicas = (
        Panel(
            "Replicas",
            "As each gateway sees them. Gateways that disagree for more than seconds: a network "
            "fault at one of them.",
            "short",
            (
                Query(
                    f"sum by (pool, instance) (trireme_replicas{{{MP}}})", "{{pool}} {{instance}}"
                ),
            ),
        ),
        Panel(
            "Put aside",
            "Replicas that get nothing new as they hang or are slow. For long: see "
            "runbooks/TriremeReplicaAside.md.",
            "short",
            (Query(f"max by (pool) (trireme_ejected_replicas{{{MP}}})", "{{pool}}"),),
        ),
        Panel(
            "Ejections",
            "hung: no steps with work pending; slow: much slower than its peers. Again and again "
            "the same replica: drain its node.",
            "ops",
            (Query(rate("trireme_ejections_total", "pool, cause", MP), "{{pool}} {{cause}}"),),
        ),
        Panel(
            "Reconnects",
            "Connections to replicas that broke. One per lost replica and gateway is normal; more: "
            "the network.",
            "ops",
            (
                Query(
                    f"sum by (instance) (rate(trireme_channel_reconnects_total{WINDOW}))",
                    "{{instance}}",
                ),
            ),
        ),
    )
    return Board(
        "trireme-faults",
        "Trireme / Faults",
        "What broke, and who noticed?",
        (("Requests", requests), ("Replicas", replicas)),
    )


HOME = {
    "gateway": "trireme-router",
    "engine": "trireme-engines",
    "autoscaler": "trireme-autoscaling",
}
"""Where a metric is shown that no panel was made for."""


def boards() -> list[Board]:
    """All dashboards. A row of the table that none of them shows gets a plain panel."""
    made = [_overview(), _tiers(), _engines(), _vllm(), _router(), _autoscaling(), _faults()]
    shown = {
        name
        for board in made
        for panel in board.panels()
        for q in panel.queries
        for name in _rows_of(q.expr)
    }
    result = []
    for board in made:
        more = tuple(
            _plain(row)
            for process, uid in HOME.items()
            if uid == board.uid
            for row in TABLES[process]
            if row.name not in shown
        )
        rows = (*board.rows, ("More", more)) if more else board.rows
        result.append(Board(board.uid, board.title, board.description, rows))
    return result


def _rows_of(expr: str) -> Iterator[str]:
    from cluster.telemetry.rules import recordings

    recorded = {each.name: each.expr for each in recordings()}
    for name in read_by(expr):
        if name in recorded:
            yield from _rows_of(recorded[name])
        for suffixes in SUFFIXES.values():
            for suffix in suffixes:
                yield name.removesuffix(suffix) if suffix else name


def _plain(row: Metric) -> Panel:
    by = ", ".join(label for label in row.labels if label != "model") or "instance"
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    match row.kind:
        case "counter":
            query = Query(f"sum by ({by}) (rate({row.name}_total{WINDOW}))", legend)
        case "gauge":
            query = Query(f"sum by ({by}) ({row.name})", legend)
        case "histogram":
            buckets = f"sum by (le, {by}) (rate({row.name}_bucket{WINDOW}))"
            query = Query(f"histogram_quantile(0.9, {buckets})", f"{legend} p90")
    title = row.name.removeprefix("trireme_").replace("_", " ").capitalize()
    told = f"{row.help} docs/metrics.md has its labels; look for what changed with it on Overview."
    return Panel(title, told, "s" if row.unit == "seconds" else "short", (query,))
