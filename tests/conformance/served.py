"""What the clients of other makers are tried against."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.real_engines.conftest import MODEL, real_pool
from tests.e2e.running import HTTP, Cluster, cluster, run
from tests.services import redis_server

NAME = "clients"
CONTEXT = 8192


@dataclass(frozen=True)
class Served:
    """A base URL, and keys: of a tenant without limits, and of one that may have one request at a
    time. ``cluster`` None: the scripted model, which refuses when it is told to."""

    url: str
    key: str = "x"
    busy_key: str = "x"
    cluster: Cluster | None = None

    def environ(self) -> dict[str, str]:
        """As the clients' scripts read it."""
        return {
            "TRIREME_CONFORMANCE_KEY": self.key,
            "TRIREME_CONFORMANCE_BUSY_KEY": self.busy_key,
        }

    def refusals(self) -> float:
        """How many requests a limit of their tenant has refused so far, at all gateways."""
        assert self.cluster is not None
        texts = [
            HTTP.get(f"{gateway['ops_url']}/metrics").text
            for gateway in self.cluster.status()["gateways"]
        ]
        return sum(
            float(line.rpartition(" ")[2])
            for text in texts
            for line in text.splitlines()
            if line.startswith("trireme_quota_refusals_total{")
        )


def running_already(url: str) -> Served:
    """One that somebody has started; its keys are in this process's environment."""
    key = os.environ.get("TRIREME_CONFORMANCE_KEY", "x")
    return Served(url, key, os.environ.get("TRIREME_CONFORMANCE_BUSY_KEY", key))


@contextmanager
def live_cluster(home: Path) -> Iterator[Served]:
    """`./trireme up`: HAProxy, two gateways that share a Redis, and two real vLLM engines."""
    model = {
        "name": MODEL,
        "source": "tiny",
        "aliases": ["tiny"],
        "max_model_len": CONTEXT,
        "pools": [real_pool("main", replicas=2)],
    }
    with redis_server(home) as redis:
        config = {
            "name": NAME,
            "models": [model],
            "gateway": {"replicas": 2, "num_cpus": 0.1},
            "access": {"mode": "keys"},
            "quotas": {"redis_url": redis.url},
            "responses": {"enabled": True},
        }
        with cluster(home, config) as running:
            key = _key(running, "free")
            busy_key = _key(running, "one-at-a-time", "--limit", "concurrent_requests=1")
            _until_known(running, key, busy_key)
            yield Served(running.url, key, busy_key, running)


def _key(running: Cluster, tenant: str, *limits: str) -> str:
    def trireme(*args: str) -> Any:
        config = str(running.home / f"{NAME}.yaml")
        done = run(running.home, *args, "--config", config, "--json", name=NAME)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    trireme("tenants", "create", tenant, "--default-tier", "low", *limits)
    key: str = trireme("keys", "create", tenant)["key"]
    return key


def _until_known(running: Cluster, *keys: str) -> None:
    """Both gateways read the store anew each second; each connection goes to another of them."""
    pairs = [(key, again) for key in keys for again in range(2)]
    while not all(_is_known(running, key) for key, _ in pairs):
        time.sleep(0.2)


def _is_known(running: Cluster, key: str) -> bool:
    headers = {"authorization": f"Bearer {key}", "connection": "close"}
    return HTTP.get(f"{running.url}/v1/models", headers=headers).status_code == 200
