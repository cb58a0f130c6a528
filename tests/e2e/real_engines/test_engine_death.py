"""A real engine core is killed: no client sees more than a pause, and the replica comes back."""

import concurrent.futures
import json
import signal
import time
from typing import Any

import openai
import psutil
import pytest

from tests.e2e.real_engines.conftest import MODEL
from tests.e2e.running import HTTP, Cluster, look

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1500)]


def engine_core(cluster: Cluster, ops_url: str) -> psutil.Process:
    """The engine-core process below the Serve replica that listens on ``ops_url``."""
    port = int(ops_url.rpartition(":")[2])
    (replica,) = [
        process
        for process in cluster.processes()
        if any(each.laddr.port == port for each in process.net_connections("inet"))
        and "engine-main" in " ".join(process.cmdline())
    ]
    (core,) = [
        child
        for child in replica.children(recursive=True)
        if "EngineCore" in " ".join(child.cmdline())
    ]
    return core


def ask(cluster: Cluster, text: str, max_tokens: int) -> tuple[str, str]:
    """(replica that began it, how it ended) of one streamed chat, whose tokens are all counted."""
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=300)
    try:
        with client.chat.completions.with_streaming_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": text}],
            max_tokens=max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True, "return_token_ids": True},
        ) as response:
            replica = response.headers["x-trireme-replica"]
            lines = list(response.iter_lines())
    except openai.APIStatusError as error:
        return "", f"status {error.status_code}"
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    errors = [line for line in data if '"error"' in line]
    if errors or data[-1] != "[DONE]":
        return replica, errors[0] if errors else "cut"
    chunks = [json.loads(line) for line in data[:-1]]
    tokens = sum(len(each.get("token_ids") or ()) for c in chunks for each in c["choices"])
    usage = chunks[-1]["usage"]["completion_tokens"]
    ended = [
        each["finish_reason"] for c in chunks for each in c["choices"] if each["finish_reason"]
    ]
    if (tokens, usage, ended) != (max_tokens, max_tokens, ["length"]):
        return replica, f"{tokens} tokens came, usage says {usage}, finished {ended}"
    return replica, "ok"


def failovers(cluster: Cluster) -> float:
    """Streams that went on elsewhere, by the gateways' metrics."""
    total = 0.0
    for look_at in cluster.ops():
        text = HTTP.get(f"{look_at['ops_url']}/metrics").text
        total += sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("trireme_failovers_total{")
        )
    return total


def test_killing_an_engine_core_costs_its_streams_a_pause_and_nothing_else(
    vllm_cluster: Cluster,
) -> None:
    urls = vllm_cluster.engines("main")
    cores = {url: engine_core(vllm_cluster, url) for url in urls}
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        running = [pool.submit(ask, vllm_cluster, f"Request {i}", 3900) for i in range(6)]
        victim = wait_for_tokens(urls)
        cores[victim["ops_url"]].send_signal(signal.SIGKILL)
        after = [pool.submit(ask, vllm_cluster, f"After {i}", 40) for i in range(4)]
        ended_after = [each.result(timeout=300) for each in after]
        ended = [each.result(timeout=600) for each in running]
    begun_there = [how for replica, how in ended if replica == victim["replica"]]
    assert len(begun_there) >= 2
    assert {how for _, how in ended} == {"ok"}
    wait_for_failovers(vllm_cluster, len(begun_there))
    for replica, how in ended_after:
        assert (how, replica != victim["replica"]) == ("ok", True)
    wait_for_two_replicas(vllm_cluster)
    assert {ask(vllm_cluster, f"Again {i}", 20)[1] for i in range(4)} == {"ok"}


def wait_for_failovers(cluster: Cluster, count: int) -> None:
    """The list of processes may lack the gateway for a moment, as it changes with the engine."""
    deadline = time.monotonic() + 60
    while (counted := failovers(cluster)) != count:
        assert time.monotonic() < deadline, f"{counted} of {count} failovers were counted"
        time.sleep(1)


def wait_for_tokens(urls: list[str]) -> dict[str, Any]:
    """The status of a replica that is writing for two requests or more."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for url in urls:
            status = look(url)
            if status["running"] >= 2 and status["step_s"] > 0:
                time.sleep(2.0)  # all of them have written something by then
                return status
        time.sleep(0.1)
    raise AssertionError("no replica has two requests")


def wait_for_two_replicas(cluster: Cluster) -> None:
    deadline = time.monotonic() + 600
    while True:
        replicas = [e for e in cluster.status()["replicas"] if e.get("pool") == "main"]
        if sum(each["healthy"] and each["gateways"] > 0 for each in replicas) == 2:
            return
        assert time.monotonic() < deadline, replicas
        time.sleep(5)
