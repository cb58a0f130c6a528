"""Whole clusters for tests: brought up and taken down by the command line, each in its own home."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from cluster.local_ray import free_ports
from cluster.processes import members
from cluster.run_state import ClusterRecord

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Cluster:
    """A running cluster; ``name`` is that of its configuration."""

    home: Path
    name: str
    url: str
    said: str = ""
    """What `up` printed."""

    def status(self) -> dict[str, Any]:
        answer = run(self.home, "status", "--json", name=self.name)
        assert answer.returncode == 0, answer.stderr
        status: dict[str, Any] = json.loads(answer.stdout)
        return status

    def processes(self) -> list[psutil.Process]:
        state = ClusterRecord(self.home / "trireme" / "state", self.name).read()
        assert state is not None
        return members(state.cluster_id, Path(state.run_dir))

    def ops(self) -> list[dict[str, Any]]:
        """``/status`` of every gateway and engine process."""
        status = self.status()
        return [look(each["ops_url"]) for each in (*status["gateways"], *status["replicas"])]

    def engines(self, pool: str) -> list[str]:
        """Ops URLs of the pool's replicas."""
        return [e["ops_url"] for e in self.status()["replicas"] if e.get("pool") == pool]


HTTP = httpx.Client(trust_env=False, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
"""One for all: making a client costs more CPU than asking with it. A connection for each question:
one that is kept may be closed by the server, after 5 s, just as the next question goes out."""


def look(ops_url: str) -> dict[str, Any]:
    """A process's own status."""
    status: dict[str, Any] = HTTP.get(f"{ops_url}/status").json()
    return status


def environ(home: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TRIREME_", "RAY_"))}
    return clean | {
        "HOME": str(home),
        "TRIREME_HOME": str(home / "trireme"),
        "PYTHONPATH": str(ROOT),
    }


def run(home: Path, *args: str, name: str = "trireme") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", *args],
        env=environ(home) | {"TRIREME_NAME": name},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


@contextmanager
def cluster(home: Path, config: dict[str, Any]) -> Iterator[Cluster]:
    """Bring ``config`` up on a free port; take everything down at the end."""
    (port,) = free_ports(1)
    config = {**config, "gateway": {**config.get("gateway", {}), "port": port}}
    file = home / f"{config['name']}.yaml"
    file.write_text(yaml.safe_dump(config))
    try:
        up = run(home, "up", "--config", str(file), "--detach", name=config["name"])
        assert up.returncode == 0, up.stdout + up.stderr
        scheme = "https" if config["gateway"].get("tls") else "http"
        yield Cluster(home, config["name"], f"{scheme}://127.0.0.1:{port}", up.stdout)
    finally:
        down = run(home, "down", name=config["name"])
        # Else a cluster stays behind, unnoticed, and slows down all that comes after it.
        assert down.returncode == 0, down.stdout + down.stderr
