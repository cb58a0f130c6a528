"""What the routing policy achieves against its targets, in the simulator.

``python -m benchmarks.routing [--quick] [--json FILE] [--only g2,g3] [--seeds N] [--jobs N]`` runs
the production router in simulated clusters and prints every figure with its 95 % interval
(Student's t over the seeds) beside its target. Rates are searched for, never set: a capacity is the
highest rate at which 95 % of every tier's requests keep their objectives, for each seed by itself.
``--quick`` takes 1 seed, a sixth of the time, a coarse grid and one policy to compare with: too
little for a steady state, so its figures only show that everything runs.

The scenarios are in `benchmarks/routing_cases/scenarios.py`; coverage of the predicted lengths is
in `benchmarks/prediction.py`.
"""

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.measure import arguments
from benchmarks.routing_cases import g2, g3, g4, g11, oracle
from benchmarks.routing_cases.context import Context
from benchmarks.routing_cases.rows import Row
from benchmarks.routing_cases.runs import Runs
from benchmarks.routing_cases.scenarios import OTHERS
from benchmarks.routing_cases.search import Search

Part = Callable[[Context], Awaitable[list[Row]]]

GOALS: Mapping[str, tuple[tuple[str, Part], ...]] = {
    "g2": (
        ("G2: capacity, mixed tiers", g2.mixed_tiers),
        ("G2: capacity in other regimes", g2.other_regimes),
    ),
    "g3": (("G3: late, missing and divided news", g3.news),),
    "g4": (("G4: overload", g4.overload),),
    "g11": (("G11: tenants", g11.tenants),),
    "predict": (("Lengths: predicted against known", oracle.regret),),
}

SEEDS, FEW, RATIO = 10, 3, 1.05
QUICK_SEEDS, QUICK_FEW, QUICK_RATIO = 1, 1, 1.15
QUICK_OTHERS = ("prefix-affinity",)
"""With --quick: fewer policies to compare with, and a sixth of all times (so warm-ups too)."""
QUICK_TIME_FACTOR = 1 / 6


async def table(
    context: Context,
    wanted: list[str],
    on_part: Callable[[tuple[str, list[Row]]], None] = lambda part: None,
) -> list[tuple[str, list[Row]]]:
    """The rows of the goals ``wanted``, under their titles; ``on_part`` hears of each."""

    async def one(title: str, run: Part) -> tuple[str, list[Row]]:
        part = title, await run(context)
        on_part(part)
        return part

    parts = [part for goal in wanted for part in GOALS[goal]]
    return await asyncio.gather(*(one(title, run) for title, run in parts))


def show(tables: list[tuple[str, list[Row]]]) -> None:
    """Print the tables, and how many targets are met."""
    console = Console(width=160)
    columns = ("", "target", "figure", "95 %", "", "what bounds it")
    for title, rows in tables:
        drawn = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            drawn.add_column(column, justify="right" if index in (1, 2) else "left")
        for row in rows:
            drawn.add_row(*row.cells(), style="" if row.target is None else "bold")
        console.print(drawn)
    verdicts = [row.says() for _, rows in tables for row in rows if row.target is not None]
    met = sum(verdict.startswith("met") for verdict in verdicts)
    console.print(f"{met} of {len(verdicts)} targets met ('?': the interval reaches across it)")


def figures(tables: list[tuple[str, list[Row]]]) -> dict[str, dict[str, object]]:
    """For the JSON file: every figure with its interval, target and verdict."""
    return {
        row.name: {
            "mean": finite(row.figure.mean) if row.figure else None,
            "half_width": finite(row.figure.half_width) if row.figure else None,
            "n": row.figure.n if row.figure else 0,
            "target": row.target.value if row.target else None,
            "verdict": row.says(),
            "note": row.note,
        }
        for _, rows in tables
        for row in rows
    }


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def parse() -> argparse.Namespace:
    parser = arguments(__doc__.split("\n\n")[0])
    parser.add_argument(
        "--only", default=",".join(GOALS), help=f"goals, of {', '.join(GOALS)}; default: all"
    )
    parser.add_argument("--seeds", type=int, help=f"default: {SEEDS}, with --quick {QUICK_SEEDS}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    settings = parser.parse_args()
    settings.only = settings.only.split(",")
    unknown = [goal for goal in settings.only if goal not in GOALS]
    if unknown:
        parser.error(f"no goal {', '.join(unknown)}; there are {', '.join(GOALS)}")
    return settings


def main() -> None:
    settings = parse()
    count, few, ratio, factor = SEEDS, FEW, RATIO, 1.0
    others: Sequence[str] = OTHERS
    if settings.quick:
        count, few, ratio, others = QUICK_SEEDS, QUICK_FEW, QUICK_RATIO, QUICK_OTHERS
        factor = QUICK_TIME_FACTOR
    seeds = range(1, (settings.seeds or count) + 1)
    started = time.perf_counter()
    progress = Progress(
        TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(file=sys.stderr), transient=True,
    )  # fmt: skip
    with progress:
        task = progress.add_task("", total=None)

        def on_run(done: int, known: int) -> None:
            progress.update(task, completed=done, total=known)

        with Runs(settings.jobs, time_factor=factor, on_run=on_run) as runs:
            context = Context(runs, Search(runs, ratio), seeds, seeds[:few], others)
            ended: list[tuple[str, list[Row]]] = []

            def on_part(part: tuple[str, list[Row]]) -> None:
                # At once: the whole takes long, and what is known should outlive an interruption.
                ended.append(part)
                if settings.json is not None:
                    settings.json.write_text(json.dumps(figures(ended), indent=1) + "\n")

            tables = asyncio.run(table(context, settings.only, on_part))
    show(tables)
    print(f"{time.perf_counter() - started:.0f} s with {settings.jobs} processes")


if __name__ == "__main__":
    main()
