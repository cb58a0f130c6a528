"""``trireme usage report``."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.tenants.store import open_store
from cluster.usage.queue import UsageQueue
from cluster.usage.record import UsageRecord
from cluster.usage.segments import QueueFolder
from cluster.usage.writer import UsageWriter

NOON = 1_795_348_900.0


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIREME_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRIREME_DATABASE_URL", url)
    store = open_store(url)
    store.migrate()
    queue = UsageQueue(QueueFolder.make(tmp_path / "q", "g"), flush_s=0.01, max_bytes=1 << 20)
    writer = UsageWriter(queue, store.engine, retain_days=36_000)
    queue.start()
    writer.start()
    for team in ("red", "red", "=cmd()"):
        queue.put(
            UsageRecord(
                NOON, "r", "a", team, "p", "k", "m", "chat", "high", "low",
                10, 4, 20, 5, 0.5, 0.25, "ok", 0.1, 1.0,
            )
        )  # fmt: skip
    queue.stop()
    writer.stop(30.0)
    store.close()


def report(*args: str) -> str:
    ran = CliRunner().invoke(app, ["usage", "report", "--month", "2026-11", *args])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.mark.usefixtures("environment")
def test_sums_come_as_csv_json_and_a_table() -> None:
    rows = list(csv.DictReader(io.StringIO(report("--by", "team,tier", "--format", "csv"))))
    assert [(row["team"], row["tier"], row["requests"]) for row in rows] == [
        ("'=cmd()", "low", "1"), ("red", "low", "2"),
    ]  # fmt: skip
    assert rows[1]["cost"] == "0.5"
    (all_of_it,) = json.loads(report("--by", "asked", "--format", "json"))
    assert (all_of_it["asked"], all_of_it["final_tokens"]) == ("high", 15)
    table = report("--by", "tenant")
    assert "2026-11, cost in EUR" in table


@pytest.mark.usefixtures("environment")
def test_a_month_without_usage_is_an_empty_report() -> None:
    ran = CliRunner().invoke(app, ["usage", "report", "--month", "2025-01", "--format", "json"])
    assert json.loads(ran.stdout) == []


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("args", [("--by", "colour"), ("--by", "day,day"), ("--month", "May")])
def test_what_it_does_not_know_is_refused(args: tuple[str, str]) -> None:
    ran = CliRunner().invoke(app, ["usage", "report", *args])
    assert ran.exit_code != 0
