"""``trireme top``: tiers, replicas, queues, objectives and scale decisions, live."""

import json
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import Fault, chosen
from cluster.cli.status import ask, collected_from

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cluster.run_state import ClusterRecord

MEMORY_S = 60.0
"""Over how long shares of kept objectives are counted."""

DECISIONS = 6


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one picture and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs, with --once.")] = False,
    every: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds between looks.")] = 2.0,
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
) -> None:
    """Watch the cluster. Ctrl-C ends it."""
    if as_json and not once:
        raise Fault("--json needs --once")
    record = chosen(name)
    shown = look(record, None)
    if shown is None:
        if as_json:
            print(json.dumps({"up": False, "name": record.name}))
            raise typer.Exit(1)
        raise Fault(f"cluster {record.name} is not up", 1)
    if as_json:
        print(json.dumps({key: value for key, value in shown.items() if key != "counts"}, indent=2))
        return
    from rich.console import Console

    console = Console()
    if once:
        console.print(drawn(shown))
        return
    from rich.live import Live

    past = deque([(time.monotonic(), shown)])
    with Live(drawn(shown), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            while len(past) > 1 and time.monotonic() - past[1][0] > MEMORY_S:
                past.popleft()
            shown = look(record, past[0][1])
            if shown is None:
                break
            past.append((time.monotonic(), shown))
            live.update(drawn(shown), refresh=True)
    raise Fault(f"cluster {record.name} is down", 1)


def look(record: "ClusterRecord", before: dict[str, Any] | None) -> dict[str, Any] | None:
    """The picture now, or None if the cluster is not up."""
    from cluster.telemetry.picture import picture
    from deployments.names import GATEWAY

    state = record.read() if record.is_held() else None
    view = record.read_view()
    if state is None:
        return None
    replicas = () if view is None else view.replicas
    pages = [f"{each.ops_url}/status" for each in replicas]
    autoscaler = None if view is None else view.autoscaler
    decisions_page = "" if autoscaler is None else f"{autoscaler.ops_url}/decisions"
    said = ask([*pages, *filter(None, [decisions_page])])
    told = {each.ops_url: said[f"{each.ops_url}/status"] for each in replicas}
    gateways = [told[each.ops_url] or {} for each in replicas if each.deployment == GATEWAY]
    decisions: list[Any] = (said.get(decisions_page) or [])[:DECISIONS]
    return picture(collected_from(state, view, told), gateways, decisions, before)


def drawn(shown: dict[str, Any]) -> "RenderableType":
    """The picture as tables."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            made.add_column(column, justify="left" if column in _WORDS else "right")
        return made

    tiers = table("tiers", "model", "tier", "queued", "oldest", "drain", "in flight", *_KEPT)
    for each in shown["tiers"]:
        tiers.add_row(
            each["model"],
            each["tier"],
            str(each["queued"]),
            f"{each['oldest_wait_s']:.1f} s",
            f"{each['drain_s']:.1f} s",
            str(each["in_flight"]),
            *(_percent(each["kept"][name]) for name in _KEPT),
        )
    replicas = table("replicas", "replica", "pool", "state", "running", "waiting", "KV", "step")
    for each in shown["replicas"]:
        replicas.add_row(
            each["replica"],
            each["pool"],
            Text(each["state"], "green" if each["state"] == "ok" else "red"),
            str(each["running"]),
            str(each["waiting"]),
            f"{each['kv_use']:.0%}",
            f"{each['step_ms']:.1f} ms",
        )
    parts: list[RenderableType] = [
        Text(f"{shown['name']} · {shown['endpoint']} · {len(shown['gateways'])} gateways"),
        tiers,
        replicas,
    ]
    if shown["stale"]:
        parts.insert(1, Text("Ray Serve has not been heard of for a while", "yellow"))
    if shown["decisions"]:
        scaled = table("autoscaler", "clock", "pool", "wanted", "why")
        for each in shown["decisions"]:
            sizes = f"{each['before']} → {each['wanted']}"
            scaled.add_row(each["clock"], each["pool"], sizes, each["why"])
        parts.append(scaled)
    return Group(*parts)


_KEPT = ("served", "ttft", "tpot")
_WORDS = ("model", "tier", "replica", "pool", "state", "clock", "why")


def _percent(share: float | None) -> "RenderableType":
    from rich.text import Text

    if share is None:
        return Text("–", "dim")
    return Text(f"{share:.1%}", "green" if share >= 0.99 else "yellow" if share >= 0.95 else "red")
