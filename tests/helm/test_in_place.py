"""The trial preset's Serve configuration on a real Ray, with its tiny model on vLLM, and changed:
who answers, who is replaced, and who is not."""

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

import pytest
import yaml

from cluster.local_ray import (
    clean_environment,
    free_ports,
    local_environment,
    serve_environment,
)
from tests.helm.test_objects import config_of
from tests.helm.toolbox import CHART, ROOT, Helm, Tree, parsed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1000)]

TRIAL: Tree = yaml.safe_load((CHART / "values-trial.yaml").read_text())
(MODEL,) = TRIAL["config"]["models"]
# The preset's own pool: vLLM on CPUs. One engine is enough here, and a second takes a minute.
(MAIN,) = ({**pool, "replicas": 1} for pool in MODEL["pools"])
SPARE: Tree = {
    "name": "spare",
    "engine": "simulated",
    "device": "cpu",
    "num_cpus": 0.1,
    "drain_timeout_s": 5,
    # So that only the main pool answers.
    "tiers": [],
    "lends_to": ["low"],
}
SCALED: Tree = {
    **SPARE,
    "name": "scaled",
    "replicas": 2,
    "scaling": {"min_replicas": 2, "max_replicas": 3},
}
STEPS = ("installed", "resized", "tuned")


def values(port: int) -> dict[str, Tree]:
    """On top of the preset: an installation, an upgrade to other sizes of two pools, and one to
    other tiers."""
    gateway = {**TRIAL["config"]["gateway"], "port": port, "max_stream_s": 20}
    grown = {**SCALED, "scaling": {"min_replicas": 2, "max_replicas": 4}}
    first, second = [MAIN, SPARE, SCALED], [MAIN, {**SPARE, "replicas": 2}, grown]
    settings: list[Tree] = [
        {"models": [{**MODEL, "pools": first}]},
        {"models": [{**MODEL, "pools": second}]},
        {"models": [{**MODEL, "pools": second}], "tiers": {"high": {"max_queued": 99}}},
    ]
    return {
        step: {"config": {"gateway": gateway, **each}}
        for step, each in zip(STEPS, settings, strict=True)
    }


@pytest.fixture(scope="module")
def seen(helm: Helm) -> Iterator[dict[str, Tree]]:
    # Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="tri-"))
    (port,) = free_ports(1)
    manifests = []
    for step, given in values(port).items():
        rendered = helm.render("trial", values=given)
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
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0
        yield dict(zip(STEPS, json.loads(output.splitlines()[-1]), strict=True))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_trial_preset_is_served_by_vllm_at_every_step(seen: dict[str, Tree]) -> None:
    assert MAIN.get("engine", "vllm") == "vllm"
    for each in seen.values():
        answer = each["answer"]
        assert answer["finish"] in ("stop", "length")
        assert 0 < answer["usage"]["completion_tokens"] <= 8
        assert len(each["replicas"]["engine-main"]) == 1
        # The one that scales begins with its pool's own number.
        assert len(each["replicas"]["engine-scaled"]) == 2


def test_other_sizes_of_pools_replace_nothing(seen: dict[str, Tree]) -> None:
    before, after = (seen[step]["replicas"] for step in STEPS[:2])
    for name in ("gateway", "engine-main", "engine-scaled"):
        assert before[name] == after[name]
    old, new = (set(each["engine-spare"]) for each in (before, after))
    assert old < new
    assert (len(old), len(new)) == (1, 2)


def test_other_tiers_replace_gateways_and_no_engine(seen: dict[str, Tree]) -> None:
    before, after = (seen[step]["replicas"] for step in STEPS[1:])
    assert not set(before["gateway"]) & set(after["gateway"])
    for name in ("engine-main", "engine-spare", "engine-scaled"):
        assert before[name] == after[name]
