"""What broke, and who noticed?"""

from cluster.telemetry.panels import MP, MT, WINDOW, Board, Panel, Query, quantile, rate

REQUESTS = (
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
        "Resumed streams",
        "Clients that came back with Last-Event-ID, after their gateway or their own connection "
        "was lost. gone: they came too late (gateway.resume_s), or the replica was lost as well.",
        "ops",
        (Query(rate("trireme_stream_resumptions_total", "outcome", MT), "{{outcome}}"),),
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
    Panel(
        "Runaway replies",
        "Ended without an answer: analysis (the tier's max_analysis_tokens), repetition (a loop). "
        "Many: look at the prompts' sampling (top_p below 1 loops), or raise the cap.",
        "ops",
        (
            Query(
                rate("trireme_runaway_generations_total", "tier, cause", MT), "{{tier}} {{cause}}"
            ),
        ),
    ),
)
REPLICAS = (
    Panel(
        "Replicas",
        "As each gateway sees them. Gateways that disagree for more than seconds: a network "
        "fault at one of them.",
        "short",
        (Query(f"sum by (pool, instance) (trireme_replicas{{{MP}}})", "{{pool}} {{instance}}"),),
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
    Panel(
        "First certificate to expire",
        "Until the first certificate that a gateway or a replica uses expires. Under a week: see "
        "runbooks/TriremeCertificateExpires.md.",
        "s",
        (Query("min(trireme_certificate_expiry_seconds)", "left"),),
        "number",
        (7 * 86_400, 86_400),
    ),
)
BOARD = Board(
    "trireme-faults",
    "Trireme / Faults",
    "What broke, and who noticed?",
    (("Requests", REQUESTS), ("Replicas", REPLICAS)),
)
