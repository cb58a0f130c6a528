"""Policies side by side on the same days, over seeds and cold starts."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from autoscaling.policy import PolicySettings
from autoscaling.simulator.scaling import days
from autoscaling.simulator.scaling.days import DAY_S, Shape
from autoscaling.simulator.scaling.runs import (
    Case,
    Score,
    clairvoyant,
    kind_of,
    ours,
    play,
)
from autoscaling.simulator.scaling.scalers import (
    OneByOne,
    OngoingRequests,
    QueueLength,
    Scaler,
    Static,
    TargetUse,
)

TARGET = 0.995

Make = Callable[[], Scaler]

OURS, REACTIVE, STANDBYS = "ours", "ours, reactive only", "ours, with standbys"
ORACLE, ORACLE_WHOLE, STATIC = "clairvoyant", "clairvoyant, nothing late", "static peak"


def settings(*, forecast: bool) -> PolicySettings:
    return PolicySettings(target=TARGET, forecast=forecast)


BASELINES: Mapping[str, Mapping[str, Make]] = {
    "Serve's default": {
        f"{target} ongoing": partial(OngoingRequests, target) for target in (40, 55, 70, 85)
    },
    "queue-length HPA": {
        f"{waiting} waiting, {running} running": partial(QueueLength, waiting, running)
        for waiting, running in ((3, 50), (3, 70), (5, 90))
    },
    "TTFT ±1": {
        f"down below {use:.0%} of the seats": partial(OneByOne, 300.0, use)
        for use in (0.5, 0.6, 0.7)
    },
    "target use": {
        f"{use:.0%} of the seats": partial(TargetUse, use) for use in (0.55, 0.6, 0.65, 0.7)
    },
}
"""Each with several settings; a table shows the cheapest that keeps the target, or else the one
that keeps most: what an operator who tries all of them would end up with."""


@dataclass(frozen=True, slots=True)
class Row:
    """One policy with one setting, on one seed and cold start."""

    name: str
    setting: str
    seed: int
    cold_start_s: float
    score: Score


@dataclass(frozen=True, slots=True)
class Task:
    """A seed and a cold start: everything that is compared there shares the arrivals."""

    shape: Shape
    seed: int
    cold_start_s: float
    warmup_s: float = DAY_S
    baselines: bool = True


def run(task: Task) -> list[Row]:
    """All policies on one seed's days."""
    case = Case(
        days.arrivals(task.shape, task.seed),
        kind_of(),
        task.cold_start_s,
        task.seed,
        task.warmup_s,
    )
    rows: list[Row] = []

    def add(name: str, setting: str, score: Score) -> None:
        rows.append(Row(name, setting, task.seed, task.cold_start_s, score))

    known = clairvoyant(case, TARGET)
    add(ORACLE, "", known.least)
    add(ORACLE_WHOLE, "", known.whole)
    start = max(1, round(1.5 * known.mean_need))
    add(STATIC, f"{known.peak} replicas", play(case, Static(known.peak), known.peak))
    if task.baselines:
        for name, variants in BASELINES.items():
            for setting, make in variants.items():
                add(name, setting, play(case, make(), start))
    add(REACTIVE, "", play(case, ours(case, settings(forecast=False)), start))
    add(OURS, "", play(case, ours(case, settings(forecast=True)), start))
    add(STANDBYS, "", play(case, ours(case, settings(forecast=True), max_asleep=1000), start))
    return rows


def run_all(
    tasks: Sequence[Task], jobs: int | None = None, on_done: Callable[[Task], None] = lambda _: None
) -> list[Row]:
    """Every task, a process each as far as there are cores; in the order of the tasks."""
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    if jobs <= 1:
        found = []
        for task in tasks:
            found += run(task)
            on_done(task)
        return found
    done: dict[Task, list[Row]] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = {pool.submit(run, task): task for task in tasks}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            on_done(futures[future])
    return [row for task in tasks for row in done[task]]


def chosen(rows: Sequence[Row], name: str, cold_start_s: float) -> list[Row]:
    """The rows of ``name`` with the setting that an operator would keep, seed by seed."""
    found = [row for row in rows if row.name == name and row.cold_start_s == cold_start_s]
    by_setting: dict[str, list[Row]] = {}
    for row in found:
        by_setting.setdefault(row.setting if name in BASELINES else "", []).append(row)
    if not by_setting:
        return []

    def worth(each: list[Row]) -> tuple[bool, float]:
        attained = sum(row.score.attained for row in each) / len(each)
        hours = sum(row.score.gpu_hours for row in each) / len(each)
        return (attained < TARGET, hours if attained >= TARGET else -attained)

    return min(by_setting.values(), key=worth)


__all__ = [
    "BASELINES",
    "DAY_S",
    "ORACLE",
    "ORACLE_WHOLE",
    "OURS",
    "REACTIVE",
    "STANDBYS",
    "STATIC",
    "TARGET",
    "Row",
    "Task",
    "chosen",
    "run",
    "run_all",
    "settings",
]
