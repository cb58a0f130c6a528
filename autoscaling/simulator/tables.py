"""Figures of many runs as written numbers, for the terminal and for reports."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoscaling.simulator.batch import Run
from autoscaling.simulator.compare import Interval, interval, ratio
from autoscaling.simulator.metrics import RUN_METRICS, TIER_METRICS, Unit
from autoscaling.simulator.summary import Figures, Summary
from cluster.config import TIERS, Tier

NOTHING = "–"

_SCALE: dict[Unit, tuple[float, str]] = {
    "share": (100.0, " %"),
    "ms": (1000.0, " ms"),
    "s": (1.0, " s"),
    "per_s": (1.0, " /s"),
    "count": (1.0, ""),
    "hours": (1.0, " h"),
    "index": (1.0, ""),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, and what each policy reached."""

    name: str
    title: str
    unit: Unit
    cells: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of one tier; ``tier`` is None for all of them together."""

    title: str
    tier: Tier | None
    rows: tuple[Row, ...]


def policies_of(runs: Sequence[Run]) -> list[str]:
    """The policies, in the order in which they were asked for."""
    return list(dict.fromkeys(run.policy for run in runs))


def values(runs: Sequence[Run], policy: str, of: Callable[[Summary], float]) -> dict[int, float]:
    """A figure of each seed's run."""
    return {run.seed: of(run.summary) for run in runs if run.policy == policy}


def figures_of(tier: Tier | None) -> Callable[[Summary], Figures]:
    """What picks a tier's figures from a run's; None: those over all tiers."""
    if tier is None:
        return lambda summary: summary.overall
    return lambda summary: summary.tiers[tier]


def sections(runs: Sequence[Run]) -> list[Section]:
    """Everything that was measured: over all, then each tier that was asked for."""
    asked = [tier for tier in TIERS if any(run.summary.tiers[tier].requests for run in runs)]
    found = [_section(runs, None)]
    # With one tier, its figures are those over all.
    if len(asked) > 1:
        found += [_section(runs, tier) for tier in asked]
    return found


def _section(runs: Sequence[Run], tier: Tier | None) -> Section:
    policies, pick = policies_of(runs), figures_of(tier)
    rows = []
    for metric in TIER_METRICS:

        def of(summary: Summary, get: Callable[[Figures], float] = metric.of) -> float:
            return get(pick(summary))

        cells = tuple(_interval(runs, policy, of) for policy in policies)
        rows.append(Row(metric.name, metric.title, metric.unit, cells))
    if tier is None:
        for whole in RUN_METRICS:
            cells = tuple(_interval(runs, policy, whole.of) for policy in policies)
            rows.append(Row(whole.name, whole.title, whole.unit, cells))
    return Section(f"{tier} effort" if tier else "all tiers", tier, tuple(rows))


def _interval(runs: Sequence[Run], policy: str, of: Callable[[Summary], float]) -> Interval:
    return interval(list(values(runs, policy, of).values()))


def goodput_ratios(runs: Sequence[Run]) -> dict[str, Interval]:
    """Each policy's goodput over the first one's, on the same arrivals."""
    first, *others = policies_of(runs)
    base = values(runs, first, lambda summary: summary.overall.goodput_per_s)
    return {
        policy: ratio(values(runs, policy, lambda summary: summary.overall.goodput_per_s), base)
        for policy in others
    }


def written(found: Interval, unit: Unit) -> str:
    """The mean with its interval, such as `95.2 ± 0.4 %`."""
    if math.isnan(found.mean):
        return NOTHING
    scale, mark = _SCALE[unit]
    mean, half_width = found.mean * scale, found.half_width * scale
    decimals = _decimals(mean, unit)
    text = f"{mean:,.{decimals}f}"
    if not math.isnan(half_width):
        text += f" ± {half_width:,.{decimals}f}"
    return text + mark


def number(value: float, unit: Unit) -> str:
    """A single figure, without its unit's mark."""
    if math.isnan(value):
        return NOTHING
    scaled = value * _SCALE[unit][0]
    return f"{scaled:,.{_decimals(scaled, unit)}f}"


def mark(unit: Unit) -> str:
    """The unit's mark, such as ` ms`."""
    return _SCALE[unit][1]


def _decimals(value: float, unit: Unit) -> int:
    if unit == "count":
        return 0 if value == round(value) else 1
    if unit == "share":
        return 1
    if unit == "index":
        return 3
    # Three figures: 1,234 and 123 and 12.3 and 1.23 and 0.123.
    size = abs(value)
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3


def as_json(scenario: Any, runs: Sequence[Run]) -> dict[str, Any]:
    """Everything in one tree of plain values; a figure that does not exist is null."""
    policies = policies_of(runs)
    tree: dict[str, Any] = {"scenario": scenario, "policies": {}}
    for column, policy in enumerate(policies):
        mine = [run for run in runs if run.policy == policy]
        tree["policies"][policy] = {
            "seeds": [run.seed for run in mine],
            "wall_s": [run.summary.wall_s for run in mine],
            "figures": {
                section.tier or "all": {
                    row.name: {
                        "mean": _plain(row.cells[column].mean),
                        "half_width": _plain(row.cells[column].half_width),
                    }
                    for row in section.rows
                }
                for section in sections(runs)
            },
            "tenants": [
                {
                    name: {
                        "requests": tenant.requests,
                        "attainment": _plain(tenant.attainment),
                        "work": tenant.work,
                    }
                    for name, tenant in run.summary.tenants.items()
                }
                for run in mine
            ],
        }
    return tree


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
