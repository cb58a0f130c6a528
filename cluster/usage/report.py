"""Sums over the store's usage: reports, a tenant's own figures, and what of budgets is spent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

from sqlalchemy import Engine, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute

from cluster.usage.tables import Usage

By = Literal["tenant", "team", "project", "key", "model", "tier", "asked", "outcome", "day"]
BY: tuple[By, ...] = get_args(By)

_COLUMNS: dict[By, InstrumentedAttribute[Any]] = {
    "tenant": Usage.tenant,
    "team": Usage.team,
    "project": Usage.project,
    "key": Usage.key_id,
    "model": Usage.model,
    "tier": Usage.tier_served,
    "asked": Usage.tier_asked,
    "outcome": Usage.outcome,
    "day": Usage.day,
}

MAX_ROWS = 10_000
"""Of one answer."""

DAY_S = 86_400
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Row:
    """Sums of the requests that agree in ``key`` (one text for each ``by``)."""

    key: tuple[str, ...]
    requests: int
    prompt_tokens: int
    cached_tokens: int
    analysis_tokens: int
    final_tokens: int
    gpu_s: float
    cost: float

    @property
    def output_tokens(self) -> int:
        return self.analysis_tokens + self.final_tokens


def month_span(text: str) -> tuple[float, float]:
    """Begin and end of a month (``2026-11``, UTC) in unix seconds. Raises ``ValueError``."""
    begin = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    end = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    return begin.timestamp(), end.timestamp()


def totals(
    engine: Engine, since_s: float, until_s: float, by: Sequence[By], tenant: str | None = None
) -> list[Row]:
    """Of requests that ended from ``since_s`` to before ``until_s``, in unix seconds; sorted by
    their keys. Blocks. Raises ``SQLAlchemyError``."""
    columns = [_COLUMNS[each] for each in by]
    query: Select[Any] = (
        select(
            *columns,
            func.count(),
            *(
                func.coalesce(func.sum(each), 0)
                for each in (
                    Usage.prompt_tokens,
                    Usage.cached_tokens,
                    Usage.analysis_tokens,
                    Usage.final_tokens,
                    Usage.gpu_s,
                    Usage.cost,
                )
            ),
        )
        .where(Usage.at_s >= since_s, Usage.at_s < until_s)
        .group_by(*columns)
        .order_by(*columns)
        .limit(MAX_ROWS)
    )
    if tenant is not None:
        query = query.where(Usage.tenant == tenant)
    with engine.connect() as connection:
        found = connection.execute(query).all()
    return [_row(by, tuple(each)) for each in found if each[len(by)]]


def _row(by: Sequence[By], values: tuple[Any, ...]) -> Row:
    key = tuple(
        date.fromordinal(_EPOCH + value).isoformat() if name == "day" else str(value)
        for name, value in zip(by, values[: len(by)], strict=True)
    )
    requests, prompt, cached, analysis, final, gpu_s, cost = values[len(by) :]
    return Row(
        key, int(requests), int(prompt), int(cached), int(analysis), int(final),
        float(gpu_s), float(cost),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one tenant's key in one tier: tokens and cost of this day and this month."""

    tenant: str
    key_id: str
    tier: str
    day_tokens: int
    day_cost: float
    month_tokens: int
    month_cost: float


def spent(engine: Engine, now_s: float) -> list[Spent]:
    """What the budgets of the day and month of ``now_s`` have gone into. Blocks."""
    day = int(now_s // DAY_S)
    month_s = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m")
    tokens = Usage.prompt_tokens + Usage.analysis_tokens + Usage.final_tokens
    query = (
        select(
            Usage.tenant,
            Usage.key_id,
            Usage.tier_served,
            Usage.day,
            func.sum(tokens),
            func.sum(Usage.cost),
        )
        .where(Usage.at_s >= month_span(month_s)[0])
        .group_by(Usage.tenant, Usage.key_id, Usage.tier_served, Usage.day)
    )
    with engine.connect() as connection:
        found = connection.execute(query).all()
    sums: dict[tuple[str, str, str], list[float]] = {}
    for tenant, key_id, tier, its_day, used, cost in found:
        entry = sums.setdefault((tenant, key_id, tier), [0.0, 0.0, 0.0, 0.0])
        entry[2] += float(used)
        entry[3] += float(cost)
        if its_day == day:
            entry[0], entry[1] = float(used), float(cost)
    return [Spent(*key, int(each[0]), each[1], int(each[2]), each[3]) for key, each in sums.items()]
