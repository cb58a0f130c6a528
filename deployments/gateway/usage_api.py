"""``GET /v1/usage``: what a tenant has used, for itself."""

import asyncio
import time
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import parse_qs

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cluster.errors import InvalidRequest, NoReplica, Overloaded
from cluster.tenants.caller import Caller
from cluster.usage.report import BY, By, Row, month_span, totals

AT_ONCE = 2
MAX_WAITING = 16
"""Questions to the store at a time, and that wait for their turn; they share its few connections
with the writer of usage."""

DAY_S = 86_400
FIELDS = ("start", "end", "month", "group_by")


class UsageApi:
    """``currency`` is that of the prices."""

    def __init__(self, engine: Engine, currency: str) -> None:
        self._engine = engine
        self._currency = currency
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def answer(self, caller: Caller | None, query: bytes) -> dict[str, Any]:
        """By default, this month (UTC) by day. Raises ``TriremeError``."""
        since_s, until_s, by = read_query(query, time.time())
        if self._waiting >= MAX_WAITING:
            raise Overloaded("Too many ask for usage. Try again in 2 s.", retry_after_s=2.0)
        tenant = "" if caller is None else caller.tenant
        self._waiting += 1
        try:
            async with self._turn:
                rows = await asyncio.to_thread(
                    totals, self._engine, since_s, until_s, by, tenant=tenant
                )
        except SQLAlchemyError as error:
            raise NoReplica("The store of usage does not answer.", retry_after_s=5.0) from error
        finally:
            self._waiting -= 1
        return {
            "object": "list",
            "start": since_s,
            "end": until_s,
            "currency": self._currency,
            "data": [_told(by, row) for row in rows],
        }


def read_query(query: bytes, now_s: float) -> tuple[float, float, list[By]]:
    """Begin and end in unix seconds, and what to group by. Raises ``InvalidRequest``."""
    try:
        given = parse_qs(query.decode("ascii"), strict_parsing=bool(query), max_num_fields=16)
    except ValueError as error:
        raise InvalidRequest("The query cannot be read.") from error
    for name, values in given.items():
        if name not in FIELDS or len(values) > 1:
            raise InvalidRequest(f"The query may have {', '.join(FIELDS)}, each once.")
    fields = {name: values[0] for name, values in given.items()}
    month = fields.get("month", datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m"))
    try:
        since_s, until_s = month_span(month)
    except ValueError as error:
        raise InvalidRequest("`month` is written as 2026-11.", param="month") from error
    since_s = _moment(fields, "start", since_s)
    until_s = _moment(fields, "end", until_s)
    by: list[By] = []
    for word in fields.get("group_by", "day").split(","):
        known = next((each for each in BY if each == word and each != "tenant"), None)
        if known is None or known in by:
            words = ", ".join(each for each in BY if each != "tenant")
            raise InvalidRequest(f"`group_by` takes any of {words}.", param="group_by")
        by.append(known)
    return since_s, until_s, by


def _moment(fields: dict[str, str], name: str, default: float) -> float:
    """Unix seconds, or a day (UTC), of which the end is included."""
    text = fields.get(name)
    if text is None:
        return default
    try:
        if text.isdecimal() and len(text) <= 12:
            return float(text)
        begin = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC).timestamp()
    except ValueError as error:
        raise InvalidRequest(
            f"`{name}` is a day such as 2026-11-22, or unix seconds.", param=name
        ) from error
    return begin + DAY_S if name == "end" else begin


def _told(by: list[By], row: Row) -> dict[str, Any]:
    return {
        **dict(zip(by, row.key, strict=True)),
        "requests": row.requests,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.output_tokens,
        "reasoning_tokens": row.analysis_tokens,
        "total_tokens": row.prompt_tokens + row.output_tokens,
        "gpu_seconds": round(row.gpu_s, 3),
        "cost": round(row.cost, 6),
    }
