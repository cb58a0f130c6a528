"""Usage on its way from a gateway to the store: nothing twice, nothing unnoticed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from cluster.config import PriceConfig
from cluster.tenants.store import Store, open_store
from cluster.usage.prices import Prices
from cluster.usage.queue import UsageQueue
from cluster.usage.record import UsageRecord, plain
from cluster.usage.report import month_span, spent, totals
from cluster.usage.segments import QueueFolder, frames, read_segment
from cluster.usage.tables import Usage
from cluster.usage.writer import UsageWriter
from tests.services import postgres_server

NOON = 1_795_348_900.0
ROOT = Path(__file__).resolve().parents[3]


def record(number: int = 1, **changes: object) -> UsageRecord:
    values: dict[str, object] = {
        "at_s": NOON, "request_id": f"r{number}", "tenant": "a", "team": "t", "project": "p",
        "key_id": "k", "model": "m", "route": "chat", "tier_asked": "high", "tier_served": "low",
        "prompt_tokens": 10, "cached_tokens": 4, "analysis_tokens": 20, "final_tokens": number,
        "gpu_s": 0.5, "cost": 0.25, "outcome": "ok", "ttft_s": None, "duration_s": 1.5,
    }  # fmt: skip
    return UsageRecord(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        made = open_store(f"sqlite:///{tmp_path / 'store.db'}")
        made.migrate()
        yield made
        made.close()
        return
    with postgres_server() as url:
        made = open_store(url)
        made.migrate()
        yield made
        made.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    made.migrate()
    yield made.engine
    made.close()


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(Usage)).scalar_one())


def until(condition: object, timeout_s: float = 10.0) -> None:
    assert callable(condition)
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_records_come_into_the_store_and_leave_the_disk(store: Store, tmp_path: Path) -> None:
    home, told = tmp_path / "queue", Counter[str]()
    queue = UsageQueue(QueueFolder.make(home, "g"), flush_s=0.02, max_bytes=1 << 20)
    writer = UsageWriter(queue, store.engine, told=lambda what, count: told.update({what: count}))
    queue.start()
    writer.start()
    for number in range(1200):
        queue.put(record(number))
    queue.stop()
    writer.stop(30.0)
    (row,) = totals(store.engine, NOON - 1, NOON + 1, ["tenant"])
    assert (row.requests, row.prompt_tokens, row.final_tokens) == (1200, 12_000, 1199 * 600)
    assert told == {"written": 1200}
    assert list(home.iterdir()) == []


def test_a_segment_that_is_written_again_adds_nothing(store: Store, tmp_path: Path) -> None:
    folder = QueueFolder.make(tmp_path / "queue", "g")
    queue = UsageQueue(folder, flush_s=1.0, max_bytes=1 << 20)
    writer = UsageWriter(queue, store.engine)
    path = folder.path / "000000000001.seg"
    path.write_bytes(frames((number, record(number)) for number in range(1, 700)))
    for _ in range(3):
        writer._write(folder.source, path)
    assert rows(store.engine) == 699


def test_a_torn_end_costs_what_was_torn_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "1.seg"
    data = frames([(1, record(1)), (2, record(2)), (3, record(3))])
    for cut in (1, 7, 40):
        path.write_bytes(data[:-cut])
        entries, torn_bytes = read_segment(path)
        assert [number for number, _ in entries] == [1, 2]
        assert torn_bytes > 0
    path.write_bytes(data[:100] + b"\xff" + data[101:])
    assert read_segment(path)[0] == [] or len(read_segment(path)[0]) < 3
    path.write_bytes(data)
    assert read_segment(path) == ([(1, record(1)), (2, record(2)), (3, record(3))], 0)


KILLED = """
import sys, time
from pathlib import Path
from cluster.usage.queue import UsageQueue
from cluster.usage.segments import QueueFolder
from tests.cluster_usage_record import record
queue = UsageQueue(QueueFolder.make(Path(sys.argv[1]), "dead"), flush_s=0.05, max_bytes=1 << 24)
queue.start()
for number in range(100_000):
    queue.put(record(number))
    print(number, time.time(), flush=True)
    time.sleep(0.001)
"""


def test_a_killed_gateway_loses_its_last_moment_only_and_the_next_takes_up_the_rest(
    engine: Engine, tmp_path: Path
) -> None:
    home = tmp_path / "queue"
    program = KILLED.replace(
        "from tests.cluster_usage_record import record",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_usage_queue import record",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(home)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(800)]
    process.send_signal(signal.SIGKILL)
    killed_s = time.time()
    lines += process.stdout.readlines()
    process.wait()
    put = [(int(line.split()[0]), float(line.split()[1])) for line in lines if line.count(" ") == 1]
    queue = UsageQueue(QueueFolder.make(home, "next"), flush_s=0.05, max_bytes=1 << 20)
    writer = UsageWriter(queue, engine)
    queue.start()
    writer.start()
    until(lambda: len(list(home.iterdir())) == 1)
    queue.stop()
    writer.stop(30.0)
    with engine.connect() as connection:
        found = set(connection.execute(select(Usage.request_id)).scalars())
    lost = [at_s for number, at_s in put if f"r{number}" not in found]
    assert all(killed_s - at_s < 0.05 + 0.25 for at_s in lost)
    assert len(found) > 300


def test_a_live_gateways_queue_is_its_own(tmp_path: Path) -> None:
    folder = QueueFolder.make(tmp_path, "g")
    assert list(QueueFolder.orphans(tmp_path)) == []
    folder.new_segment(1).close()
    folder.release()
    (orphan,) = QueueFolder.orphans(tmp_path)
    assert orphan.source == folder.source
    assert len(orphan.segments()) == 1


def test_a_full_queue_drops_and_says_so(tmp_path: Path) -> None:
    dropped: list[int] = []
    queue = UsageQueue(
        QueueFolder.make(tmp_path, "g"), flush_s=0.01, max_bytes=20_000, dropped=dropped.append
    )
    queue.start()
    for burst in range(20):
        for number in range(50):
            queue.put(record(50 * burst + number))
        time.sleep(0.02)
    queue.stop()
    kept = [entry for path in queue.folder.segments() for entry in read_segment(path)[0]]
    assert queue.size_bytes <= 20_000
    assert sum(dropped) > 0
    assert len(kept) + sum(dropped) == 1000


def test_a_store_that_is_away_holds_nothing_up_and_gets_everything_later(tmp_path: Path) -> None:
    late = open_store(f"sqlite:///{tmp_path / 'late.db'}")
    queue = UsageQueue(QueueFolder.make(tmp_path / "q", "g"), flush_s=0.01, max_bytes=1 << 20)
    writer = UsageWriter(queue, late.engine)
    queue.start()
    writer.start()
    for number in range(10):
        queue.put(record(number))
    until(lambda: not writer.store_up)
    late.migrate()
    until(lambda: writer.store_up and queue.size_bytes == 0)
    queue.stop()
    writer.stop(30.0)
    assert rows(late.engine) == 10
    late.close()


def test_one_record_that_no_store_takes_does_not_hold_up_the_others(tmp_path: Path) -> None:
    told = Counter[str]()
    with postgres_server() as url:
        store = open_store(url)
        store.migrate()
        queue = UsageQueue(QueueFolder.make(tmp_path, "g"), flush_s=0.01, max_bytes=1 << 20)
        writer = UsageWriter(
            queue, store.engine, told=lambda what, count: told.update({what: count})
        )
        queue.start()
        writer.start()
        for number in range(5):
            queue.put(record(number, prompt_tokens=1 << 63 if number == 2 else 1))
        queue.stop()
        writer.stop(30.0)
        assert told == {"written": 4, "invalid": 1}
        store.close()


def test_sums_by_team_and_tier_and_day(store: Store, tmp_path: Path) -> None:
    queue = UsageQueue(QueueFolder.make(tmp_path / "q", "g"), flush_s=0.01, max_bytes=1 << 20)
    writer = UsageWriter(queue, store.engine, retain_days=36_000)
    queue.start()
    writer.start()
    queue.put(record(1, team="x"))
    queue.put(record(2, team="x", at_s=NOON + 86_400))
    queue.put(record(3, team="y", tier_served="high"))
    queue.put(record(4, tenant="b", team="x", at_s=NOON + 40 * 86_400))
    queue.stop()
    writer.stop(30.0)
    since_s, until_s = month_span("2026-11")
    found = {row.key: row for row in totals(store.engine, since_s, until_s, ["team", "tier"])}
    assert set(found) == {("x", "low"), ("y", "high")}
    assert found["x", "low"].requests == 2
    assert found["x", "low"].cost == pytest.approx(0.5)
    days = totals(store.engine, since_s, until_s, ["day"], tenant="a")
    assert [row.key for row in days] == [("2026-11-22",), ("2026-11-23",)]
    (all_of_it,) = totals(store.engine, since_s, until_s, [])
    assert all_of_it.requests == 3
    (mine,) = [e for e in spent(store.engine, NOON) if (e.tenant, e.tier) == ("a", "low")]
    assert (mine.tenant, mine.day_tokens, mine.month_tokens) == ("a", 31, 63)


def test_months_have_their_length() -> None:
    assert month_span("2026-12")[1] == month_span("2027-01")[0]
    with pytest.raises(ValueError, match="format"):
        month_span("November")


def test_prices_are_per_million_and_by_tier() -> None:
    prices = Prices(
        {
            "m": PriceConfig.model_validate(
                {"prompt": 2.0, "cached": 0.5, "output": 8.0, "tiers": {"high": 3.0}}
            ),
            "*": PriceConfig(prompt=1.0),
        }
    )
    assert prices.cost("m", "low", 1_000_000, 500_000, 400_000) == pytest.approx(1.2 + 0.2 + 4.0)
    assert prices.cost("m", "high", 0, 1_000_000, 0) == pytest.approx(24.0)
    assert prices.cost("other", "low", 1_000_000, 9, 0) == pytest.approx(1.0)
    assert Prices({}).cost("m", "low", 1, 1, 0) == 0.0


def test_names_are_cut_to_what_every_store_takes() -> None:
    assert plain("a\x00b" + 300 * "x") == "ab" + 254 * "x"
