"""The rendered RayService, run: its Serve configuration on a Ray whose nodes are its pods."""

from typing import Any

import pytest

from tests.helm.in_pods import run_in_pods
from tests.helm.toolbox import Helm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1600)]

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


@pytest.fixture(scope="module")
def seen(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_pods(helm, VALUES, "tests.helm.pods", tmp_path_factory.mktemp("pods"))


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
