"""``docs/metrics.md``: the metric table for people."""

from collections.abc import Iterator

from cluster.metrics import CONFIGURED, TABLES, UNKNOWN_MODEL, Metric
from cluster.telemetry.names import SUFFIXES

HEAD = f"""# Metrics

Generated from `cluster/metrics.py` by `./trireme metrics --write`; do not edit.

Every process has a listener for operators with `/metrics`; `./trireme status` tells where, and
[observability.md](observability.md) how to use it. Engine processes export vLLM's own `vllm:…`
metrics and Python's `process_…` beside these.

Label values are bounded: `model` and `pool` are names of `trireme.yaml` (and `{UNKNOWN_MODEL}` for
requests refused before their model was known), `tier` is low, medium or high, and the others are
listed with each metric. A counter has `_total` after its name, a histogram `_bucket`, `_sum` and
`_count`. Histograms carry the trace of a request as exemplar while tracing is on.
"""

TITLES = {
    "gateway": "Gateways",
    "engine": "Engine replicas",
    "autoscaler": "The autoscaler",
}


def document() -> str:
    """The whole page."""
    parts = [HEAD]
    for process, table in TABLES.items():
        parts.append(f"## {TITLES.get(process, process.capitalize())}\n")
        parts.append("\n".join(_lines(table)) + "\n")
    return "\n".join(parts)


def _lines(table: tuple[Metric, ...]) -> Iterator[str]:
    yield "| metric | kind | unit | labels | what it tells |"
    yield "|---|---|---|---|---|"
    for row in table:
        suffix = "_total" if row.kind == "counter" else ""
        labels = "<br>".join(_label(row, label) for label in row.labels)
        buckets = f" Buckets: {_buckets(row)}." if row.buckets else ""
        yield f"| `{row.name}{suffix}` | {row.kind} | {row.unit} | {labels} | {row.help}{buckets} |"


def _label(row: Metric, label: str) -> str:
    if label in (*CONFIGURED, "tier"):
        return f"`{label}`"
    closed = f"`{label}`: {', '.join(row.closed(label))}"
    return f"{closed} and up to {row.named[label]} names" if label in row.named else closed


def _buckets(row: Metric) -> str:
    assert SUFFIXES[row.kind][0] == "_bucket"
    return ", ".join(f"{bucket:g}" for bucket in row.buckets) + f" {row.unit}"
