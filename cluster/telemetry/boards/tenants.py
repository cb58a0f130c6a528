"""Who uses it, what does it cost, and who is held back?"""

from cluster.telemetry.panels import WINDOW, Board, Panel, Query

USE = (
    Panel(
        "Requests by tenant",
        "The busiest tenants; other is all the rest. One that grows without warning: ask it, or "
        "give it a limit (`trireme tenants set`).",
        "reqps",
        (Query(f"sum by (tenant) (rate(trireme_tenant_requests_total{WINDOW}))", "{{tenant}}"),),
        "stacked",
    ),
    Panel(
        "Tokens by tenant",
        "Prompt, analysis and final tokens as booked. Analysis that dwarfs the rest: its requests "
        "may do at a lower effort (Tokens by kind says which tier).",
        "short",
        (
            Query(
                'sum by (tenant) (rate(trireme_tenant_tokens_total{kind!="cached"}' + WINDOW + "))",
                "{{tenant}}",
            ),
        ),
        "stacked",
    ),
    Panel(
        "Tokens by kind and tier",
        "Cached tokens are a part of the prompts'. Few of them for prompts that begin alike: the "
        "tenants share nothing by design; within one, see Engines, prefix hits.",
        "short",
        (
            Query(
                f'sum by (tier, kind) (rate(trireme_tenant_tokens_total{{tier=~"$tier"}}{WINDOW}))',
                "{{tier}} {{kind}}",
            ),
        ),
    ),
)
COST = (
    Panel(
        "Cost an hour",
        "By the configured prices (usage.prices). The invoice is `trireme usage report`, which "
        "counts every request; this is for the trend.",
        "short",
        (
            Query(
                f"3600 * sum by (tenant) (rate(trireme_tenant_cost_total{WINDOW}))",
                "{{tenant}}",
            ),
        ),
        "stacked",
    ),
    Panel(
        "Limit used",
        "Of the limit of which a tenant has used most. From its soft share (0.9) on it is served "
        "after others; at 1 its requests are refused: raise the limit, or tell the tenant.",
        "percentunit",
        (Query("max by (tenant) (trireme_tenant_quota_used_ratio)", "{{tenant}}"),),
        limits=(0.9, 1.0),
    ),
    Panel(
        "Held back",
        "Refused for a limit, by its kind, and served after others for the soft one. A steady "
        "rate: somebody's limit does not fit his traffic; Limit used says whose.",
        "reqps",
        (
            Query(f"sum by (kind) (rate(trireme_quota_refusals_total{WINDOW}))", "{{kind}}"),
            Query(f"sum(rate(trireme_quota_demotions_total{WINDOW}))", "after others"),
        ),
        "stacked",
    ),
)
BOOKS = (
    Panel(
        "Not let in",
        "By reason. invalid in numbers: somebody guesses, or a key was rotated without its users; "
        "the gateways' log lines name no key.",
        "reqps",
        (Query(f"sum by (reason) (rate(trireme_access_refusals_total{WINDOW}))", "{{reason}}"),),
        "stacked",
    ),
    Panel(
        "Store away",
        "Gateways go on with what they know, and usage waits on their disks. Over a minute: see "
        "runbooks/TriremeStoreAway.md.",
        "s",
        (Query("max by (instance) (trireme_store_away_seconds)", "{{instance}}"),),
        limits=(10, 60),
    ),
    Panel(
        "Kept responses",
        "That were to be kept. not_kept: the store did not answer in time, and their clients were "
        "told so; the next turn of these conversations has to bring all of it.",
        "reqps",
        (Query(f"sum by (outcome) (rate(trireme_stored_responses_total{WINDOW}))", "{{outcome}}"),),
        "stacked",
    ),
    Panel(
        "Lines of batches",
        "Attempts. put_back: there was no room, or a fault of ours. lost: a gateway was silent for "
        "so long that another one took its lines over.",
        "reqps",
        (Query(f"sum by (outcome) (rate(trireme_batch_lines_total{WINDOW}))", "{{outcome}}"),),
        "stacked",
    ),
    Panel(
        "Quotas counted together",
        "1: in Redis, with the other gateways. 0 with several gateways: each keeps to its share; "
        "see runbooks/TriremeQuotasAlone.md.",
        "short",
        (
            Query("min(trireme_quota_shared)", "together"),
            Query("max(trireme_quota_gateways)", "gateways"),
        ),
    ),
    Panel(
        "Usage records",
        "written follows queued within seconds. dropped, invalid or torn: bills miss requests; see "
        "runbooks/TriremeUsageLost.md.",
        "ops",
        (Query(f"sum by (state) (rate(trireme_usage_records_total{WINDOW}))", "{{state}}"),),
    ),
    Panel(
        "Usage on disk",
        "Records that are not in the store yet. Grows while the store is away; full at "
        "usage.max_queue_bytes, then records are dropped.",
        "bytes",
        (Query("sum by (instance) (trireme_usage_queue_bytes)", "{{instance}}"),),
    ),
    Panel(
        "Content log",
        "Records, if content_log is on. dropped: the disk is too slow for the queue; failed: see "
        "the gateway's log; withheld: a pattern of content_log.redact is too slow.",
        "ops",
        (Query(f"sum by (state) (rate(trireme_content_log_records_total{WINDOW}))", "{{state}}"),),
    ),
    Panel(
        "First key to expire",
        "Until the first good API key expires. Under a week: see runbooks/TriremeKeyExpires.md.",
        "s",
        (Query("min(trireme_key_expiry_seconds)", "left"),),
        "number",
        (7 * 86_400, 86_400),
    ),
)

BOARD = Board(
    "trireme-tenants",
    "Trireme / Tenants and cost",
    "Who uses it, what does it cost, and who is held back?",
    (("Use", USE), ("Cost and limits", COST), ("Books", BOOKS)),
)
