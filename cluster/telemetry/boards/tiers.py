"""Who waits, and for what?"""

from cluster.telemetry.panels import MISSED, MT, Board, M, Panel, Query, quantiles, rate

OBJECTIVES = (
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
LATENCY = (
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
TOKENS = (
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
BOARD = Board(
    "trireme-tiers",
    "Trireme / Tiers",
    "Who waits, and for what?",
    (("Objectives", OBJECTIVES), ("Latency", LATENCY), ("Tokens", TOKENS)),
)
