"""What the autoscaling policy costs and keeps, against other policies and a clairvoyant.

``python -m benchmarks.autoscaling [--quick] [--json FILE] [--seeds N] [--jobs N]`` plays 14 days of
load (see `autoscaling/simulator/scaling/days.py`) with cold starts of 300 and 100 s: the production
policy, the same without its forecast and with sleeping standbys, what others do (each with several
settings, of which the best is shown), a static peak, and a clairvoyant who knows every arrival.
All meet the same arrivals; the first day counts for none. Figures are means over the seeds with
95 % intervals (Student's t); ratios are paired by seed. Days are played by a tick model, which is
then compared with the event simulator on some hours. ``--quick`` takes 1 seed, 3 days, one cold
start and 30 minutes of single requests: its figures only show that everything runs.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from autoscaling.simulator.compare import Interval, interval
from autoscaling.simulator.scaling import agree, days
from autoscaling.simulator.scaling.days import DAY_S, HOUR_S, Shape
from autoscaling.simulator.scaling.study import (
    BASELINES,
    ORACLE,
    ORACLE_WHOLE,
    OURS,
    REACTIVE,
    STANDBYS,
    STATIC,
    TARGET,
    Row,
    Task,
    chosen,
    run_all,
    settings,
)
from benchmarks.measure import arguments

SEEDS = 5
COLD_STARTS_S = (300.0, 100.0)
GOALS = {300.0: 1.12, 100.0: 1.10}
STANDBY_GOAL = 1.00
STANDBY_SHARES = (0.0, 0.1, 0.25)
"""What a sleeping replica is charged of its GPUs: nothing, if another pool or a batch job has them
meanwhile; the truth depends on the site."""

REVERSALS_PER_H = 1.0


def ratios(rows: Sequence[Row], others: Sequence[Row], share: float = 0.0) -> Interval:
    """GPU-hours of ``rows`` over those of ``others``, seed by seed; sleepers cost ``share``."""
    by_seed = {row.seed: row.score.gpu_hours for row in others}
    return interval(
        [
            (row.score.gpu_hours + share * row.score.asleep_gpu_hours) / by_seed[row.seed]
            for row in rows
        ]
    )


def shown(found: Interval, digits: int = 3, factor: float = 1.0) -> str:
    text = f"{factor * found.mean:.{digits}f}"
    if math.isnan(found.half_width):
        return text
    return f"{text} ± {factor * found.half_width:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Line:
    """One policy at one cold start, over the seeds."""

    policy: str
    setting: str
    cold_start_s: float
    attained: Interval
    over_clairvoyant: Interval
    over_never_late: Interval
    gpu_hours: Interval
    asleep_gpu_hours: Interval
    reversals_per_h: Interval
    worst_hour: int
    largest: int


def lines_of(rows: Sequence[Row], cold_start_s: float) -> list[Line]:
    """For the table and for JSON."""
    oracle, whole = (chosen(rows, name, cold_start_s) for name in (ORACLE, ORACLE_WHOLE))
    lines = []
    for name in (ORACLE, ORACLE_WHOLE, STATIC, *BASELINES, REACTIVE, OURS, STANDBYS):
        found = chosen(rows, name, cold_start_s)
        lines.append(
            Line(
                name,
                found[0].setting if name in BASELINES else "",
                cold_start_s,
                interval([row.score.attained for row in found]),
                ratios(found, oracle),
                ratios(found, whole),
                interval([row.score.gpu_hours for row in found]),
                interval([row.score.asleep_gpu_hours for row in found]),
                interval([row.score.reversals_per_h for row in found]),
                max(row.score.worst_hour for row in found),
                max(row.score.largest for row in found),
            )
        )
    return lines


def table_of(lines: Sequence[Line], cold_start_s: float) -> Table:
    table = Table(
        title=f"Cold start {cold_start_s:g} s: GPU-hours over those of a clairvoyant who keeps "
        f"{TARGET:.1%}, and over those of one who is never late",
        title_justify="left",
    )
    for index, column in enumerate(
        ("policy", "in objectives, %", "× clairvoyant", "× never late", "reversals/h", "in worst h")
    ):
        table.add_column(column, justify="left" if index == 0 else "right")
    for line in lines:
        table.add_row(
            f"{line.policy} ({line.setting})" if line.setting else line.policy,
            shown(line.attained, 2, 100.0),
            shown(line.over_clairvoyant),
            shown(line.over_never_late),
            shown(line.reversals_per_h, 2),
            str(line.worst_hour),
            style="bold" if line.policy.startswith("ours") else "",
        )
    return table


def verdicts(rows: Sequence[Row], cold_starts_s: Sequence[float]) -> list[tuple[str, str, str]]:
    """What was asked for, what is, and whether it was met."""
    found: list[tuple[str, str, str]] = []
    for cold_start_s in cold_starts_s:
        oracle = chosen(rows, ORACLE, cold_start_s)
        mine = chosen(rows, OURS, cold_start_s)
        over = ratios(mine, oracle)
        attained = interval([row.score.attained for row in mine])
        turned = interval([row.score.reversals_per_h for row in mine])
        goal, start = GOALS[cold_start_s], f"{cold_start_s:g} s"
        found += [
            (f"{start}: ≥ {TARGET:.1%} in objectives", shown(attained, 2, 100.0) + " %",
             _met(attained.mean >= TARGET)),
            (f"{start}: ≤ {goal:.2f} × clairvoyant", shown(over), _met(over.mean <= goal)),
            (f"{start}: ≤ {REVERSALS_PER_H:g} reversal an hour", shown(turned, 2),
             _met(turned.mean <= REVERSALS_PER_H)),
        ]  # fmt: skip
    if 300.0 in cold_starts_s:
        asleep, oracle = chosen(rows, STANDBYS, 300.0), chosen(rows, ORACLE, 300.0)
        for share in STANDBY_SHARES:
            over = ratios(asleep, oracle, share)
            name = f"standbys at {share:.0%} of their GPUs: ≤ {STANDBY_GOAL:.2f} × clairvoyant"
            found.append((name, shown(over), _met(over.mean <= STANDBY_GOAL)))
    return found


def _met(is_met: bool) -> str:
    return "met" if is_met else "NOT met"


def agreement(seed: int, hours: float, at_h: float, cold_start_s: float) -> agree.Agreement:
    """A smaller cluster, so that single requests can be played."""
    scenario = agree.scenario_of(
        Shape(per_s=15.0), seed, at_h * HOUR_S, hours, cold_start_s, replicas=6
    )
    return agree.compare(scenario, seed, settings(forecast=False), at_h * HOUR_S)


def play(tasks: Sequence[Task], jobs: int | None) -> list[Row]:
    progress = Progress(
        TextColumn("days"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(file=sys.stderr), transient=True,
    )  # fmt: skip
    with progress:
        line = progress.add_task("", total=len(tasks))
        return run_all(tasks, jobs, lambda _: progress.advance(line))


def main() -> None:
    parser = arguments(__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, help=f"default: {SEEDS}, with --quick 1")
    parser.add_argument("--jobs", type=int, help="processes; default: a core each")
    options = parser.parse_args()
    started = time.perf_counter()
    seeds = range(1, (options.seeds or (1 if options.quick else SEEDS)) + 1)
    cold_starts_s = COLD_STARTS_S[:1] if options.quick else COLD_STARTS_S
    shape = Shape(days=3) if options.quick else Shape()
    tasks = [
        Task(shape, seed, cold_start_s, DAY_S) for cold_start_s in cold_starts_s for seed in seeds
    ]
    console = Console(width=132)
    stats = days.statistics(days.arrivals(shape, seeds[0]))
    console.print(
        f"{shape.days} days, {len(seeds)} seeds; seed {seeds[0]}: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in stats.items())
    )
    rows = play(tasks, options.jobs)
    lines = [each for start_s in cold_starts_s for each in lines_of(rows, start_s)]
    for start_s in cold_starts_s:
        console.print(table_of([line for line in lines if line.cold_start_s == start_s], start_s))
    asked = verdicts(rows, cold_starts_s)
    _print_verdicts(console, asked)
    agreements = _agreements(console, options.quick)
    console.print(f"{time.perf_counter() - started:.0f} s")
    if options.json is not None:
        _write(options.json, lines, asked, agreements, stats)


def _print_verdicts(console: Console, asked: Sequence[tuple[str, str, str]]) -> None:
    table = Table(title="What was asked for", title_justify="left")
    for column in ("", "is", ""):
        table.add_column(column)
    for row in asked:
        table.add_row(*row)
    console.print(table)


def _agreements(console: Console, quick: bool) -> list[agree.Agreement]:
    """Hours of the first and second day, ramps and a noon peak."""
    cases = [(1, 0.5, 8.0)] if quick else [(1, 1.0, 7.5), (2, 1.0, 13.0), (3, 1.0, 31.5)]
    found = [agreement(seed, hours, at_h, 100.0) for seed, hours, at_h in cases]
    table = Table(
        title="The tick model against the event simulator, reactive policy, cold start 100 s",
        title_justify="left",
    )
    for column in (
        "seed, from hour", "requests", "in objectives: events", "ticks", "GPU-hours: events",
        "ticks", "difference",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for (seed, _, at_h), each in zip(cases, found, strict=True):
        table.add_row(
            f"{seed}, {at_h:g}",
            str(each.requests),
            f"{each.events_attained:.2%}",
            f"{each.ticks_attained:.2%}",
            f"{each.events_gpu_hours:.1f}",
            f"{each.ticks_gpu_hours:.1f}",
            f"{each.ticks_gpu_hours / each.events_gpu_hours - 1.0:+.1%}",
        )
    console.print(table)
    return found


def _write(
    file: Path,
    lines: Sequence[Line],
    asked: Sequence[tuple[str, str, str]],
    agreements: Sequence[agree.Agreement],
    stats: dict[str, float],
) -> None:
    tree = {
        "load": stats,
        "policies": [asdict(line) for line in lines],
        "goals": [{"goal": goal, "is": found, "verdict": said} for goal, found, said in asked],
        "agreement": [asdict(each) for each in agreements],
    }
    text = json.dumps(tree, indent=1)
    # JSON has no NaN: an interval of one seed has no width.
    file.write_text(text.replace("NaN", "null") + "\n")


if __name__ == "__main__":
    main()
