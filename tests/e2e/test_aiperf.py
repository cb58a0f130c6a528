"""NVIDIA's AIPerf, unchanged, loads a cluster with a mix of tiers: real Ray, Serve and HAProxy.

Needs its package and a minute and a half, so it runs only with ``TRIREME_TEST_AIPERF=1``;
docs/api.md has what it found.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.config import TIERS
from deployments.tiny_model import make_tiny_model
from tests.conformance.installed import python_with
from tests.e2e.running import HTTP, cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("TRIREME_TEST_AIPERF") != "1",
        reason="installs and runs AIPerf: TRIREME_TEST_AIPERF=1 runs it",
    ),
]

MODEL = "gpt-oss-tiny"
REQUESTS = 300
CONFIG: dict[str, Any] = {
    "name": "aiperf",
    "models": [
        {
            "name": MODEL,
            "source": "tiny",
            "max_model_len": 8192,
            "pools": [
                {
                    "engine": "simulated",
                    "replicas": 2,
                    "num_cpus": 0.3,
                    "max_num_seqs": 32,
                    "simulated": {
                        "step_ms": {"base": 20},
                        "output_tokens_mean": {"low": 20, "medium": 60, "high": 150},
                    },
                }
            ],
        }
    ],
    "gateway": {"replicas": 2, "num_cpus": 0.3},
}


def served(ops_url: str) -> dict[str, float]:
    """Requests that this gateway has served, by tier."""
    found: dict[str, float] = {}
    text = HTTP.get(f"{ops_url}/metrics").text
    for line in re.findall(r"^trireme_requests_total\{.*outcome=\"ok\".*$", text, re.M):
        tier = re.search(r'tier="(\w+)"', line)
        assert tier is not None
        found[tier[1]] = found.get(tier[1], 0.0) + float(line.rpartition(" ")[2])
    return found


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_mix_of_tiers_is_served_without_an_error(
    request: pytest.FixtureRequest, tmp_path: Path, endpoint: str
) -> None:
    aiperf = python_with(request, "aiperf").with_name("aiperf")
    tokenizer = make_tiny_model(tmp_path / "tokenizer")
    artifacts = tmp_path / "artifacts"
    models = ",".join(f"{MODEL}-{tier}" for tier in TIERS)
    with cluster(tmp_path, CONFIG) as running:
        command = [
            str(aiperf), "profile", "--model-names", models,
            "--model-selection-strategy", "random", "--random-seed", "7",
            "--endpoint-type", endpoint, "--streaming", "--url", running.url,
            "--tokenizer", str(tokenizer), "--concurrency", "16",
            "--request-count", str(REQUESTS), "--synthetic-input-tokens-mean", "300",
            "--output-artifact-dir", str(artifacts), "--ui", "none",
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        environment |= {"DO_NOT_TRACK": "1", "HOME": str(tmp_path)}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=600, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        by_tier: dict[str, float] = dict.fromkeys(TIERS, 0.0)
        for each in running.status()["gateways"]:
            for tier, count in served(each["ops_url"]).items():
                by_tier[tier] += count
    (report,) = artifacts.rglob("profile_export_aiperf.json")
    figures = json.loads(report.read_text())
    print(f"{endpoint}: {by_tier}; errors: {figures.get('error_summary')}")
    assert figures["request_count"]["avg"] == REQUESTS
    assert not figures.get("error_summary")
    assert sum(by_tier.values()) >= REQUESTS  # AIPerf may knock before it begins
    assert min(by_tier.values()) > REQUESTS / 6
