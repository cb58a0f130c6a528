"""G3: what late, missing and divided news cost."""

import asyncio
from typing import Any

from autoscaling.simulator.compare import Interval, interval
from benchmarks.routing_cases.context import Context, goodput
from benchmarks.routing_cases.measured import Measured, what_bounds
from benchmarks.routing_cases.rows import Row, Target
from benchmarks.routing_cases.scenarios import WARMUP_S, mixed_tiers

LOAD = 0.95
"""Part of our capacity that is offered."""

LOST_S = 600.0
SILENCE = {"at_s": WARMUP_S, "for_s": LOST_S}


async def news(context: Context) -> list[Row]:
    """Goodput lost, against the same clients with fresh reports and one gateway."""
    per_s = LOAD * await context.capacity_per_s()

    async def runs(duration_s: float | None = None, **gateways: Any) -> dict[int, Measured]:
        changes: dict[str, Any] = (
            {} if duration_s is None else {"duration_s": duration_s, "cooldown_s": 0.0}
        )
        scenario = mixed_tiers(gateways=gateways, **changes).at_rate(per_s)
        return await context.by_seed(scenario)

    long_s = WARMUP_S + LOST_S
    fresh, old, eight, fresh_long, silent = await asyncio.gather(
        runs(),
        runs(report_age_s=5.0),
        runs(number=8),
        runs(long_s),
        runs(long_s, reports_lost=[SILENCE]),
    )

    def row(what: str, less: dict[int, Measured], base: dict[int, Measured], most: float) -> Row:
        note = what_bounds(less.values())
        return Row("G3", what, lost(less, base), Target(most, at_most=True), "%", note)

    return [
        Row("G3", "offered", interval([per_s]), unit="req/s", note=f"{LOAD:.0%} of our capacity"),
        Row(
            "G3",
            "goodput with fresh reports, one gateway",
            interval(list(goodput(fresh).values())),
            unit="req/s",
            note=what_bounds(fresh.values()),
        ),
        row("goodput lost, reports 5 s old", old, fresh, 0.02),
        row("goodput lost, no reports for 10 min", silent, fresh_long, 0.05),
        row("goodput lost, 8 gateways sharing nothing", eight, fresh, 0.05),
    ]


def lost(runs: dict[int, Measured], base: dict[int, Measured]) -> Interval:
    """The part of the goodput of `base` that `runs` do not have, seed by seed."""
    whole = goodput(base)
    return interval(
        [1.0 - run.goodput_per_s / whole[seed] for seed, run in runs.items() if whole[seed]]
    )
