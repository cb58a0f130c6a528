"""The rendered Serve configuration on a real Ray, then changed: who is replaced, who is not."""

import copy
import itertools
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

POOL: dict[str, Any] = {
    "name": "main",
    "engine": "simulated",
    "device": "cpu",
    "num_cpus": 0.1,
    "drain_timeout_s": 5,
}
STEPS = ("first", "tiers", "one more", "engines")


def values(port: int) -> dict[str, dict[str, Any]]:
    """The values of each step, one change a step."""
    spare = {**POOL, "name": "spare", "tiers": []}
    spare["scaling"] = {"min_replicas": 1, "max_replicas": 2}
    config: dict[str, Any] = {
        "name": "trial",
        "gateway": {
            "replicas": 1,
            "num_cpus": 0.1,
            "port": port,
            "max_stream_s": 20,
            "insecure_listen_without_auth": True,
        },
        "access": {"mode": "none"},
        "models": [{"name": "sim", "source": "tiny", "pools": [POOL, spare]}],
    }
    found = {"first": {"config": config}}
    for before, step in itertools.pairwise(STEPS):
        found[step] = copy.deepcopy(found[before])
    for step in STEPS[1:]:
        found[step]["config"]["tiers"] = {"high": {"max_queued": 99}}
    for step in STEPS[2:]:
        found[step]["config"]["models"][0]["pools"][0]["replicas"] = 2
    found["engines"]["config"]["models"][0]["pools"][0]["max_num_seqs"] = 17
    return found


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


def test_every_step_answers(seen: dict[str, dict[str, Any]]) -> None:
    assert {each["answer"] for each in seen.values()} <= {"stop", "length"}
    assert [len(seen[step]["replicas"]["engine-main"]) for step in STEPS] == [1, 1, 2, 2]
    # The one that scales begins with its pool's own number.
    assert {len(each["replicas"]["engine-spare"]) for each in seen.values()} == {1}


def test_a_changed_tier_replaces_gateways_and_no_engine(seen: dict[str, dict[str, Any]]) -> None:
    before, after = seen["first"]["replicas"], seen["tiers"]["replicas"]
    assert not set(before["gateway"]) & set(after["gateway"])
    for pool in ("engine-main", "engine-spare"):
        assert before[pool] == after[pool]


def test_one_more_replica_replaces_no_engine(seen: dict[str, dict[str, Any]]) -> None:
    before, after = seen["tiers"]["replicas"], seen["one more"]["replicas"]
    assert set(before["engine-main"]) < set(after["engine-main"])
    assert before["engine-spare"] == after["engine-spare"]


def test_a_setting_of_engines_replaces_those_of_its_pool(seen: dict[str, dict[str, Any]]) -> None:
    before, after = seen["one more"]["replicas"], seen["engines"]["replicas"]
    assert not set(before["engine-main"]) & set(after["engine-main"])
    assert before["engine-spare"] == after["engine-spare"]
