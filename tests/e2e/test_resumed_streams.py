"""A gateway is killed in the middle of its streams, and their clients come back for the rest: real
Ray, Serve and HAProxy, simulated engines, and the client that docs/failover.md recommends."""

import functools
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

from tests.e2e.running import HTTP, ROOT, Cluster, cluster, look

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MODEL = "gpt-oss-tiny"
STREAMS = 6
TOKENS = 300
BEGUN_EVENTS = 10
CONFIG: dict[str, Any] = {
    "name": "resumed",
    "models": [
        {
            "name": MODEL,
            "source": "tiny",
            "max_model_len": 4096,
            "pools": [
                {
                    "engine": "simulated",
                    "replicas": 2,
                    "num_cpus": 0.3,
                    "max_num_seqs": 16,
                    "simulated": {
                        "step_ms": {"base": 50},
                        "output_sigma": 0,
                        "output_tokens_mean": {"high": TOKENS},
                    },
                }
            ],
        }
    ],
    "gateway": {"replicas": 2, "num_cpus": 0.3, "resume_s": 300},
}
REQUEST: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me of a long voyage."}],
    "reasoning_effort": "high",
    "seed": 11,
    "stream_options": {"include_usage": True},
}


@functools.cache
def documented_client() -> Any:
    """``resumable_chat`` as the page has it."""
    page = (ROOT / "docs" / "failover.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    found: dict[str, Any] = {}
    exec(code, found)
    return found["resumable_chat"]


@dataclass
class Reader:
    """One stream's client. ``ids`` are those of the chunks' completions."""

    client: OpenAI
    events: int = 0
    reasoning: str = ""
    content: str = ""
    ids: set[str] = field(default_factory=set)
    finishes: list[str] = field(default_factory=list)
    usages: list[tuple[int, int]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)

    def read(self) -> "Reader":
        for chunk in documented_client()(self.client, **REQUEST):
            self.events += 1
            self.ids.add(chunk.id)
            if chunk.usage is not None:
                self.usages.append((chunk.usage.prompt_tokens, chunk.usage.completion_tokens))
            for choice in chunk.choices:
                self.reasoning += getattr(choice.delta, "reasoning", None) or ""
                self.content += choice.delta.content or ""
                if choice.finish_reason is not None:
                    self.finishes.append(choice.finish_reason)
            if self.events >= BEGUN_EVENTS:
                self.begun.set()
        return self


def processes_of(running: Cluster) -> dict[str, psutil.Process]:
    """The gateways' processes, by their ops URL."""
    ports = {each["ops_url"]: int(each["ops_url"].rpartition(":")[2])
             for each in running.status()["gateways"]}  # fmt: skip
    found: dict[str, psutil.Process] = {}
    for process in running.processes():
        if "ServeReplica" not in " ".join(process.cmdline()):
            continue
        listening = {
            each.laddr.port
            for each in process.net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        }
        found |= {url: process for url, port in ports.items() if port in listening}
    assert len(found) == 2
    return found


def resumptions(ops_url: str) -> dict[str, float]:
    """Streams that this gateway took up, by outcome."""
    lines = HTTP.get(f"{ops_url}/metrics").text.splitlines()
    name = re.compile(r'trireme_stream_resumptions_total\{.*outcome="(\w+)".*\} (\S+)')
    found: dict[str, float] = {}
    for line in lines:
        if at := name.fullmatch(line):
            found[at[1]] = found.get(at[1], 0.0) + float(at[2])
    return found


def test_streams_of_a_killed_gateway_go_on_at_the_other_one(tmp_path: Path) -> None:
    with cluster(tmp_path, CONFIG) as running, ThreadPoolExecutor(STREAMS + 1) as pool:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=120)
        gateways = processes_of(running)
        readers = [Reader(client) for _ in range(STREAMS)]
        reading = [pool.submit(reader.read) for reader in readers]
        for reader in readers:
            assert reader.begun.wait(120)
        serving = {url: look(url)["generations"] for url in gateways}
        victim = max(serving, key=lambda url: serving[url])
        (survivor,) = set(gateways) - {victim}
        assert serving[victim] > 0
        gateways[victim].kill()
        began = time.monotonic()
        for each in reading:
            each.result(timeout=300)
        took_s = time.monotonic() - began
        taken_up = resumptions(survivor)
        whole = Reader(client).read()  # by nobody's death disturbed
    print(f"killed with {serving[victim]} streams; all ended after {took_s:.1f} s: {taken_up}")
    # Serve replaces the dead gateway; on a slow machine a client may come to that one.
    assert taken_up["continued"] >= 1
    assert taken_up["gone"] == 0
    assert whole.usages[0][1] == TOKENS
    for reader in readers:
        assert (reader.reasoning, reader.content) == (whole.reasoning, whole.content)
        assert reader.finishes == ["stop"]
        assert reader.usages == whole.usages
        assert len(reader.ids) == 1
