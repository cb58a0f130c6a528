"""vLLM's own numbers, of pools with real engines."""

from cluster.telemetry.panels import WINDOW, Board, Panel, Query

OWN = 'job="trireme"'
BOARD = Board(
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
                        Query(f"vllm:num_requests_running{{{OWN}}}", "{{instance}} running"),
                        Query(f"vllm:num_requests_waiting{{{OWN}}}", "{{instance}} waiting"),
                    ),
                ),
                Panel(
                    "KV cache",
                    "vLLM's own share in use. Near 1: see runbooks/TriremeKvCacheFull.md.",
                    "percentunit",
                    (Query(f"vllm:kv_cache_usage_perc{{{OWN}}}", "{{instance}}"),),
                    limits=(0.9, 0.97),
                ),
                Panel(
                    "Prefix cache hits",
                    "Of the tokens that were looked up. Far below the gateways' number: the "
                    "router's picture of the caches is stale.",
                    "percentunit",
                    (
                        Query(
                            f"rate(vllm:prefix_cache_hits_total{{{OWN}}}{WINDOW})"
                            f" / (rate(vllm:prefix_cache_queries_total{{{OWN}}}{WINDOW}) > 0)",
                            "{{instance}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
