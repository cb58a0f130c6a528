"""G2: capacity against other policies and the fluid bound, and six other kinds of traffic."""

import asyncio
import math
from collections.abc import Sequence
from statistics import fmean

from autoscaling.simulator.compare import Interval, interval, ratio
from benchmarks.routing_cases.context import Context
from benchmarks.routing_cases.fluid import router_bound, true_bound
from benchmarks.routing_cases.measured import what_bounds
from benchmarks.routing_cases.rows import Row, Target
from benchmarks.routing_cases.scenarios import MIXED, OURS, Case, regimes
from benchmarks.routing_cases.search import Capacity

AGAINST_OTHERS = Target(1.5)
AGAINST_BOUND = Target(0.95)
AGAINST_BEST = Target(0.98)


async def mixed_tiers(context: Context) -> list[Row]:
    """Capacity of every policy where the tiers' objectives differ."""
    policies = (OURS, *context.others)
    found = await asyncio.gather(
        *(context.search.capacity(MIXED, policy, context.seeds) for policy in policies)
    )
    ours = found[0]
    rows = [_capacity(MIXED, each) for each in found]
    for other in found[1:]:
        figure = ratio(ours.per_s, other.per_s)
        rows.append(
            Row("G2", f"capacity, times that of {other.policy}", figure, AGAINST_OTHERS, "×")
        )
    return rows + _against_bounds(ours)


def _against_bounds(ours: Capacity) -> list[Row]:
    """The capacity as a part of the fluid bounds, by two views of what running requests hold."""
    rows = []
    for of, bound in (
        ("by capacity.py", router_bound(MIXED.scenario)),
        ("with true contexts", true_bound(MIXED.scenario)),
    ):
        whole, parts = bound.whole_per_s, ":".join(map(str, bound.parts))
        fractions = f"{bound.fractional_per_s:.1f} req/s with fractions of replicas"
        part = interval([each / whole for each in ours.per_s.values()])
        note = f"replicas low:medium:high {parts}; {fractions}"
        rows += [
            Row("G2", f"fluid bound {of}", Interval(whole, math.nan, 1), unit="req/s", note=note),
            Row("G2", f"capacity, part of the fluid bound {of}", part, AGAINST_BOUND, "×",
                what_bounds(ours.above)),
        ]  # fmt: skip
    return rows


async def other_regimes(context: Context, cases: Sequence[Case] | None = None) -> list[Row]:
    """Capacity against the best of all policies in other kinds of traffic."""
    each = await asyncio.gather(*(_regime(context, case) for case in cases or regimes()))
    return [row for rows in each for row in rows]


async def _regime(context: Context, case: Case) -> list[Row]:
    policies = (OURS, *context.others)
    search = context.search
    found = await asyncio.gather(
        *(search.capacity(case, policy, context.few) for policy in policies)
    )
    # The rest are shown with the few seeds that say which other is the best.
    rival = max(found[1:], key=lambda each: fmean(each.per_s.values())).policy
    full = await asyncio.gather(
        *(search.capacity(case, policy, context.seeds) for policy in (OURS, rival))
    )
    measured = {each.policy: each for each in (*found, *full)}
    rows = [_capacity(case, measured[policy]) for policy in policies]
    ours, other = full
    rows.append(
        Row(
            "G2",
            f"{case.name}: capacity, times the best other's",
            ratio(ours.per_s, other.per_s),
            AGAINST_BEST,
            "×",
            f"best other: {rival}; {what_bounds(ours.above)}",
        )
    )
    return rows


def _capacity(case: Case, found: Capacity) -> Row:
    figure = interval(list(found.per_s.values()))
    note = "just above: " + what_bounds(found.above) if found.above else "no rate is low enough"
    return Row("G2", f"{case.name}: capacity of {found.policy}", figure, unit="req/s", note=note)
