"""The rendered Serve configuration on a real Ray with HAProxy and Redis, under a load whose every
token is checked: gateways and engines replaced, a gateway killed, the head gone."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.local_ray import (
    clean_environment,
    free_ports,
    local_environment,
    serve_environment,
)
from tests.helm.steady_load import CLIENTS
from tests.helm.test_objects import config_of
from tests.helm.toolbox import ROOT, Helm, Tree, of_kind, parsed
from tests.services import redis_program

WANTED = "TRIREME_TEST_ROLLING"
"""How many seconds the head is gone."""

AWAY_S = float(os.environ.get(WANTED) or "0")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900 + 2 * AWAY_S),
    pytest.mark.skipif(not AWAY_S, reason=f"{WANTED}=15 runs it: 4 to 6 minutes"),
]

MAIN: dict[str, Any] = {
    "name": "main",
    "engine": "simulated",
    "device": "cpu",
    "num_cpus": 0.1,
    "replicas": 2,
    "drain_timeout_s": 5,
    "simulated": {
        "step_ms": {"base": 50},
        "output_sigma": 0,
        "output_tokens_mean": {"low": 20, "medium": 60, "high": 160},
    },
}
STEPS = ("before", "a changed tier", "a changed pool")


def values(port: int) -> dict[str, dict[str, Any]]:
    """Of an installation and two upgrades."""
    gateway = {"replicas": 2, "num_cpus": 0.1, "port": port, "max_stream_s": 60, "resume_s": 60}
    config: dict[str, Any] = {
        "name": "trial",
        "gateway": {**gateway, "insecure_listen_without_auth": True},
        "access": {"mode": "none"},
    }
    model = {"name": "sim", "source": "tiny"}
    first = {**config, "models": [{**model, "pools": [MAIN]}]}
    second = {**first, "tiers": {"high": {"max_queued": 99}}}
    third = {**second, "models": [{**model, "pools": [{**MAIN, "env": {"ANYTHING": "else"}}]}]}
    return {
        step: {"config": each} for step, each in zip(STEPS, (first, second, third), strict=True)
    }


def patience(objects: list[Tree]) -> dict[str, str]:
    """How long the pods of engines wait for a head."""
    name = "RAY_gcs_rpc_server_reconnect_timeout_s"
    (service,) = of_kind(objects, "RayService")
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    environments = [each["template"]["spec"]["containers"][0]["env"] for each in groups]
    (found,) = {v["value"] for each in environments for v in each if v["name"] == name}
    return {name: found}


@pytest.fixture(scope="module")
def seen(helm: Helm) -> Iterator[dict[str, Any]]:
    redis_program()  # skips where there is none
    # Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="tri-"))
    (port,) = free_ports(1)
    manifests = []
    for number, given in enumerate(values(port).values()):
        rendered = helm.render(values=given)
        assert rendered.returncode == 0, rendered.stderr
        manifests.append(folder / f"{number}.yaml")
        manifests[-1].write_text(rendered.stdout)
    objects = parsed(manifests[0].read_text())
    config = config_of(objects)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRIREME_", "RAY_"))}
    environment = clean_environment(environment) | serve_environment(config)
    environment |= local_environment(folder, config.gateway) | patience(objects)
    environment |= {
        "RAY_OVERRIDE_RESOURCES": json.dumps(
            {"trireme-engine-main": 2, "trireme-gateway": 2, "trireme-head": 1}
        ),
        "TRIREME_CHANNEL_SECRET": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT),
        # The time in which HAProxy hears that a gateway leaves.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }
    command = [sys.executable, "-m", "tests.helm.rolling", str(folder), str(AWAY_S)]
    process = subprocess.Popen(
        [*command, *map(str, manifests)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=800 + AWAY_S)
        assert process.returncode == 0
        print(output)
        yield json.loads(output.splitlines()[-1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_no_client_sees_anything_of_it(seen: dict[str, Any]) -> None:
    assert {name: each["failed"] for name, each in seen["phases"].items() if each["failed"]} == {}


def test_there_was_a_load_all_the_time(seen: dict[str, Any]) -> None:
    ended = {name: each["ended"] for name, each in seen["phases"].items()}
    for phase in ("gateways replaced", "engines replaced", "the head gone"):
        assert set(ended[phase]) == set(CLIENTS), ended
    assert set(ended["a gateway killed"]) >= {"resumable", "whole"}, ended


def test_what_a_change_is_for_was_replaced_and_nothing_else(seen: dict[str, Any]) -> None:
    assert seen["gateways replaced: replaced"] == ["gateway"]
    # A gateway knows all of the configuration, so it is replaced as well.
    assert seen["engines replaced: replaced"] == ["engine-main", "gateway"]


def test_streams_of_a_killed_gateway_came_back(seen: dict[str, Any]) -> None:
    assert seen["gateways"] == 2
    assert seen["phases"]["a gateway killed"]["came_back"] >= 1


def test_without_a_head_nobody_is_replaced(seen: dict[str, Any]) -> None:
    assert seen["kept through the head's absence"]
    assert seen["another controller"]
