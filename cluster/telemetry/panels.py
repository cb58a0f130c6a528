"""What the dashboards show: panels as data, apart from how Grafana writes them.

Queries hold Grafana's variables: ``$model``, ``$pool`` and ``$tier`` in label matchers, and
``$__rate_interval``. ``filled`` puts values in their place, for who asks Prometheus directly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "stacked", "number"]

M = 'model=~"$model"'
MT = 'model=~"$model",tier=~"$tier"'
MP = 'model=~"$model",pool=~"$pool"'
WINDOW = "[$__rate_interval]"
MISSED = "tier:trireme_objectives_missed:ratio_rate5m"


@dataclass(frozen=True)
class Query:
    """``legend`` may hold labels, such as ``{{tier}}``."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """``description`` says what to do when the panel looks wrong. ``limits`` are the values from
    which it is yellow and red; falling ones mean that less is worse."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    limits: tuple[float, float] | None = None
    link: str = ""


@dataclass(frozen=True)
class Board:
    """A dashboard: titled rows of panels. ``uid`` is part of its address."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    def panels(self) -> Iterator[Panel]:
        for _, panels in self.rows:
            yield from panels


def filled(expr: str, window: str = "1m") -> str:
    """``expr`` for all models, pools and tiers, with rates over ``window``."""
    for name in ("model", "pool", "tier"):
        expr = expr.replace(f"${name}", ".+")
    return expr.replace("$__rate_interval", window)


def rate(metric: str, by: str, only: str) -> str:
    """Per second, summed up."""
    return f"sum by ({by}) (rate({metric}{{{only}}}{WINDOW}))"


def quantile(level: float, metric: str, by: str, only: str) -> str:
    """A quantile of a histogram, over all processes."""
    buckets = f"rate({metric}_bucket{{{only}}}{WINDOW})"
    inner = f"sum by (le, {by}) ({buckets})" if by else f"sum by (le) ({buckets})"
    return f"histogram_quantile({level:g}, {inner})"


def quantiles(metric: str, by: str, only: str, legend: str) -> tuple[Query, ...]:
    """Median, 90 % and 99 %."""
    return tuple(
        Query(quantile(level, metric, by, only), f"{legend} p{100 * level:g}".strip())
        for level in (0.5, 0.9, 0.99)
    )
