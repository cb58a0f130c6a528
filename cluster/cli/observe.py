"""``trireme observe``: a Prometheus beside the running cluster, and pictures of the dashboards."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.console import Fault, chosen, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.run_state import ClusterRecord
    from cluster.telemetry.local_prometheus import Target

LOOK_S = 2.0
"""How often the list of processes is brought up to date."""

DASHBOARDS = Path(__file__).resolve().parents[2] / "helm" / "trireme" / "dashboards"


def observe(
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
    port: Annotated[int, typer.Option(help="Port of Prometheus; 0 takes a free one.")] = 0,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after so many seconds; without, at Ctrl-C.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="At the end, draw every dashboard into this folder (PNG and HTML)."),
    ] = None,
) -> None:
    """Scrape the running cluster with a real Prometheus, with all rules, until Ctrl-C."""
    from cluster.local_ray import free_ports
    from cluster.telemetry.draw import Span
    from cluster.telemetry.draw import pictures as draw
    from cluster.telemetry.local_prometheus import LocalPrometheus, NoPrometheus

    record = chosen(name)
    if not record.is_held():
        raise Fault(f"cluster {record.name} is not up", 1)
    folder = record.folder / f"{record.name}.prometheus"
    try:
        with LocalPrometheus(folder, port or free_ports(1)[0]) as prometheus:
            prometheus.start(_targets(record))
            began = time.time()
            tell(f"prometheus  {prometheus.url}")
            tell(f"dashboards  import {DASHBOARDS}/*.json into Grafana, with this Prometheus")
            try:
                _watch(record, prometheus.update, seconds)
            except KeyboardInterrupt:
                tell("")
            if pictures is not None:
                made = draw(prometheus, Span(began, time.time()), pictures)
                tell(f"{len(made)} dashboards drawn: {pictures / 'index.html'}")
    except NoPrometheus as error:
        raise Fault(str(error), 1) from error


def _targets(record: "ClusterRecord") -> "list[Target]":
    from cluster.telemetry.local_prometheus import targets

    view = record.read_view()
    return [] if view is None else targets(view)


def _watch(
    record: "ClusterRecord", update: "Callable[[list[Target]], None]", seconds: float | None
) -> None:
    ends = None if seconds is None else time.monotonic() + seconds
    known: list[Target] = []
    while record.is_held() and (ends is None or time.monotonic() < ends):
        found = _targets(record)
        if found != known:
            known = found
            update(found)
        time.sleep(LOOK_S if ends is None else max(0.0, min(LOOK_S, ends - time.monotonic())))
