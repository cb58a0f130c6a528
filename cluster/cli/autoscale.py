"""``trireme autoscale``: what the autoscaler decided and why, and what it would do."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import Fault, chosen, tell

if TYPE_CHECKING:
    from autoscaling.simulator.scaling.study import Row

ASK_TIMEOUT_S = 5.0
PIPED_COLUMNS = 160
_COLUMNS = ("time", "pool", "signals", "load", "ready", "starting", "wanted", "why", "limit")


def decisions(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
    last: Annotated[int, typer.Option(min=1, max=1024, help="How many, the newest first.")] = 20,
) -> None:
    """Show the last decisions: what was seen, what is wanted, and what limits it."""
    found = _asked(name, "decisions")[:last]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for decision in found:
        for pool in decision["pools"]:
            table.add_row(
                decision["clock"],
                pool["pool"],
                decision["freshness"],
                f"{decision['load']:.1f}",
                str(pool["ready"]),
                str(pool["starting"]),
                f"{pool['before']} → {pool['wanted']}",
                pool["why"],
                pool["limited_by"],
            )
    console = Console()
    (console if console.is_terminal else Console(width=PIPED_COLUMNS)).print(table)


def _asked(name: str | None, page: str) -> list[dict[str, Any]]:
    """A page of the autoscaler's listener. Raises ``Fault``."""
    import httpx

    record = chosen(name)
    view = record.read_view() if record.is_held() else None
    if view is None:
        raise Fault(f"cluster {record.name} is not up", 1)
    if view.autoscaler is None:
        raise Fault("no autoscaler runs: set autoscaling.enabled in the configuration", 1)
    try:
        with httpx.Client(trust_env=False, timeout=ASK_TIMEOUT_S) as http:
            answer = http.get(f"{view.autoscaler.ops_url}/{page}").raise_for_status()
    except httpx.HTTPError as error:
        raise Fault(f"the autoscaler does not answer: {error}", 1) from error
    found: list[dict[str, Any]] = answer.json()
    return found


def simulate(
    days: Annotated[int, typer.Option(min=2, max=14, help="Days to play; the first warms up.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the arrivals.")] = 1,
    rate: Annotated[
        float, typer.Option(min=1.0, max=1000.0, help="Mean requests a second on workdays.")
    ] = 60.0,
    cold_start: Annotated[
        float, typer.Option(min=5.0, max=1800.0, help="Seconds until a replica is ready.")
    ] = 300.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here, as JSON.")
    ] = None,
) -> None:
    """Play days of load against the policy, what others do, and a clairvoyant."""
    from autoscaling.simulator.scaling.days import Shape
    from autoscaling.simulator.scaling.study import Task, run

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise Fault(f"{json_file} cannot be written: name a file in a folder that exists")
    tell(f"{days} days, every policy on the same arrivals; this takes a minute or so")
    rows = run(Task(Shape(per_s=rate, days=days), seed, cold_start))
    _show(rows, cold_start)
    if json_file is not None:
        text = json.dumps([_figures(row) for row in rows], indent=1)
        json_file.write_text(text + "\n", encoding="utf-8")
        tell(f"wrote {json_file}")


def _figures(row: "Row") -> dict[str, object]:
    score = row.score
    return {
        "policy": row.name,
        "setting": row.setting,
        "attained": score.attained,
        "gpu_hours": score.gpu_hours,
        "asleep_gpu_hours": score.asleep_gpu_hours,
        "reversals_per_h": score.reversals_per_h,
        "largest": score.largest,
    }


def _show(rows: "Sequence[Row]", cold_start_s: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from autoscaling.simulator.scaling.study import BASELINES, ORACLE, chosen

    oracle = next(row for row in rows if row.name == ORACLE).score.gpu_hours
    table = Table(title=f"Cold start {cold_start_s:g} s", title_justify="left", box=None)
    columns = ("policy", "in objectives", "GPU-hours", "× clairvoyant", "reversals/h", "largest")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for name in dict.fromkeys(row.name for row in rows):
        (row,) = chosen(rows, name, cold_start_s)
        score = row.score
        asleep = f" + {score.asleep_gpu_hours:.0f} asleep" if score.asleep_gpu_hours else ""
        table.add_row(
            f"{name} ({row.setting})" if name in BASELINES else name,
            f"{score.attained:.2%}",
            f"{score.gpu_hours:.0f}{asleep}",
            f"{score.gpu_hours / oracle:.3f}",
            f"{score.reversals_per_h:.2f}",
            str(score.largest),
        )
    console = Console()
    (console if console.is_terminal else Console(width=PIPED_COLUMNS)).print(table)
