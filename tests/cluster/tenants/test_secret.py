"""Where the secret of the door comes from, and what is made of it."""

import threading
from pathlib import Path

import pytest

from cluster.config import AccessConfig
from cluster.tenants.locate import database_url, door_secret
from cluster.tenants.secret import SECRET_VARIABLE, BadSecret, DoorSecret
from cluster.tenants.text import base62

LONG = "0123456789abcdef0123456789abcdef"


def test_one_is_made_where_there_is_none_for_its_owner_only(tmp_path: Path) -> None:
    environ = {"TRIREME_HOME": str(tmp_path)}
    first = door_secret(AccessConfig(), environ)
    assert door_secret(AccessConfig(), environ).mark == first.mark
    file = tmp_path / "state" / "access.secret"
    assert file.stat().st_mode & 0o077 == 0
    assert len(file.read_text().strip()) == 64
    assert [each.name for each in file.parent.iterdir()] == ["access.secret"]


def test_gateways_that_start_at_once_agree_on_it(tmp_path: Path) -> None:
    environ = {"TRIREME_HOME": str(tmp_path)}
    marks: list[str] = []
    threads = [
        threading.Thread(target=lambda: marks.append(door_secret(AccessConfig(), environ).mark))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(marks) == 8
    assert len(set(marks)) == 1


def test_a_file_counts_more_than_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{LONG}\n")
    environ = {SECRET_VARIABLE: LONG[::-1], "TRIREME_HOME": str(tmp_path)}
    assert door_secret(AccessConfig(secret_file=str(file)), environ).mark == DoorSecret(LONG).mark
    assert door_secret(AccessConfig(), environ).mark == DoorSecret(LONG[::-1]).mark


@pytest.mark.parametrize("text", ["", "short", "x" * 31])
def test_a_short_one_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadSecret, match="32 characters"):
        door_secret(AccessConfig(), {SECRET_VARIABLE: text, "TRIREME_HOME": str(tmp_path)})


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(BadSecret, match="cannot be read"):
        door_secret(AccessConfig(secret_file=str(tmp_path / "no")), {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_derived_for_one_use_is_nothing_for_another() -> None:
    secret = DoorSecret(LONG)
    made = {secret.digest(b"x").hex(), secret.cache_salt("x"), secret.mark}
    assert len(made) == 3
    assert all(LONG not in each for each in made)


def test_the_store_is_where_it_is_configured_to_be(tmp_path: Path) -> None:
    environ = {"TRIREME_HOME": "/h", "TRIREME_DATABASE_URL": "postgresql://e/db"}
    assert database_url(AccessConfig(store_url="sqlite:////a.db"), environ) == "sqlite:////a.db"
    assert database_url(AccessConfig(), environ) == "postgresql://e/db"
    assert database_url(AccessConfig(), {"TRIREME_HOME": "/h"}) == "sqlite:////h/state/store.sqlite"


def test_numbers_in_base_62_have_one_length_and_stay_apart() -> None:
    found = {base62(bytes([a, b])) for a in range(256) for b in range(256)}
    assert len(found) == 65_536
    assert {len(each) for each in found} == {3}
    assert len(base62(b"\xff" * 32)) == len(base62(b"\x00" * 32)) == 43
