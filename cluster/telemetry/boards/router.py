"""Why does it wait, and why there?"""

from cluster.telemetry.panels import MP, MT, WINDOW, Board, Panel, Query, quantiles, rate

QUEUES = (
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
DECISIONS = (
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
PREDICTION = (
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
CHANNEL = (
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
BOARD = Board(
    "trireme-router",
    "Trireme / Router",
    "Why does it wait, and why there?",
    (
        ("Queues", QUEUES),
        ("Decisions", DECISIONS),
        ("Prediction", PREDICTION),
        ("Token channel", CHANNEL),
    ),
)
