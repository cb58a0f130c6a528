"""A real engine core is killed: others go on, nothing hangs, and the replica comes back."""

import concurrent.futures
import os
import signal
import time

import openai
import psutil
import pytest

from tests.e2e.conftest import MODEL
from tests.e2e.running import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1500)]


def engine_cores(cluster: Cluster, replica: str) -> list[psutil.Process]:
    """The engine-core processes below the Serve replica with this id."""
    own = [
        process
        for process in cluster.processes()
        if "engine-main" in " ".join(process.cmdline()) and owns(process, cluster, replica)
    ]
    return [
        child
        for process in own
        for child in process.children(recursive=True)
        if "EngineCore" in " ".join(child.cmdline())
    ]


def owns(process: psutil.Process, cluster: Cluster, replica: str) -> bool:
    """Whether ``process`` is the one that listens on the replica's ops URL."""
    (url,) = [e["ops_url"] for e in cluster.status()["replicas"] if e["replica"] == replica]
    port = int(url.rpartition(":")[2])
    return any(each.laddr.port == port for each in process.net_connections("inet"))


def ask(cluster: Cluster, text: str, max_tokens: int) -> tuple[str, str]:
    """(replica, how it ended) of one streamed chat."""
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=300)
    try:
        with client.chat.completions.with_streaming_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": text}],
            max_tokens=max_tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        ) as response:
            replica = response.headers["x-trireme-replica"]
            lines = list(response.iter_lines())
    except openai.APIStatusError as error:
        return "", f"status {error.status_code}"
    data = [line for line in lines if line.startswith("data: ")]
    if data[-1] == "data: [DONE]" and '"error"' not in data[-2]:
        return replica, "ok"
    errors = [line for line in data if '"error"' in line]
    return replica, errors[0] if errors else "cut"


def test_killing_an_engine_core_fails_its_own_requests_cleanly_and_no_others(
    vllm_cluster: Cluster,
) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(ask, vllm_cluster, f"Request {i}", 600) for i in range(6)]
        deadline = time.monotonic() + 60
        while not busy(vllm_cluster):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        victim = busy(vllm_cluster)[0]
        (core,) = engine_cores(vllm_cluster, victim)
        os.kill(core.pid, signal.SIGKILL)
        killed = time.monotonic()
        after = [pool.submit(ask, vllm_cluster, f"After {i}", 40) for i in range(4)]
        for each in after:
            replica, end = each.result(timeout=120)
            assert end == "ok"
            assert replica != victim
        ends = [each.result(timeout=300) for each in running]
    assert {end for replica, end in ends if replica != victim} == {"ok"}
    lost = [end for replica, end in ends if replica == victim]
    assert lost
    for end in lost:
        # Lost after its first token: one clean error event, in OpenAI's form.
        assert '"code":"replica_lost"' in end.replace(" ", "")
    wait_for_two_replicas(vllm_cluster, killed)
    assert {ask(vllm_cluster, f"Again {i}", 20)[1] for i in range(4)} == {"ok"}


def busy(cluster: Cluster) -> list[str]:
    replicas = [each for each in cluster.status()["replicas"] if each.get("pool") == "main"]
    return [each["replica"] for each in replicas if each["running"] >= 2]


def wait_for_two_replicas(cluster: Cluster, since: float) -> None:
    while True:
        status = cluster.status()
        healthy = [
            each
            for each in status["replicas"]
            if each.get("pool") == "main" and each["healthy"] and each.get("gateways")
        ]
        if len(healthy) == 2:
            return
        assert time.monotonic() < since + 600, status
        time.sleep(2)
