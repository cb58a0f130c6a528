"""The rendered Serve configuration on a real Ray, then changed: who is replaced, who is not."""

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
from tests.helm.test_objects import config_of
from tests.helm.toolbox import ROOT, Helm, parsed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

MAIN: dict[str, Any] = {
    "name": "main",
    "engine": "simulated",
    "device": "cpu",
    "num_cpus": 0.1,
    "drain_timeout_s": 5,
}
SPARE: dict[str, Any] = {**MAIN, "name": "spare", "tiers": []}
SCALED: dict[str, Any] = {
    **SPARE,
    "name": "scaled",
    "replicas": 2,
    "scaling": {"min_replicas": 2, "max_replicas": 3},
}
STEPS = ("before", "after")


def values(port: int) -> dict[str, dict[str, Any]]:
    """Of an installation, and of an upgrade that changes a tier and the sizes of two pools."""
    gateway = {"replicas": 1, "num_cpus": 0.1, "port": port, "max_stream_s": 20}
    config: dict[str, Any] = {
        "name": "trial",
        "gateway": {**gateway, "insecure_listen_without_auth": True},
        "access": {"mode": "none"},
    }
    model = {"name": "sim", "source": "tiny"}
    first = {**config, "models": [{**model, "pools": [MAIN, SPARE, SCALED]}]}
    grown = {**SCALED, "scaling": {"min_replicas": 2, "max_replicas": 4}}
    pools = [MAIN, {**SPARE, "replicas": 2}, grown]
    tiers = {"high": {"max_queued": 99}}
    second = {**config, "tiers": tiers, "models": [{**model, "pools": pools}]}
    return {"before": {"config": first}, "after": {"config": second}}


@pytest.fixture(scope="module")
def seen(helm: Helm) -> Iterator[dict[str, dict[str, Any]]]:
    # Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="tri-"))
    (port,) = free_ports(1)
    manifests = []
    for step, given in values(port).items():
        rendered = helm.render(values=given)
        assert rendered.returncode == 0, rendered.stderr
        manifests.append(folder / f"{step}.yaml")
        manifests[-1].write_text(rendered.stdout)
    config = config_of(parsed(manifests[0].read_text()))
    places = {f"trireme-engine-{pool.name}": 4 for _, pool in config.pools()}
    places |= {"trireme-gateway": 2, "trireme-head": 1}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRIREME_", "RAY_"))}
    environment = clean_environment(environment) | serve_environment(config)
    environment |= local_environment(folder, config.gateway)
    environment |= {
        "RAY_OVERRIDE_RESOURCES": json.dumps(places),
        "TRIREME_CHANNEL_SECRET": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT),
        # The time in which HAProxy hears that a gateway leaves.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helm.in_place", str(folder), *map(str, manifests)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=360)
        assert process.returncode == 0
        yield dict(zip(STEPS, json.loads(output.splitlines()[-1]), strict=True))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_cluster_answers_before_and_after(seen: dict[str, dict[str, Any]]) -> None:
    assert {each["answer"] for each in seen.values()} <= {"stop", "length"}
    # The one that scales begins with its pool's own number.
    assert {len(each["replicas"]["engine-scaled"]) for each in seen.values()} == {2}


def test_gateways_are_replaced_and_no_engine_is(seen: dict[str, dict[str, Any]]) -> None:
    before, after = (seen[step]["replicas"] for step in STEPS)
    assert not set(before["gateway"]) & set(after["gateway"])
    assert before["engine-main"] == after["engine-main"]
    assert before["engine-scaled"] == after["engine-scaled"]


def test_a_pool_that_grows_keeps_what_it_has(seen: dict[str, dict[str, Any]]) -> None:
    before, after = (set(seen[step]["replicas"]["engine-spare"]) for step in STEPS)
    assert before < after
    assert (len(before), len(after)) == (1, 2)
