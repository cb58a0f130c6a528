"""The rendered RayService, run: its Serve configuration on a Ray whose nodes are its pods."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helm.toolbox import ROOT, Helm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

VALUES: dict[str, Any] = {
    "config": {
        "name": "trial",
        "gateway": {
            "replicas": 1,
            "max_stream_s": 300,
            "insecure_listen_without_auth": True,
        },
        "access": {"mode": "none"},
        "models": [
            {
                "name": "sim",
                "source": "tiny",
                "pools": [
                    {
                        "name": "main",
                        "engine": "simulated",
                        "device": "cpu",
                        "drain_timeout_s": 20,
                        "scaling": {"min_replicas": 1, "max_replicas": 2},
                        "simulated": {"output_tokens_mean": {"high": 2500}, "output_sigma": 0},
                    }
                ],
            }
        ],
    },
    "pools": {"main": {"maxReplicas": 2}},
}


WANTED = "TRIREME_TEST_PODS"


def allowed() -> bool:
    """Whether this machine lets us make network namespaces."""
    tools = all(shutil.which(each) for each in ("ip", "unshare"))
    return tools and subprocess.run(["unshare", "-m", "-n", "true"], check=False).returncode == 0


@pytest.fixture(scope="module")
def seen(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not os.environ.get(WANTED):
        pytest.skip(f"{WANTED}=1 runs it: 3 minutes, on a machine with nothing else to do")
    if not allowed():
        pytest.skip("no network namespaces here: root, `ip` and `unshare` are needed")
    home = tmp_path_factory.mktemp("pods")
    manifest = home / "manifest.yaml"
    rendered = helm.render(values=VALUES)
    assert rendered.returncode == 0, rendered.stderr
    manifest.write_text(rendered.stdout)
    command = ["unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.helm.pods", str(manifest)],
        cwd=home,
        env={"PATH": path, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
    )
    logs = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in home.glob("*.log"))
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{logs}"
    print(done.stdout)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_the_rendered_cluster_answers(seen: dict[str, Any]) -> None:
    assert set(seen["answers"].values()) <= {"stop", "length"}
    assert set(seen["answers"]) == {"low", "high"}
    assert seen["applications"] == {
        "trial": "RUNNING",
        "trial-engine-main": "RUNNING",
        "trial-autoscaler": "RUNNING",
    }


def test_every_process_tells_its_metrics_where_the_manifest_says(seen: dict[str, Any]) -> None:
    assert seen["gateway"]
    assert seen["requests counted"]
    assert seen["autoscaler on head"]


def test_a_pod_that_ends_hands_its_streams_over(seen: dict[str, Any]) -> None:
    leaving = seen["leaving"]
    assert leaving["hook"] == 0, leaving
    assert leaving["old is away"], leaving
    assert leaving["spare serves"], leaving
    assert leaving["stream"].get("done"), leaving
    assert leaving["stream"]["tokens"] > 100, leaving


def test_without_the_head_and_its_store_every_request_is_served(seen: dict[str, Any]) -> None:
    away = seen["without head"]
    assert away["asked while away"] >= 5, away
    assert away["failed"] == [], away
    assert all(stream.get("done") for stream in away["streams"]), away
    assert away["a new engine"], away
