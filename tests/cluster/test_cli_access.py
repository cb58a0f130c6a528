"""``trireme tenants`` and ``trireme keys``: what they do, print and refuse."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.app import run
from cluster.config import AccessConfig
from cluster.tenants.directory import Directory
from cluster.tenants.keys import KEY_CHARS, PREFIX
from cluster.tenants.locate import database_url, door_secret
from cluster.tenants.snapshot import Snapshot
from cluster.tenants.store import open_store


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("TRIREME_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TRIREME_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> "Told":
    return Told(capsys)


class Told:
    """What a command printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def by(self, *args: str) -> str:
        """Of one that succeeds."""
        code = run(list(args))
        out, err = self._capsys.readouterr()
        assert code == 0, err
        return out

    def json(self, *args: str) -> Any:
        return json.loads(self.by(*args, "--json"))

    def fault(self, *args: str) -> str:
        """The one line of one that was ordered wrongly."""
        assert run(list(args)) == 2
        out, err = self._capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        return str(line)


def as_gateways_know() -> Snapshot:
    directory = Directory(open_store(database_url(AccessConfig())), period_s=1.0)
    assert directory.refresh()
    directory.stop()
    assert directory.snapshot is not None
    return directory.snapshot


def test_a_keys_life_by_the_command_line(told: Told) -> None:
    told.by("tenants", "create", "acme", "--weight", "2", "--limit", "requests_per_minute=60")
    text = told.by("keys", "create", "acme", "--team", "search", "--expires", "90d").strip()
    assert text.startswith(PREFIX)
    assert len(text) == KEY_CHARS
    (listed,) = told.json("keys", "list", "--tenant", "acme")
    assert (listed["team"], listed["state"]) == ("search", "good")
    assert listed["expires_at"] - listed["created_at"] == pytest.approx(90 * 86_400)
    known = as_gateways_know().keys[listed["id"]]
    assert known.digest == door_secret(AccessConfig()).digest(text.encode())
    assert known.caller.weight == 2.0
    assert known.caller.limits[0].limits.requests_per_minute == 60

    new = told.json("keys", "rotate", listed["id"], "--overlap", "2h")
    assert new["key"] != text
    states = {each["id"]: each["state"] for each in told.json("keys", "list")}
    assert states == {listed["id"]: "rotated", new["id"]: "good"}
    told.by("keys", "revoke", listed["id"])
    states = {each["id"]: each["state"] for each in told.json("keys", "list")}
    assert states == {listed["id"]: "revoked", new["id"]: "good"}

    assert "has 1 keys that are good" in told.fault("tenants", "delete", "acme")
    told.by("tenants", "delete", "acme", "--with-keys")
    assert told.json("tenants", "list") == []
    log = told.json("keys", "audit")
    assert [each["action"] for each in reversed(log)] == [
        "tenant.create",
        "key.create",
        "key.rotate",
        "key.revoke",
        "tenant.delete",
    ]
    assert all(each["who"].startswith("cli:") for each in log)


def test_a_tenant_is_changed_bit_by_bit(told: Told) -> None:
    told.by("tenants", "create", "acme", "--tier", "low", "--tier", "high", "--model", "m")
    changed = told.json("tenants", "set", "acme", "--default-tier", "low", "--model", "all")
    assert (changed["tiers"], changed["models"], changed["default_tier"]) == (
        ["low", "high"],
        None,
        "low",
    )
    limits = ("--limit", "tokens_per_day=2e6", "--limit", "high.cost_per_month=99.5")
    changed = told.json("tenants", "set", "acme", *limits, "--disable")
    assert changed["limits"] == {
        "all": {"tokens_per_day": 2_000_000, "soft_share": 0.9},
        "high": {"cost_per_month": 99.5, "soft_share": 0.9},
    }
    assert changed["enabled"] is False
    changed = told.json("tenants", "set", "acme", "--limit", "tokens_per_day=none", "--enable")
    assert (set(changed["limits"]), changed["enabled"]) == ({"high"}, True)


def test_lists_are_tables_for_people(told: Told) -> None:
    told.by("tenants", "create", "acme")
    key = told.by("keys", "create", "acme", "--label", "the web shop").strip()
    head, row = told.by("keys", "list").splitlines()
    assert head.split() == [
        *("key", "tenant", "team", "project", "state", "scopes", "tiers", "expires", "label"),
    ]
    assert "the web shop" in row
    assert key.rpartition("-")[2] not in row
    assert re.search(
        r"acme +1 +no +low,medium,high +all +- +- +enabled +1", told.by("tenants", "list")
    )
    assert "key.create" in told.by("keys", "audit")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("tenants", "create", "Not A Name"), "name"),
        (("tenants", "create", "acme", "--weight", "0"), "weight"),
        (("tenants", "create", "acme", "--tier", "max"), "tiers"),
        (("tenants", "create", "acme", "--limit", "requests_per_minute"), "NAME=NUMBER"),
        (("tenants", "create", "acme", "--limit", "requests_per_minute=many"), "NAME=NUMBER"),
        (("tenants", "create", "acme", "--limit", "requests_per_minute=inf"), "finite"),
        (("tenants", "create", "acme", "--limit", "requests_per_hour=1"), "requests_per_hour"),
        (("tenants", "create", "acme", "--limit", "max.tokens_per_day=1"), "limits"),
        (("tenants", "set", "nobody"), "no tenant nobody"),
        (("tenants", "delete", "nobody"), "no tenant nobody"),
        (("keys", "create", "nobody"), "no tenant nobody"),
        (("keys", "create", "acme", "--expires", "soon"), "such as 90d"),
        (("keys", "create", "acme", "--scope", "all"), "scopes"),
        (("keys", "rotate", "nosuchkey"), "no key nosuchkey"),
        (("keys", "rotate", "nosuchkey", "--overlap", "1y"), "such as 90d"),
        (("keys", "revoke", "nosuchkey"), "no key nosuchkey"),
        (("keys", "frobnicate"), "frobnicate"),
    ],
)
def test_bad_orders_are_one_line_and_exit_code_2(
    told: Told, args: tuple[str, ...], words: str
) -> None:
    assert words in told.fault(*args)


def test_the_store_and_secret_are_those_of_the_configuration(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trireme.yaml").write_text(
        f"access: {{store_url: 'sqlite:///{tmp_path}/other.db', secret_file: {tmp_path}/secret}}\n"
    )
    assert "secret cannot be read" in told.fault("keys", "create", "acme")
    (tmp_path / "secret").write_text("s" * 40)
    told.by("tenants", "create", "acme")
    told.by("keys", "create", "acme")
    assert (tmp_path / "other.db").is_file()
    assert not (tmp_path / "home").exists()
    monkeypatch.setenv("TRIREME_ACCESS__STORE_URL", "mysql://h/db")
    assert "no URL of PostgreSQL or SQLite" in told.fault("tenants", "list")


def test_a_store_that_does_not_answer_is_told_without_its_password(
    told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIREME_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/db")
    assert run(["tenants", "list"]) == 1
    err = capsys.readouterr().err
    assert "does not answer" in err
    assert "hunter2" not in err


def test_a_password_in_the_configuration_is_not_shown(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIREME_ACCESS__STORE_URL", "postgresql://u:hunter2@h/db")
    shown = told.by("config", "show")
    assert "hunter2" not in shown
    assert "postgresql://u:(redacted)@h/db" in shown
