"""The dashboards. Their order is that of an operator's questions: is it well, who suffers, why."""

from collections.abc import Iterator

from cluster.metrics import TABLES, Metric
from cluster.telemetry.boards import (
    autoscaling,
    engines,
    faults,
    overview,
    router,
    tenants,
    tiers,
    vllm,
)
from cluster.telemetry.names import SUFFIXES, read_by
from cluster.telemetry.panels import WINDOW, Board, Panel, Query

HOME = {
    "gateway": "trireme-router",
    "engine": "trireme-engines",
    "autoscaler": "trireme-autoscaling",
}
"""Where a metric is shown that no panel was made for."""


def boards() -> list[Board]:
    """All dashboards. A row of the table that none of them shows gets a plain panel."""
    rooms = (overview, tiers, engines, vllm, router, autoscaling, tenants, faults)
    made = [each.BOARD for each in rooms]
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
