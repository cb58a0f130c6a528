"""What can be said of launching without a cluster: refusals, messages, and cleaning up."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.config import TriremeConfig
from cluster.defaults import default_config
from cluster.endpoint import curl_line
from cluster.failures import engine_error, start_failure
from cluster.hardware import Hardware
from cluster.launch import Plan, Refused, clear_stale, endpoint_url, with_port
from cluster.local_ray import clean_environment, free_ports, serve_environment
from cluster.processes import MARKER
from cluster.run_state import ClusterRecord, DeploymentView, FleetView, RunState

LAPTOP = Hardware(cpus=2, memory_bytes=8 << 30)


def plan_on(port: int) -> Plan:
    return Plan(default_config(LAPTOP, engine="simulated", port=port), LAPTOP, "test")


def test_a_port_in_use_is_refused_in_one_line_with_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused) as refusal:
            with_port(plan_on(port))
    assert "\n" not in str(refusal.value)
    assert f"port {port}" in str(refusal.value)
    assert "--port" in str(refusal.value)


def test_port_zero_becomes_a_port_that_can_be_listened_on() -> None:
    port = with_port(plan_on(0)).config.gateway.port
    with socket.create_server(("127.0.0.1", port)):
        assert port > 0


def test_a_free_port_is_kept() -> None:
    (port,) = free_ports(1)
    assert with_port(plan_on(port)).config.gateway.port == port


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("gpu-1", "http://gpu-1:8000"),
    ],
)
def test_the_endpoint_is_one_that_this_machine_can_reach(host: str, url: str) -> None:
    gateway = {"host": host, "insecure_listen_without_auth": True}
    assert endpoint_url(TriremeConfig.model_validate({"gateway": gateway})) == url


def test_a_failed_start_is_told_by_the_last_line_of_its_traceback() -> None:
    message = (
        "The deployment failed to start 2 times in a row.\nTraceback (most recent call last):\n"
        '  File "x.py", line 3, in f\nRuntimeError: no such model\n'
    )
    failed = DeploymentView("engine-main", "DEPLOY_FAILED", 0, 2, message)
    fine = DeploymentView("gateway", "HEALTHY", 1, 1, "")
    view = FleetView(0.0, "DEPLOY_FAILED", "failed", (failed, fine))
    assert start_failure(view) == "engine-main did not start: RuntimeError: no such model"


def test_an_application_that_fails_as_a_whole_is_told_too() -> None:
    view = FleetView(0.0, "DEPLOY_FAILED", "Deploying failed:\n no route\n")
    assert start_failure(view) == "the application did not start: no route"


def test_the_root_cause_is_looked_up_where_vllm_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "worker-1.out").write_text("INFO all is well\n")
    assert engine_error(tmp_path) is None
    (tmp_path / "worker-2.out").write_text(
        "(EngineCore pid=7) ERROR 11-21 23:40:03 [core.py:1510]     raise ValueError(\n"
        "(EngineCore pid=7) ERROR 11-21 23:40:03 [core.py:1510] ValueError: No memory left.\n"
    )
    assert engine_error(tmp_path) == "the engine says: ValueError: No memory left."


def test_the_curl_line_is_one_shell_command_with_a_streamed_low_effort_chat() -> None:
    words = shlex.split(curl_line("http://127.0.0.1:8000", "it's"))
    body = json.loads(words[-1])
    assert words[:3] == ["curl", "-N", "http://127.0.0.1:8000/v1/chat/completions"]
    assert (body["model"], body["stream"], body["reasoning_effort"]) == ("it's", True, "low")


def test_haproxy_is_told_before_ray_starts_and_leaves_hour_long_streams_alone() -> None:
    environ = serve_environment(TriremeConfig())
    assert environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    for limit in ("HARD_STOP_AFTER_S", "TIMEOUT_CLIENT_S", "TIMEOUT_SERVER_S"):
        assert int(environ[f"RAY_SERVE_HAPROXY_{limit}"]) >= 3600


def test_without_haproxy_serve_routes_through_its_own_proxy() -> None:
    config = TriremeConfig.model_validate({"gateway": {"haproxy": False}})
    environ = serve_environment(config)
    assert environ["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert environ["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


def test_another_rays_address_and_proxies_do_not_reach_our_processes() -> None:
    environ = clean_environment({"RAY_ADDRESS": "elsewhere:1", "no_proxy": "corp", "HOME": "/h"})
    assert "RAY_ADDRESS" not in environ
    assert environ["no_proxy"].split(",") == ["corp", "127.0.0.1", "localhost"]
    assert environ["HOME"] == "/h"


def test_what_a_killed_supervisor_left_is_ended_and_forgotten(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    record = ClusterRecord(tmp_path, "trireme")
    record.write(
        RunState(
            name="trireme",
            cluster_id="stale-test",
            phase="ready",
            supervisor_pid=1,
            run_dir=str(run_dir),
            url="http://127.0.0.1:1",
            started_at="",
            config="",
        )
    )
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, MARKER: "stale-test"},
        start_new_session=True,
    )

    assert clear_stale(record)

    assert not psutil.pid_exists(left.pid)
    assert not run_dir.exists()
    assert record.read() is None
    assert not clear_stale(record)
