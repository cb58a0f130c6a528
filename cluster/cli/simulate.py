"""``trireme simulate``: what a cluster would do, before there is one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.console import Fault, tell

if TYPE_CHECKING:
    from rich.table import Table

    from autoscaling.simulator.batch import Run
    from autoscaling.simulator.scenario import Scenario
    from autoscaling.simulator.tables import Row, Section

# Figures that stand together in one line.
_LINES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("requests", ("requests",)),
    ("within SLO", ("attainment",)),
    ("goodput", ("goodput_per_s",)),
    ("first token, p50 / p90 / p99", ("ttft_p50_s", "ttft_p90_s", "ttft_p99_s")),
    ("first answer token", ("ttfa_p50_s", "ttfa_p90_s", "ttfa_p99_s")),
    ("per token", ("tpot_p50_s", "tpot_p90_s", "tpot_p99_s")),
    ("end to end", ("e2e_p50_s", "e2e_p90_s", "e2e_p99_s")),
    ("refused / expired", ("refused", "expired")),
    ("left / failed / unfinished", ("cancelled", "failed", "unfinished")),
    ("asked again", ("retries",)),
    ("served at a lower tier", ("demoted",)),
    ("wasted tokens", ("wasted_share",)),
    ("preemptions", ("preemptions",)),
    ("prefix hits", ("prefix_hit_rate",)),
    ("GPU-hours", ("gpu_hours",)),
    ("fairness of tenants (Jain)", ("jain",)),
)


def simulate(
    scenario: Annotated[
        str, typer.Argument(help="A scenario's YAML file, or the name of one that comes along.")
    ],
    seed: Annotated[
        int | None, typer.Option(min=0, help="Run this seed alone; 1 if nothing is said.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Run seeds 1 to N and give intervals.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="Policy of the router; give it again to compare.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Runs at once; a core each if not said.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a report here, as HTML.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here, as JSON.")
    ] = None,
) -> None:
    """Simulate a cluster in virtual time, with the router's own code."""
    from autoscaling.simulator.scenario import load_scenario

    if seed is not None and seeds is not None:
        raise Fault("--seed and --seeds do not go together: give one of them")
    for file in (out, json_file):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise Fault(f"{file} cannot be written: name a file in a folder that exists")
    found = load_scenario(_file(scenario))
    policies = _policies(policy or [])
    runs = _run(found, policies, range(1, seeds + 1) if seeds else [seed or 1], jobs)
    _print(found, runs)
    if json_file is not None:
        from autoscaling.simulator.tables import as_json

        tree = as_json(found.model_dump(mode="json"), runs)
        _write(json_file, json.dumps(tree, indent=2) + "\n")
    if out is not None:
        from autoscaling.simulator.report import report

        _write(out, report(found, runs))


def _file(name: str) -> Path:
    from autoscaling.simulator.scenario import ready_scenarios

    ready = ready_scenarios()
    if name in ready and not Path(name).exists():
        return ready[name]
    if not Path(name).is_file():
        raise Fault(f"there is no scenario {name}: name a YAML file, or one of {', '.join(ready)}")
    return Path(name)


def _policies(asked: Sequence[str]) -> list[str]:
    from autoscaling.simulator.world import POLICIES

    for name in asked:
        if name not in POLICIES:
            raise Fault(f"there is no policy {name}: write one of {', '.join(POLICIES)}")
    return list(dict.fromkeys(asked)) or [next(iter(POLICIES))]


def _run(
    scenario: "Scenario", policies: Sequence[str], seeds: Sequence[int], jobs: int | None
) -> "list[Run]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from autoscaling.simulator.batch import run_all

    console = Console(stderr=True)
    columns = (
        TextColumn(scenario.name, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with progress:
        task = progress.add_task("", total=len(policies) * len(seeds))
        return run_all(
            scenario, policies, seeds, jobs=jobs, on_run=lambda run: progress.advance(task)
        )


def _print(scenario: "Scenario", runs: "Sequence[Run]") -> None:
    from rich.console import Console
    from rich.table import Table

    from autoscaling.simulator.tables import policies_of, sections

    count = len({run.seed for run in runs})
    table = Table(title=f"{scenario.name}, {_seeds(count)}", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    for name in policies_of(runs):
        table.add_column(name, justify="right", no_wrap=True)
    for section in sections(runs):
        _add(table, section)
    wide = Console()
    # A pipe has no width; lines must not be cut there.
    Console(width=None if wide.is_terminal else 60 + 34 * len(policies_of(runs))).print(table)
    slowest_s = max(run.summary.wall_s for run in runs)
    tell(f"{len(runs)} runs of {scenario.duration_s:g} s, the longest in {slowest_s:.1f} s")


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"means over {count} seeds ± 95 % interval"


def _add(table: "Table", section: "Section") -> None:
    rows = {row.name: row for row in section.rows}
    table.add_row(section.title, style="bold")
    for title, names in _LINES:
        line = [rows[name] for name in names if name in rows]
        counts = all(row.unit == "count" for row in line)
        if line and not (counts and not any(cell.mean for row in line for cell in row.cells)):
            columns = range(len(line[0].cells))
            table.add_row(f"  {title}", *(_cell(line, column) for column in columns))
    table.add_section()


def _cell(line: "Sequence[Row]", column: int) -> str:
    from autoscaling.simulator.tables import mark, number, written

    unit = line[0].unit
    if len(line) == 1:
        return written(line[0].cells[column], unit)
    return " / ".join(number(row.cells[column].mean, unit) for row in line) + mark(unit)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Fault(f"{file} cannot be written: {error.strerror}", 1) from error
    tell(f"wrote {file}")
