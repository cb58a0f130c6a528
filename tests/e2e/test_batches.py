"""A batch on a live cluster that loses a gateway and an engine on the way: every line is answered,
and none twice.

``TRIREME_BATCH_LINES`` sets how many lines it has; the figures in docs/batch.md are those of 600.
"""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.e2e.running import Cluster, cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LINES = int(os.environ.get("TRIREME_BATCH_LINES", "600"))
NAME = "batched"
OVER_S = 600.0
LEASE_S = 5.0


def config() -> dict[str, Any]:
    lengths = {"low": 12, "medium": 12, "high": 12}
    pool = {
        "name": "main",
        "engine": "simulated",
        "replicas": 2,
        "num_cpus": 0.3,
        "max_num_seqs": 16,
        "simulated": {"speed_factor": 2, "output_sigma": 0, "output_tokens_mean": lengths},
    }
    return {
        "name": NAME,
        "models": [{"name": "sim", "source": "tiny", "max_model_len": 8192, "pools": [pool]}],
        "gateway": {"replicas": 2, "num_cpus": 0.3},
        "batch": {"enabled": True, "lease_s": LEASE_S, "max_concurrent_lines": 16},
    }


def input_lines() -> bytes:
    lines = (
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "sim",
                "messages": [{"role": "user", "content": f"Question {number}"}],
            },
        }
        for number in range(LINES)
    )
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def kill_one(running: Cluster, deployment: str) -> None:
    found = [
        process
        for process in running.processes()
        if re.search(rf"ServeReplica:\S*{deployment}", " ".join(process.cmdline()))
    ]
    assert len(found) == 2, [" ".join(each.cmdline()) for each in running.processes()]
    found[0].kill()


def counts(client: OpenAI, batch_id: str) -> tuple[str, int]:
    """Status and lines that are done; a gateway that was just killed may have had the question."""
    while True:
        try:
            batch = client.batches.retrieve(batch_id)
        except (openai.APIConnectionError, openai.InternalServerError):
            time.sleep(0.2)
            continue
        assert batch.request_counts is not None
        return batch.status, batch.request_counts.completed + batch.request_counts.failed


def test_a_batch_survives_the_loss_of_a_gateway_and_of_an_engine(tmp_path: Path) -> None:
    with cluster(tmp_path, config()) as running:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=4)
        file = client.files.create(file=("in.jsonl", input_lines()), purpose="batch")
        began = time.monotonic()
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        losses = {LINES // 4: "gateway", LINES // 2: "engine-main"}
        while time.monotonic() < began + OVER_S:
            status, done = counts(client, batch.id)
            if status in ("completed", "failed", "expired"):
                break
            for at in [each for each in losses if done >= each]:
                kill_one(running, losses.pop(at))
            time.sleep(0.2)
        took_s = time.monotonic() - began
        batch = client.batches.retrieve(batch.id)
        print(f"{LINES} lines: {batch.status} in {took_s:.1f} s, {batch.request_counts}")
        assert losses == {}
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": LINES, "completed": LINES, "failed": 0}
        assert batch.output_file_id is not None
        answers = [
            json.loads(line)
            for line in client.files.content(batch.output_file_id).text.splitlines()
        ]
    assert [each["custom_id"] for each in answers] == [f"line-{n}" for n in range(LINES)]
    assert len({each["id"] for each in answers}) == LINES
    # Each answer is its own: none was taken over from another attempt's or another line's.
    assert len({each["response"]["body"]["id"] for each in answers}) == LINES
    assert {each["response"]["status_code"] for each in answers} == {200}
    again = sum(each["response"]["request_id"].rpartition("_")[2] != "1" for each in answers)
    print(f"{again} lines were leased more than once")
    assert again > 0
