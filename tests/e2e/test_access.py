"""A whole cluster with keys: made, rotated and revoked from outside while it serves."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme

from cluster.local_ray import free_ports
from tests.deployments.engine.test_channel_tls import files
from tests.e2e.running import Cluster, cluster, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NAME = "guarded"
ADMIN = "e2e-0123456789-0123456789-0123456789-0123"
TWO_S = 2.0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, int]]:
    home = tmp_path_factory.mktemp("guarded")
    tokens = home / "admins"
    tokens.write_text(f"e2e: {ADMIN}\n")
    (admin_port,) = free_ports(1)
    pool = {
        "name": "main",
        "engine": "simulated",
        "simulated": {"speed_factor": 20, "output_sigma": 0, "output_tokens_mean": {"low": 40}},
    }
    config: dict[str, Any] = {
        "name": NAME,
        "models": [{"name": "sim", "source": "tiny", "max_model_len": 8192, "pools": [pool]}],
        "gateway": {"replicas": 2, "num_cpus": 0.3},
        # On the way, between gateways and engines of a real Serve.
        "channel": {"tls": files(home, trustme.CA()).model_dump()},
        "access": {
            "mode": "keys",
            "admin": {"port": admin_port, "tokens_file": str(tokens)},
        },
    }
    with cluster(home, config) as found:
        yield found, admin_port


def trireme(found: Cluster, *args: str) -> Any:
    config = str(found.home / f"{NAME}.yaml")
    done = run(found.home, *args, "--config", config, "--json", name=NAME)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def statuses(found: Cluster, key: str, count: int = 6) -> set[int]:
    """Of so many requests, each on a connection of its own, so that both gateways are met."""
    body = {
        "model": "sim",
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": "hi"}],
    }
    with httpx.Client(trust_env=False, timeout=30) as http:
        headers = {"authorization": f"Bearer {key}", "connection": "close"}
        return {
            http.post(f"{found.url}/v1/chat/completions", json=body, headers=headers).status_code
            for _ in range(count)
        }


def until(found: Cluster, key: str, wanted: set[int]) -> float:
    """How long it took until both gateways answered so, in seconds."""
    began = time.monotonic()
    while statuses(found, key) != wanted:
        assert time.monotonic() - began < 20, f"{statuses(found, key)}, not {wanted}"
    return time.monotonic() - began


def test_a_key_is_made_rotated_and_revoked_while_the_cluster_serves(
    guarded: tuple[Cluster, int],
) -> None:
    found, admin_port = guarded
    assert statuses(found, "none") == {401}
    trireme(found, "tenants", "create", "acme")
    made = trireme(found, "keys", "create", "acme")
    until(found, made["key"], {200})

    client = openai.OpenAI(
        api_key=made["key"],
        base_url=f"{found.url}/v1",
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )
    assert "sim" in {model.id for model in client.models.list()}
    with (
        pytest.raises(openai.AuthenticationError),
        contextlib.closing(client.copy(api_key="no")) as c,
    ):
        c.models.list()

    new = trireme(found, "keys", "rotate", made["id"], "--overlap", "1h")
    until(found, new["key"], {200})
    assert statuses(found, made["key"]) == {200}

    with httpx.Client(base_url=f"http://127.0.0.1:{admin_port}", trust_env=False) as admin:
        assert admin.get("/admin/keys").status_code == 401
        admin.headers["authorization"] = f"Bearer {ADMIN}"
        began = time.monotonic()
        for each in (made, new):
            assert admin.post(f"/admin/keys/{each['id']}/revoke").status_code == 200
        until(found, new["key"], {401})
        # A round of requests to both gateways is part of it.
        assert time.monotonic() - began < TWO_S + 1.0
        assert statuses(found, made["key"]) == {401}
        log = admin.get("/admin/audit").json()["audit"]
    assert [each["who"].partition(":")[0] for each in log] == [
        "admin",
        "admin",
        "cli",
        "cli",
        "cli",
    ]
    # The admin API is one gateway's; both know as much.
    status = found.status()
    access = [gateway["access"] for gateway in status["gateways"]]
    assert [each["store"] for each in access] == ["ok", "ok"]
    assert sorted(bool(each["admin_url"]) for each in access) == [False, True]
    assert {each["keys"] for each in access} == {2}


def test_nothing_that_the_cluster_wrote_has_a_key_in_it(guarded: tuple[Cluster, int]) -> None:
    found, _ = guarded
    made = trireme(found, "keys", "create", "acme")
    secret = made["key"].rpartition("-")[2].encode()
    until(found, made["key"], {200})
    written = [path for path in Path(found.home).rglob("*") if path.is_file()]
    assert any(path.name == "store.sqlite" for path in written)
    for path in written:
        content = path.read_bytes()
        assert secret not in content, path
        assert ADMIN.encode() not in content or path.name == "admins", path
