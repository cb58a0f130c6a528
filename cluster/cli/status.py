"""``trireme status``: what runs, how it is, and how much waits."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import chosen

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.run_state import FleetView, RunState

ASK_TIMEOUT_S = 2.0
PIPED_COLUMNS = 200

STALE_S = 15.0
"""A view older than this means that the supervisor hears nothing from Ray Serve."""


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
) -> None:
    """Show replicas, tiers and gateways. Exit code 1 when the cluster is not up."""
    record = chosen(name)
    state = record.read() if record.is_held() else None
    if state is None:
        print(json.dumps({"up": False, "name": record.name}) if as_json else "not up")
        raise typer.Exit(1)
    shown = collected(state, record.read_view())
    if as_json:
        print(json.dumps(shown, indent=2))
    else:
        from rich.console import Console

        # Piped, lines are as long as they need to be.
        console = Console()
        show(shown, console if console.is_terminal else Console(width=PIPED_COLUMNS))
    if not shown["up"]:
        raise typer.Exit(1)


SHOWN_OF_GATEWAY = ("gateway", "ready", "generations", "access", "ops_url")
"""What is told of each gateway by itself; the rest is summed over them."""


def collected(state: "RunState", view: "FleetView | None") -> dict[str, Any]:
    """Everything that ``status`` tells: the state file, Serve's view, each process's own word."""
    urls = [] if view is None else [each.ops_url for each in view.replicas]
    said = ask([f"{url}/status" for url in urls])
    return collected_from(state, view, {url: said[f"{url}/status"] for url in urls})


def collected_from(
    state: "RunState", view: "FleetView | None", said: dict[str, dict[str, Any] | None]
) -> dict[str, Any]:
    """The same, where each process's answer is known already, by the URL of its listener."""
    from deployments.names import GATEWAY

    gateways = []
    replicas = []
    for each in view.replicas if view is not None else ():
        answer = said[each.ops_url]
        entry = answer or {"ops_url": each.ops_url, "healthy": False}
        if each.deployment == GATEWAY:
            gateways.append({"gateway": each.replica_id, "ready": False} | entry)
        else:
            replicas.append({"replica": each.replica_id} | entry)
    return {
        "up": state.phase == "ready",
        "name": state.name,
        "phase": state.phase,
        "endpoint": f"{state.url}/v1",
        "started_at": state.started_at,
        "config": state.config,
        "supervisor_pid": state.supervisor_pid,
        "application": view.application if view is not None else "NOT_STARTED",
        "stale": view is None or time.time() - view.taken_at > STALE_S,
        "deployments": [
            {
                "name": each.name,
                "status": each.status,
                "running": each.running,
                "wanted": each.wanted,
            }
            for each in (view.deployments if view is not None else ())
        ],
        "replicas": sorted(replicas, key=lambda r: (r.get("pool", ""), r["replica"])),
        "tiers": tiers(gateways),
        "gateways": [{key: each.get(key) for key in SHOWN_OF_GATEWAY} for each in gateways],
    }


def tiers(gateways: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Queued and in flight per model and tier, summed over the gateways."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}

    def of(model: str, tier: str) -> dict[str, Any]:
        empty = {"model": model, "tier": tier, "queued": 0, "in_flight": 0, "oldest_wait_s": 0.0}
        return sums.setdefault((model, tier), empty)

    for gateway in gateways:
        for queue in gateway.get("queues", ()):
            entry = of(queue["model"], queue["tier"])
            entry["queued"] += queue["queued"]
            entry["oldest_wait_s"] = max(entry["oldest_wait_s"], queue["oldest_wait_s"])
        for replica in gateway.get("replicas", ()):
            for tier, count in replica["tiers"].items():
                of(replica["model"], tier)["in_flight"] += count
    return list(sums.values())


def ask(urls: list[str]) -> dict[str, Any]:
    """What stands at each URL (JSON); None for one that does not answer within two seconds."""
    import asyncio

    import httpx

    async def one(http: httpx.AsyncClient, url: str) -> Any:
        try:
            return (await http.get(url)).raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return None

    async def every() -> list[Any]:
        async with httpx.AsyncClient(timeout=ASK_TIMEOUT_S, trust_env=False) as http:
            return await asyncio.gather(*(one(http, url) for url in urls))

    return dict(zip(urls, asyncio.run(every()), strict=True))


def show(shown: dict[str, Any], console: "Console") -> None:
    """``shown`` as tables."""
    from rich import box
    from rich.table import Table

    def table(*columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
        for column in columns:
            made.add_column(column)
        return made

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    say(f"{shown['name']} · {shown['phase']} · {shown['endpoint']} · since {shown['started_at']}")
    if shown["stale"]:
        say("Ray Serve has not been heard of for a while; what follows may be old")
    for each in shown["deployments"]:
        if each["running"] < each["wanted"]:
            say(f"{each['name']}: {each['running']} of {each['wanted']} run ({each['status']})")
    replicas = table("replica", "pool", "engine", "healthy", "running", "waiting", "KV", "ops")
    for each in shown["replicas"]:
        kv = each.get("kv_use")
        replicas.add_row(
            each["replica"],
            each.get("pool", "?"),
            each.get("engine", "?"),
            "yes" if each["healthy"] else "no",
            str(each.get("running", "?")),
            str(each.get("waiting", "?")),
            "?" if kv is None else f"{kv:.0%}",
            each["ops_url"],
        )
    console.print(replicas, highlight=False)
    waiting = table("model", "tier", "queued", "oldest", "in flight")
    for each in shown["tiers"]:
        waiting.add_row(
            each["model"],
            each["tier"],
            str(each["queued"]),
            f"{each['oldest_wait_s']:.1f} s",
            str(each["in_flight"]),
        )
    console.print(waiting, highlight=False)
    gateways = table("gateway", "ready", "generations", "ops")
    for each in shown["gateways"]:
        gateways.add_row(
            each["gateway"],
            "yes" if each["ready"] else "no",
            str(each["generations"]),
            each["ops_url"],
        )
    console.print(gateways, highlight=False)
    for each in shown["gateways"]:
        for line in access_faults(each.get("access")):
            say(f"{each['gateway']}: {line}")


def access_faults(access: dict[str, Any] | None) -> list[str]:
    """What hinders a gateway in knowing who may call."""
    found: list[str] = []
    if access is None:
        return found
    if access["store"] == "away":
        knows = "goes on with what it knows" if access["known"] else "knows nobody"
        found.append(
            f"the store has not answered for {access['away_s']:.0f} s, and the gateway {knows}: "
            f"{access['error']}"
        )
    if not access["secret_fits"]:
        found.append("the access secret is not the one that keys were made with: none is good")
    if access["identity_provider"] and access["identity_provider"]["error"]:
        found.append("the identity provider's keys cannot be fetched")
    return found
