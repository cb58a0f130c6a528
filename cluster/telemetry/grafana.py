"""The boards as Grafana's JSON, through Grafana's own foundation SDK (a development tool)."""

import json
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from cluster.telemetry.panels import Board, Panel

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
COLUMNS = 24
WIDEST = 4
"""Panels in one line of a dashboard."""

VARIABLES = {
    "model": "label_values(trireme_replicas, model)",
    "pool": 'label_values(trireme_replicas{model=~"$model"}, pool)',
    "tier": "label_values(trireme_queue_length, tier)",
}

EVENTS = {
    "Processes started": 'changes(process_start_time_seconds{job="trireme"}[1m]) > 0'
    ' or (time() - process_start_time_seconds{job="trireme"}) < 60',
    "Pools resized": "changes(trireme_replicas[1m]) > 0",
}
"""Annotations: a deploy starts processes, a scale event changes how many replicas a pool has."""


def grafana_json(board: Board) -> str:
    """The dashboard, as it is imported."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["trireme"])
        .refresh("15s")
        .time("now-1h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            dashboard.DashboardLink("Trireme")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["trireme"])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    )
    for name, query in VARIABLES.items():
        made = made.with_variable(
            dashboard.QueryVariable(name)
            .datasource(SOURCE)
            .query(query)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    for name, expr in EVENTS.items():
        made = made.annotation(
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color("blue")
            .expr(expr)
        )
    for title, panels in board.rows:
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(_panel(panel, _width(len(panels))))
    written: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    return json.dumps(written, indent=1, sort_keys=True) + "\n"


def _width(panels: int) -> int:
    """Lines of equal panels: 3 or 4 in one, else as many as 4 at most."""
    lines = -(-panels // WIDEST)
    return COLUMNS // -(-panels // lines)


def _panel(panel: Panel, width: int) -> Any:
    made: Any
    if panel.kind == "number":
        made = (
            stat.Panel()
            .color_mode(common_models.BigValueColorMode.BACKGROUND)
            .graph_mode(common_models.BigValueGraphMode.AREA)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )
    else:
        made = (
            timeseries.Panel()
            .min(0)
            .line_width(1)
            .fill_opacity(10)
            .show_points(common_models.VisibilityMode.NEVER)
            .legend(
                common.VizLegendOptions()
                .display_mode(common_models.LegendDisplayMode.TABLE)
                .placement(common_models.LegendPlacement.BOTTOM)
                .show_legend(True)
                .calcs(["lastNotNull", "max"])
            )
        )
        if panel.kind == "stacked":
            stacked = common_models.StackingMode.NORMAL
            made = made.stacking(common.StackingConfig().mode(stacked).group("A"))
    made = made.title(panel.title).description(panel.description).unit(panel.unit)
    made = made.datasource(SOURCE).height(HEIGHT).span(width)
    if panel.limits is not None:
        made = made.thresholds(_thresholds(panel.limits))
        if panel.kind != "number":
            line = common_models.GraphThresholdsStyleMode.DASHED
            made = made.thresholds_style(common.GraphThresholdsStyleConfig().mode(line))
    if panel.link:
        made = made.links(
            [dashboard.DashboardLink("Details").url(f"/d/{panel.link}").keep_time(True)]
        )
    for number, query in enumerate(panel.queries):
        made = made.with_target(
            prometheus.Dataquery()
            .expr(query.expr)
            .legend_format(query.legend)
            .ref_id(chr(ord("A") + number))
            .datasource(SOURCE)
        )
    return made


def _thresholds(limits: tuple[float, float]) -> Any:
    yellow, red = limits
    steps: list[tuple[float | None, str]] = (
        [(None, "green"), (yellow, "yellow"), (red, "red")]
        if yellow <= red
        else [(None, "red"), (red, "yellow"), (yellow, "green")]
    )
    if yellow == red:
        steps = [(None, "green"), (red, "red")]
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )
