"""The rendered cluster under a step in load: pods come, hand their work over, and go.

Trireme's autoscaler says how many replicas, Ray's asks for pods through its KubeRay provider; the
API and the operator are stand-ins (``stand_in.py``, ``kuberay.py``), the pods local (``pods.py``).
"""

import pytest

from tests.helm.in_pods import run_in_pods
from tests.helm.scaling import STREAM_TOKENS
from tests.helm.toolbox import Helm, Tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1600)]

VALUES: Tree = {
    "config": {
        "name": "trial",
        "gateway": {"replicas": 1, "max_stream_s": 300, "insecure_listen_without_auth": True},
        "access": {"mode": "none"},
        "models": [
            {
                "name": "sim",
                "source": "tiny",
                "max_model_len": 8192,
                "pools": [
                    {
                        "name": "main",
                        "engine": "simulated",
                        "device": "cpu",
                        "max_num_seqs": 16,
                        "drain_timeout_s": 20,
                        "scaling": {"min_replicas": 1, "max_replicas": 3, "cold_start_s": 20},
                        # A replica serves about 4 of the short requests a second.
                        "simulated": {
                            "step_ms": {"base": 20, "request": 5},
                            "output_tokens_mean": {"low": 40, "high": STREAM_TOKENS},
                            "output_sigma": 0,
                        },
                    }
                ],
            }
        ],
        "tiers": {
            tier: {
                "max_queue_wait_s": 120,
                "max_queued": 1000,
                "prior_output_tokens_mean": tokens,
                "slo": {"ttft_s": 2.0, "tpot_ms": 110.0},
            }
            for tier, tokens in (("low", 40), ("medium", 40), ("high", STREAM_TOKENS))
        },
        "autoscaling": {
            "enabled": True,
            "interval_s": 1,
            "collect_s": 0.5,
            "stale_after_s": 10,
            "hold_s": 8,
            "reversals_per_h": 120,
            "forecast": False,
        },
    },
    "pools": {"main": {"minReplicas": 1, "maxReplicas": 3}},
    "nodes": {"idleTimeoutSeconds": 10},
}


@pytest.fixture(scope="module")
def seen(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return run_in_pods(helm, VALUES, "tests.helm.scaling", tmp_path_factory.mktemp("grown"))


def test_a_step_in_load_makes_pods_and_a_quiet_spell_removes_them(seen: Tree) -> None:
    assert seen["engine pods"] == [1, 3, 1], seen
    assert seen["replicas"] == 1, seen
    assert len(seen["deleted"]) == 2, seen
    assert seen["answer"] in ("stop", "length"), seen


def test_no_request_failed_and_no_stream_was_cut(seen: Tree) -> None:
    assert seen["failed"] == [], seen
    assert seen["requests"] > 50, seen
    assert [each.get("tokens") for each in seen["streams"]] == [STREAM_TOKENS] * len(
        seen["streams"]
    ), seen
    # They ran while the pods went, and some of them had been on those.
    assert seen["streams when the first pod went"] > 0, seen
    assert seen["streams moved"] > 0, seen
