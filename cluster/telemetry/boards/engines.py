"""What do the replicas do?"""

from cluster.telemetry.panels import MP, WINDOW, Board, M, Panel, Query, rate

BATCH = (
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
MEMORY = (
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
PROCESSES = (
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
BOARD = Board(
    "trireme-engines",
    "Trireme / Engines",
    "What do the replicas do?",
    (("Batch", BATCH), ("KV cache", MEMORY), ("Processes", PROCESSES)),
)
