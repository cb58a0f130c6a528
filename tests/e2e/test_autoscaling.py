"""The autoscaler under real Ray and Serve: a step in load and back, and a policy that fails."""

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.config import TriremeConfig
from cluster.local_ray import clean_environment, free_ports, local_environment, serve_environment
from tests.e2e.running import HTTP, ROOT, Cluster, cluster, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MODEL = "gpt-oss-tiny"
TOKENS = 40
CALM_PER_S, BUSY_PER_S = 1.6, 8.0
CALM_S, BUSY_S, AFTER_S = 10.0, 40.0, 45.0

# A replica serves about 4 of these requests a second: 16 at once, 40 tokens of 100 ms.
CONFIG: dict[str, Any] = {
    "name": "scaled",
    "models": [
        {
            "name": MODEL,
            "source": "tiny",
            "max_model_len": 4096,
            "pools": [
                {
                    "engine": "simulated",
                    "replicas": 1,
                    "num_cpus": 0.01,
                    "max_num_seqs": 16,
                    "scaling": {"min_replicas": 1, "max_replicas": 6, "cold_start_s": 10},
                    "simulated": {
                        "step_ms": {"base": 20, "request": 5},
                        "output_tokens_mean": {"low": TOKENS, "medium": TOKENS, "high": TOKENS},
                        "output_sigma": 0,
                    },
                }
            ],
        }
    ],
    "gateway": {"num_cpus": 0.01},
    "tiers": {
        tier: {
            "max_queue_wait_s": 120,
            "max_queued": 1000,
            "prior_output_tokens_mean": TOKENS,
            "slo": {"ttft_s": 2.0, "tpot_ms": 110.0},
        }
        for tier in ("low", "medium", "high")
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
}


async def ask(client: httpx.AsyncClient, number: int) -> tuple[int, int]:
    """(status, output tokens) of one chat."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Question number {number}."}],
        "reasoning_effort": ("low", "medium", "high")[number % 3],
        "seed": number,
    }
    answer = await client.post("/v1/chat/completions", json=body)
    tokens = answer.json()["usage"]["completion_tokens"] if answer.status_code == 200 else 0
    return answer.status_code, tokens


async def play(url: str) -> list[tuple[int, int]]:
    """Calm, then five times as much, then calm again; open loop."""
    rng = random.Random(5)
    phases = ((CALM_PER_S, CALM_S), (BUSY_PER_S, BUSY_S), (CALM_PER_S, AFTER_S))
    tasks: list[asyncio.Task[tuple[int, int]]] = []
    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=httpx.Timeout(200), trust_env=False
    ) as client:
        for per_s, seconds in phases:
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                tasks.append(asyncio.create_task(ask(client, len(tasks))))
                await asyncio.sleep(rng.expovariate(per_s))
        return await asyncio.gather(*tasks)


def decisions(running: Cluster) -> list[dict[str, Any]]:
    """The autoscaler's log, the oldest first, by the command that operators use."""
    answer = run(running.home, "autoscale", "log", "--json", "--last", "1000", name=running.name)
    assert answer.returncode == 0, answer.stderr
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found[::-1]


def sizes(log: list[dict[str, Any]], what: str) -> list[int]:
    return [decision["pools"][0][what] for decision in log]


def turns(found: list[int]) -> int:
    """Changes of direction."""
    moves = [after - before for before, after in itertools.pairwise(found) if after != before]
    return sum(before * after < 0 for before, after in itertools.pairwise(moves))


async def test_five_times_the_load_and_back_loses_nothing_and_does_not_flap(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path, CONFIG) as running:
        answers = await play(running.url)
        assert answers == [(200, TOKENS)] * len(answers)
        log = decisions(running)
        heard = next(i for i, each in enumerate(log) if each["freshness"] == "fresh")
        log = log[heard:]  # before, the cluster was starting
        wanted, ready = sizes(log, "wanted"), sizes(log, "ready")
        told = f"wanted {wanted}\nready {ready}"
        assert max(ready) >= 3, told
        assert wanted[-1] <= 2, told
        assert ready[-1] <= 2, told
        assert turns(wanted) <= 3, told
        assert {decision["freshness"] for decision in log} == {"fresh"}, told
        metrics = autoscaler_metrics(running)
        assert f'trireme_replicas_wanted{{model="{MODEL}",pool="main"}}' in metrics
        assert "trireme_cold_start_seconds{" in metrics
        shown = run(running.home, "autoscale", "log", name=running.name).stdout
        assert "headroom" in shown


async def test_a_pool_that_nobody_uses_has_no_replica_and_wakes_for_whoever_asks(
    tmp_path: Path,
) -> None:
    (model,) = CONFIG["models"]
    (pool,) = model["pools"]
    asleep = {**pool, "scaling": {**pool["scaling"], "min_replicas": 0}}
    config = {
        **CONFIG,
        "name": "asleep",
        "models": [{**model, "pools": [asleep]}],
        "autoscaling": {**CONFIG["autoscaling"], "idle_s": 5},
    }
    with cluster(tmp_path, config) as running:
        for _ in range(2):
            deadline = time.monotonic() + 120
            while running.engines("main"):
                assert time.monotonic() < deadline, decisions(running)[-1]
                await asyncio.sleep(1)
            assert HTTP.get(f"{running.url}/ready").status_code == 200
            async with httpx.AsyncClient(
                base_url=running.url, timeout=httpx.Timeout(200), trust_env=False
            ) as client:
                answers = await asyncio.gather(*(ask(client, number) for number in range(6)))
            assert answers == [(200, TOKENS)] * 6
        log = decisions(running)
        wanted = sizes(log, "wanted")
        assert [size for size, _ in itertools.groupby(wanted)].count(0) == 2, wanted
        assert {decision["freshness"] for decision in log[-10:]} == {"fresh"}


def test_serves_external_scaler_is_told_through_rays_dashboard(tmp_path: Path) -> None:
    (model,) = CONFIG["models"]
    (pool,) = model["pools"]
    (port,) = free_ports(1)
    config = {
        **CONFIG,
        "name": "external",
        "models": [
            {
                **model,
                "pools": [
                    {
                        **pool,
                        "scaling": {**pool["scaling"], "schedules": ["daily 00:00-00:00 >= 3"]},
                    }
                ],
            }
        ],
        "autoscaling": {
            **CONFIG["autoscaling"],
            "actuator": "external",
            "dashboard_url": f"http://127.0.0.1:{port}",
        },
    }
    with cluster(tmp_path, config) as running:
        deadline = time.monotonic() + 120
        while True:
            there = [each for each in running.status()["replicas"] if each.get("pool") == "main"]
            if len(there) == 3 and all(each["healthy"] for each in there):
                break
            assert time.monotonic() < deadline, (there, decisions(running)[-1])
            time.sleep(1)
        # The API takes no orders from who has not the cluster's token.
        url = f"http://127.0.0.1:{port}/api/v1/applications/external/deployments/engine:main/scale"
        assert HTTP.post(url, json={"target_num_replicas": 1}).status_code == 401


def autoscaler_metrics(running: Cluster) -> str:
    from cluster.run_state import ClusterRecord

    view = ClusterRecord(running.home / "trireme" / "state", running.name).read_view()
    assert view is not None
    assert view.autoscaler is not None
    return HTTP.get(f"{view.autoscaler.ops_url}/metrics").text


def test_serves_controller_outlives_a_policy_that_fails() -> None:
    folder = tempfile.mkdtemp(prefix="tr-as-", dir="/tmp")
    environ = clean_environment(os.environ) | serve_environment(TriremeConfig())
    environ |= local_environment(Path(folder)) | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.scaled_app", folder],
        env=environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=300)
        found = json.loads(output.splitlines()[-1])
        assert found == dict.fromkeys(found, True)
        assert len(found) == 7
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
