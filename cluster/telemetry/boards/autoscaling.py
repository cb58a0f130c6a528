"""Is it the right size?"""

from cluster.telemetry.panels import MP, MT, Board, M, Panel, Query

SIZE = (
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
        "1 while max_replicas keeps it from growing; see runbooks/TriremeAutoscalerAtMaximum.md.",
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
WHY = (
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
BOARD = Board(
    "trireme-autoscaling",
    "Trireme / Autoscaling",
    "Is it the right size? (Empty unless `autoscaling.enabled`.)",
    (("Size", SIZE), ("Why", WHY)),
)
