"""The admin API over HTTP: what it does, for whom, and what it leaves in the log."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cluster.config import AdminConfig
from cluster.listener import Listener
from deployments.gateway.admin import AdminApi, BadAdmins, read_admins
from tests.deployments.gateway.access_world import Callers

ANNE = "anne-0123456789-0123456789-0123456789"
BEN = "ben-0123456789-0123456789-01234567890"


class Admin:
    """A real listener on loopback over a real store."""

    def __init__(self, callers: Callers, url: str) -> None:
        self.callers = callers
        self.url = url
        self.http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=10)

    async def ask(
        self, method: str, path: str, body: Any = None, token: str = ANNE
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return await self.http.request(method, path, json=body, headers=headers)


@pytest_asyncio.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    callers = Callers(tmp_path)
    listener = Listener(AdminApi(callers.book, {"anne": ANNE, "ben": BEN}).app)
    made = Admin(callers, await listener.start("127.0.0.1", 0))
    yield made
    await made.http.aclose()
    await listener.stop()
    callers.close()


async def test_a_keys_whole_life(admin: Admin) -> None:
    limits = {"all": {"requests_per_minute": 60}}
    tenant = {"name": "acme", "weight": 2, "limits": limits}
    made = await admin.ask("POST", "/admin/tenants", tenant)
    assert (made.status_code, made.json()["limits"]["all"]["requests_per_minute"]) == (200, 60)
    changed = await admin.ask("PATCH", "/admin/tenants/acme", {"default_tier": "low"})
    assert (changed.json()["default_tier"], changed.json()["weight"]) == ("low", 2.0)
    key = await admin.ask("POST", "/admin/keys", {"tenant": "acme", "label": "web"}, BEN)
    assert key.headers["cache-control"] == "no-store"
    text = key.json()["key"]

    async def caller(text: str) -> str:
        admin.callers.directory.refresh()
        headers = [(b"authorization", b"Bearer " + text.encode())]
        return (await admin.callers.identity.caller(headers)).key_id

    assert await caller(text) == key.json()["id"]
    new = await admin.ask("POST", f"/admin/keys/{key.json()['id']}/rotate", {"overlap_s": 60})
    assert new.json()["label"] == "web"
    assert await caller(new.json()["key"]) == new.json()["id"]
    assert await caller(text) == key.json()["id"]
    gone = await admin.ask("POST", f"/admin/keys/{key.json()['id']}/revoke")
    assert gone.json()["state"] == "revoked"
    listed = (await admin.ask("GET", "/admin/keys?tenant=acme")).json()["keys"]
    assert sorted(each["state"] for each in listed) == ["good", "revoked"]
    assert text not in str(listed)
    assert (await admin.ask("DELETE", "/admin/tenants/acme")).status_code == 409
    assert (await admin.ask("DELETE", "/admin/tenants/acme?with_keys=true")).status_code == 200
    assert (await admin.ask("GET", "/admin/tenants")).json() == {"tenants": []}
    log = (await admin.ask("GET", "/admin/audit")).json()["audit"]
    assert [(each["who"], each["action"]) for each in reversed(log)] == [
        ("admin:anne", "tenant.create"),
        ("admin:anne", "tenant.set"),
        ("admin:ben", "key.create"),
        ("admin:anne", "key.rotate"),
        ("admin:anne", "key.revoke"),
        ("admin:anne", "tenant.delete"),
    ]
    assert {each["request_from"] for each in log} == {"127.0.0.1"}


@pytest.mark.parametrize("token", ["", "wrong" * 10, ANNE[:-1], "é" * 40])
async def test_nobody_else_gets_in(admin: Admin, token: str) -> None:
    header = {"authorization": b"Bearer " + token.encode()} if token else {}
    for method, path in (
        ("GET", "/admin/tenants"),
        ("POST", "/admin/keys"),
        ("GET", "/admin/audit"),
    ):
        answer = await admin.http.request(method, path, headers=header)  # type: ignore[arg-type]
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert admin.callers.book.audit() == []


async def test_an_api_key_is_no_administrator(admin: Admin) -> None:
    key = admin.callers.key().key.text
    assert (await admin.ask("GET", "/admin/tenants", token=key)).status_code == 401
    basic = {"authorization": f"Basic {ANNE}"}
    assert (await admin.http.get("/admin/tenants", headers=basic)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/admin/tenants", {"name": "Not A Name"}, 400, "name"),
        ("POST", "/admin/tenants", {"name": "x", "colour": 1}, 400, "colour"),
        ("POST", "/admin/tenants", [], 400, "body"),
        ("PATCH", "/admin/tenants/nobody", {}, 404, "no tenant nobody"),
        ("GET", "/admin/tenants/nobody", None, 404, "no tenant nobody"),
        ("POST", "/admin/keys", {"tenant": "nobody"}, 404, "no tenant nobody"),
        ("POST", "/admin/keys/nosuchkey/revoke", None, 404, "no key nosuchkey"),
        ("GET", "/admin/audit?limit=0", None, 400, "limit"),
        ("GET", "/admin/audit?limit=x", None, 400, "limit"),
        ("POST", "/admin/keys", {"tenant": "x" * 70_000}, 413, "larger"),
    ],
)
async def test_what_cannot_be_done_is_told_in_openais_form(
    admin: Admin, method: str, path: str, body: Any, status: int, words: str
) -> None:
    answer = await admin.ask(method, path, body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_body_that_is_no_json_is_refused(admin: Admin) -> None:
    for body in (b"{", b"\xff", b"[" * 50_000):
        headers = {"authorization": f"Bearer {ANNE}"}
        answer = await admin.http.post("/admin/tenants", content=body, headers=headers)
        assert answer.status_code == 400


async def test_a_store_that_is_away_is_told_as_such(admin: Admin, tmp_path: Path) -> None:
    admin.callers.store.close()
    (tmp_path / "store.sqlite").unlink()
    (tmp_path / "store.sqlite").mkdir()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"store.sqlite{suffix}").unlink(missing_ok=True)
    answer = await admin.ask("GET", "/admin/tenants")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_away")


async def test_a_port_that_is_taken_is_an_error_of_the_listener_only(admin: Admin) -> None:
    port = httpx.URL(admin.url).port
    assert port is not None
    with pytest.raises(OSError, match="in use"):
        await Listener(AdminApi(admin.callers.book, {}).app).start("127.0.0.1", port)
    assert (await admin.ask("GET", "/admin/tenants")).status_code == 200


async def test_changes_of_two_administrators_at_once_are_all_made(admin: Admin) -> None:
    names = [f"t{n}" for n in range(10)]
    answers = await asyncio.gather(
        *(admin.ask("POST", "/admin/tenants", {"name": name}) for name in names)
    )
    assert {answer.status_code for answer in answers} == {200}
    assert {each.name for each in admin.callers.book.tenants()} == set(names)


def test_administrators_are_read_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "admins"
    file.write_text(f"anne: {ANNE}\n\nben:{BEN}\n")
    config = AdminConfig(tokens_file=str(file))
    assert read_admins(config, {}) == {"anne": ANNE, "ben": BEN}
    assert read_admins(AdminConfig(), {"TRIREME_ADMIN_TOKENS": f"anne: {ANNE}"}) == {"anne": ANNE}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no tokens"),
        (ANNE, "line 1"),
        ("anne: short", "line 1"),
        (f"anne: {ANNE}\nanne: {BEN}", "line 2"),
        (f": {ANNE}", "line 1"),
    ],
)
def test_bad_tokens_are_refused_without_being_told(text: str, words: str) -> None:
    with pytest.raises(BadAdmins, match=words) as caught:
        read_admins(AdminConfig(), {"TRIREME_ADMIN_TOKENS": text})
    assert ANNE not in str(caught.value)
