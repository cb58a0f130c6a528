"""Pictures of the dashboards from a Prometheus's data, where no Grafana is at hand."""

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from cluster.telemetry.boards import boards
from cluster.telemetry.local_prometheus import LocalPrometheus
from cluster.telemetry.panels import Board, Panel, Query, filled

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
"""Okabe and Ito's, which stay apart for people who see fewer of them."""

COLUMNS = 4
PANEL_INCHES = (3.6, 2.3)
POINTS = 240
MOST_LINES = 12

UNITS = {"s": "s", "percentunit": "%", "reqps": "/s", "ops": "/s", "Bps": "B/s", "bytes": "MiB"}
FACTORS = {"percentunit": 100.0, "bytes": 1 / 2**20}


@dataclass(frozen=True)
class Line:
    """One series of a panel. Times are seconds since the epoch."""

    name: str
    times: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Span:
    """What time to draw, and over how long to take rates (Prometheus's notation)."""

    start: float
    end: float
    window: str = "15s"

    @property
    def step_s(self) -> float:
        return max(1.0, (self.end - self.start) / POINTS)


def lines(prometheus: LocalPrometheus, query: Query, span: Span) -> Iterator[Line]:
    """A query's series. Points without a number are left out."""
    expr = filled(query.expr, span.window)
    for series in prometheus.ask_range(expr, span.start, span.end, span.step_s):
        points = [(float(t), float(v)) for t, v in series["values"]]
        kept = [(t, v) for t, v in points if math.isfinite(v)]
        if kept:
            times, values = zip(*kept, strict=True)
            yield Line(_legend(query.legend, series["metric"]), times, values)


def _legend(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend


def draw(board: Board, prometheus: LocalPrometheus, span: Span) -> Figure:
    """All panels of a dashboard in one figure."""
    panels = list(board.panels())
    rows = -(-len(panels) // COLUMNS)
    width, height = PANEL_INCHES
    figure = Figure((COLUMNS * width, rows * height + 0.4), layout="constrained")
    figure.suptitle(board.title, fontsize=11, x=0.01, ha="left")
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, COLUMNS, number + 1)
        found = [line for query in panel.queries for line in lines(prometheus, query, span)]
        _draw_panel(axes, panel, found, span)
    return figure


def _draw_panel(axes: Axes, panel: Panel, found: list[Line], span: Span) -> None:
    factor = FACTORS.get(panel.unit, 1.0)
    unit = UNITS.get(panel.unit, "")
    axes.set_title(f"{panel.title}{f', {unit}' if unit else ''}", fontsize=8, loc="left")
    for number, line in enumerate(found[:MOST_LINES]):
        moments: Any = [datetime.fromtimestamp(t) for t in line.times]
        axes.plot(
            moments,
            [v * factor for v in line.values],
            color=COLOURS[number % len(COLOURS)],
            linestyle="-" if number < len(COLOURS) else "--",
            linewidth=1,
            label=line.name or "value",
        )
    for limit, colour in zip(panel.limits or (), ("#E69F00", "#D55E00"), strict=False):
        axes.axhline(limit * factor, color=colour, linewidth=0.6, linestyle=":")
    if not found:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes, fontsize=8)
    ends: Any = [datetime.fromtimestamp(span.start), datetime.fromtimestamp(span.end)]
    axes.set_xlim(*ends)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    locator = AutoDateLocator(minticks=2, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.2)
    if found:
        axes.legend(fontsize=5, loc="upper left", frameon=False, ncols=2)


def pictures(prometheus: LocalPrometheus, span: Span, folder: Path) -> list[Path]:
    """A PNG of each dashboard and a page with all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for board in boards():
        path = folder / f"{board.uid.removeprefix('trireme-')}.png"
        draw(board, prometheus, span).savefig(path, dpi=75, pil_kwargs={"optimize": True})
        made.append(path)
    (folder / "index.html").write_text(_page(made))
    return made


def _page(made: list[Path]) -> str:
    parts = ["<!doctype html><meta charset=utf-8><title>Trireme's dashboards</title>"]
    for board, path in zip(boards(), made, strict=True):
        parts.append(f"<h2>{html.escape(board.title)}</h2><p>{html.escape(board.description)}")
        parts.append(f'<p><img src="{path.name}" alt="{html.escape(board.title)}">')
        for panel in board.panels():
            told = f"<dt>{html.escape(panel.title)}<dd>{html.escape(panel.description)}"
            parts.append(f"<dl>{told}</dl>")
    return "\n".join(parts) + "\n"
