"""Is it well?"""

from cluster.telemetry.panels import MISSED, MP, MT, Board, M, Panel, Query

HEALTH = (
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
TRAFFIC = (
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
SATURATION = (
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
BOARD = Board(
    "trireme-overview",
    "Trireme / Overview",
    "Is it well?",
    (("Is it well?", HEALTH), ("Traffic", TRAFFIC), ("Saturation", SATURATION)),
)
