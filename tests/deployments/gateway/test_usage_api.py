"""A tenant's own figures, over a real store."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import InvalidRequest, NoReplica
from cluster.tenants.caller import Caller
from cluster.tenants.store import Store, open_store
from cluster.usage.queue import UsageQueue
from cluster.usage.record import UsageRecord
from cluster.usage.report import month_span
from cluster.usage.segments import QueueFolder
from cluster.usage.writer import UsageWriter
from deployments.gateway.usage_api import UsageApi, read_query

NOON = 1_795_348_900.0
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    made.migrate()
    queue = UsageQueue(QueueFolder.make(tmp_path / "q", "g"), flush_s=0.01, max_bytes=1 << 20)
    writer = UsageWriter(queue, made.engine, retain_days=36_000)
    queue.start()
    writer.start()
    for tenant, at_s, tier in (
        ("a", NOON, "low"), ("a", NOON, "high"), ("a", NOON + DAY_S, "low"), ("b", NOON, "low"),
    ):  # fmt: skip
        queue.put(
            UsageRecord(
                at_s, "r", tenant, "t", "p", "k", "m", "chat", tier, tier,  # type: ignore[arg-type]
                10, 4, 20, 5, 0.5, 0.25, "ok", 0.1, 1.0,
            )
        )  # fmt: skip
    queue.stop()
    writer.stop(30.0)
    yield made
    made.close()


async def test_a_tenant_sees_its_own_figures_only(store: Store) -> None:
    api = UsageApi(store.engine, "EUR")
    told = await api.answer(Caller("a", "k"), b"month=2026-11&group_by=day,tier")
    assert (told["object"], told["currency"]) == ("list", "EUR")
    assert [(row["day"], row["tier"], row["requests"]) for row in told["data"]] == [
        ("2026-11-22", "high", 1), ("2026-11-22", "low", 1), ("2026-11-23", "low", 1),
    ]  # fmt: skip
    assert told["data"][0] == {
        "day": "2026-11-22", "tier": "high", "requests": 1, "prompt_tokens": 10,
        "cached_tokens": 4, "completion_tokens": 25, "reasoning_tokens": 20, "total_tokens": 35,
        "gpu_seconds": 0.5, "cost": 0.25,
    }  # fmt: skip
    (day,) = (await api.answer(Caller("a", "k"), b"start=2026-11-23&end=2026-11-23"))["data"]
    assert (day["day"], day["requests"]) == ("2026-11-23", 1)
    assert (await api.answer(Caller("nobody", "k"), b"month=2026-11"))["data"] == []


async def test_a_store_that_is_away_is_told_as_that(tmp_path: Path) -> None:
    empty = open_store(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(NoReplica, match="does not answer"):
        await UsageApi(empty.engine, "EUR").answer(None, b"")
    empty.close()


def test_without_a_query_it_is_this_month_by_day() -> None:
    since_s, until_s, by = read_query(b"", NOON)
    assert (since_s, until_s) == month_span("2026-11")
    assert by == ["day"]


def test_days_and_seconds_are_understood_and_the_last_day_is_included() -> None:
    since_s, until_s, _ = read_query(b"start=2026-11-01&end=2026-11-30", time.time())
    assert (since_s, until_s) == month_span("2026-11")
    assert read_query(b"start=100&end=200", NOON)[:2] == (100.0, 200.0)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        (b"month=november", "month"),
        (b"start=yesterday", "start"),
        (b"end=99999999999999", "end"),
        (b"group_by=tenant", "group_by"),
        (b"group_by=day,day", "group_by"),
        (b"group_by=tier;drop", "group_by"),
        (b"tenant=b", None),
        (b"month=2026-11&month=2026-12", None),
        (b"&&&&", None),
        (b"\xff", None),
    ],
)
def test_any_other_query_is_refused(query: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_query(query, NOON)
    assert raised.value.param == param
