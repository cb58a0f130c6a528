"""500 streams at once on 8 simulated replicas through 2 gateways: every token, and nothing left."""

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.config import SimulatedEngineConfig
from deployments.engine.simulated import reply
from tests.e2e.running import HTTP, Cluster, cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MODEL = "gpt-oss-tiny"
STREAMS = 500
ENGINE = {
    "step_ms": {"base": 50},
    "output_tokens_mean": {"low": 30, "medium": 50, "high": 80},
    "output_sigma": 0.5,
}
CONFIG: dict[str, Any] = {
    "name": "many",
    "models": [
        {
            "name": MODEL,
            "source": "tiny",
            "max_model_len": 4096,
            "pools": [
                {
                    "engine": "simulated",
                    "replicas": 8,
                    "num_cpus": 0.01,
                    "max_num_seqs": 64,
                    "simulated": ENGINE,
                }
            ],
        }
    ],
    "gateway": {"replicas": 2, "num_cpus": 0.01},
    "tiers": {
        tier: {"max_queue_wait_s": 300, "max_queued": 600} for tier in ("low", "medium", "high")
    },
}


async def one(
    client: httpx.AsyncClient, number: int, tier: str
) -> tuple[list[int], list[int], str]:
    """(prompt tokens, reply tokens, replica) of one streamed chat."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Stream number {number}, please."}],
        "reasoning_effort": tier,
        "seed": number,
        "stream": True,
        "return_token_ids": True,
    }
    prompt: list[int] = []
    tokens: list[int] = []
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["x-trireme-tier"] == tier
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                prompt = event.get("prompt_token_ids") or prompt
                for choice in event["choices"]:
                    tokens += choice.get("token_ids") or []
    return prompt, tokens, response.headers["x-trireme-replica"]


async def wave(url: str, first: int) -> set[str]:
    """All streams at once; checks every token. Returns the replicas that took part."""
    rng = random.Random(first)
    config = SimulatedEngineConfig.model_validate(ENGINE)
    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=httpx.Timeout(400), trust_env=False
    ) as client:
        tiers = [rng.choice(["low", "medium", "high"]) for _ in range(STREAMS)]
        results = await asyncio.gather(
            *(one(client, first + i, tier) for i, tier in enumerate(tiers))
        )
    for i, (prompt, tokens, _) in enumerate(results):
        assert tokens == reply(prompt, tiers[i], first + i, config)  # type: ignore[arg-type]
    return {replica for _, _, replica in results}


def settled(running: Cluster) -> list[dict[str, Any]]:
    """Every process's status once nothing runs any more."""
    deadline = time.monotonic() + 10
    while True:
        looks = running.ops()
        if all(look.get("generations", 0) == 0 and look.get("pending", 0) == 0 for look in looks):
            return looks
        assert time.monotonic() < deadline, looks
        time.sleep(0.2)


def gauges(running: Cluster, name: str) -> float:
    """Sum of a gauge over all processes."""
    total = 0.0
    for look in running.ops():
        text = HTTP.get(f"{look['ops_url']}/metrics").text
        total += sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(name + "{")
        )
    return total


def memory_bytes(running: Cluster) -> int:
    replicas = [p for p in running.processes() if "ServeReplica" in " ".join(p.cmdline())]
    return sum(process.memory_info().rss for process in replicas)


async def test_500_streams_complete_token_for_token_and_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path, CONFIG) as running:
        assert len(await wave(running.url, 0)) == 8
        before, tasks_before = (
            memory_bytes(running),
            {look["ops_url"]: look["tasks"] for look in settled(running)},
        )
        for number in (1, 2):
            await wave(running.url, number * STREAMS)
        looks = settled(running)
        assert gauges(running, "trireme_requests_in_flight") == 0
        assert gauges(running, "trireme_queue_length") == 0
        assert gauges(running, "trireme_replica_running") == 0
        for look in looks:
            # Connections of the clients close a little later than their requests end.
            assert look["tasks"] <= tasks_before[look["ops_url"]] + 10
        grown = memory_bytes(running) - before
        assert grown < 150 * 2**20, f"{grown / 2**20:.0f} MiB more after 1,000 further streams"
