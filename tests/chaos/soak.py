"""``python -m tests.chaos.soak``: does a gateway keep anything of the requests that it has served?

One gateway as a process of its own (vLLM's front-end, the production channel), two simulated
engines in this one, and streamed chats of which a share is broken off by closing the connection: at
once, or after some events. After every tenth of the requests nothing runs, and both processes tell
their memory and how many tasks their event loops have. Exit code 1 if either goes on growing.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from cluster.local_ray import free_ports
from cluster.ops import ADDRESS_VARIABLE
from deployments.engine.host import EngineHost
from tests.deployments.engine.channel_world import quick_engine, server_settings
from tests.e2e.running import ROOT

MODEL, POOL = "gpt-oss-tiny", "main"
LEAVERS = 0.3
MEAN = {"low": 30, "medium": 30, "high": 30}
STEPS = 10
WARM = 3
"""Steps in which allocators, caches and sketches may still fill."""

MOST_BYTES = 256.0
"""A request may leave behind no more than this, on average over the steps that are not warm-up:
an asyncio task alone is larger, and a stream's own books many times."""

MOST_TASKS = 8

MOST_ENDS = 20


@dataclass(frozen=True)
class Look:
    """Both processes when nothing runs. ``requests``: how many there have been."""

    requests: int
    seconds: float
    gateway_bytes: int
    gateway_tasks: int
    engines_bytes: int
    engines_tasks: int

    def __str__(self) -> str:
        return (
            f"{self.requests:>8} requests, {self.seconds:>6.1f} s: gateway "
            f"{self.gateway_bytes / 2**20:.1f} MiB, {self.gateway_tasks} tasks; engines "
            f"{self.engines_bytes / 2**20:.1f} MiB, {self.engines_tasks} tasks"
        )


@dataclass
class Count:
    """What became of the requests."""

    whole: int = 0
    left: int = 0
    failed: int = 0
    ends: list[str] = field(default_factory=list)
    """How the failed ones ended, of the first ones."""


def growth(looks: list[Look], name: str) -> float:
    """Bytes a request, by least squares over all looks but the warm-up's."""
    points = [(look.requests, getattr(look, name)) for look in looks[WARM:]]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return float(sum((x - mean_x) * (y - mean_y) for x, y in points) / spread)


@contextlib.asynccontextmanager
async def engines(count: int) -> AsyncIterator[list[Any]]:
    """Members of a fleet, as Serve lists them."""
    hosts = []
    for index in range(count):
        engine = quick_engine(64, output_tokens_mean=MEAN, step_ms={"base": 5})
        host = EngineHost(engine, f"engine-{index}", server_settings(dead_after_s=30.0), 60.0)
        await host.start("127.0.0.1")
        hosts.append(host)
    try:
        yield [
            (f"engine-{index}", {"host": "127.0.0.1", "port": host.port, "pool": POOL})
            for index, host in enumerate(hosts)
        ]
    finally:
        for host in hosts:
            await host.stop()


@contextlib.contextmanager
def gateway(home: Path, members: list[Any]) -> Iterator[tuple[psutil.Process, str, str]]:
    """Its process, the address of its API, and that of its operator listener."""
    pool = {"name": POOL, "engine": "simulated", "max_num_seqs": 64}
    config = {
        "models": [{"name": MODEL, "source": "tiny", "max_model_len": 4096, "pools": [pool]}],
        "channel": {"dead_after_s": 30.0},
        # However slow the machine is: nobody is to be refused for want of pace.
        "tiers": {tier: {"slo": {"ttft_s": 60.0, "tpot_ms": 5000.0}} for tier in MEAN},
    }
    (home / "config.json").write_text(json.dumps(config))
    (home / "members.json").write_text(json.dumps(members))
    (ops,) = free_ports(1)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TRIREME_", "RAY_"))}
    environ |= {"TRIREME_HOME": str(home / "home"), "PYTHONPATH": str(ROOT)}
    environ |= {ADDRESS_VARIABLE: f"127.0.0.1 {ops}"}
    arguments = [str(home / "config.json"), str(home / "members.json"), "soak", str(home / "url")]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.gateway_alone", *arguments],
            env=environ,
            stdout=log,
            stderr=log,
        )
    try:
        while not (home / "url").exists():
            if process.poll() is not None:
                raise SystemExit((home / "log").read_text()[-3000:])
            time.sleep(0.2)
        url = (home / "url").read_text()
        yield psutil.Process(process.pid), url, f"http://127.0.0.1:{ops}"
    finally:
        process.kill()
        process.wait()


class Clients:
    """Chats over raw sockets, one connection each."""

    def __init__(self, url: str, seed: int) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._rng = random.Random(seed)
        self.count = Count()

    async def ask(self, requests: int, at_once: int) -> None:
        left = iter(range(requests))

        async def client() -> None:
            for _ in left:
                await self._one()

        await asyncio.gather(*(client() for _ in range(at_once)))

    async def _one(self) -> None:
        rng = self._rng
        body = json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"Number {rng.random()}?"}],
                "reasoning_effort": rng.choice(("low", "medium", "high")),
                "max_tokens": rng.randrange(2, 12),
                "stream": True,
            }
        )
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        # With 0 events to wait for, it is gone before the answer begins.
        events = rng.randrange(3) if rng.random() < LEAVERS else None
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write((head + body).encode())
            await self._read(reader, events)
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, events: int | None) -> None:
        seen, last = 0, b""
        while events is None or seen < events:
            line = await asyncio.wait_for(reader.readline(), 120.0)
            if line.startswith(b"data: [DONE]"):
                self.count.whole += 1
                return
            seen += line.startswith(b"data: ")
            if not line:
                self.count.failed += 1
                if len(self.count.ends) < MOST_ENDS:
                    self.count.ends.append(last.decode(errors="replace"))
                return
            last = (last + line)[-2000:]
        await asyncio.sleep(self._rng.random() * 0.01)
        self.count.left += 1


async def settled(http: httpx.AsyncClient) -> int:
    """The gateway's tasks once nothing runs there."""
    ends = time.monotonic() + 30.0
    while True:
        await asyncio.sleep(1.0)
        status = (await http.get("/status")).json()
        if status["generations"] == 0:
            return int(status["tasks"])
        if time.monotonic() > ends:
            raise SystemExit(f"requests are left behind: {status}")


async def run(requests: int, at_once: int, seed: int, home: Path) -> tuple[list[Look], Count]:
    looks: list[Look] = []
    me, each = psutil.Process(), requests // STEPS
    async with engines(2) as members:
        with contextlib.ExitStack() as stack:
            # In a thread: the engines answer while the gateway starts.
            process, url, ops = await asyncio.to_thread(stack.enter_context, gateway(home, members))
            clients = Clients(url, seed)
            began = time.monotonic()
            async with httpx.AsyncClient(base_url=ops, trust_env=False, timeout=30) as http:
                for step in range(1, STEPS + 1):
                    await clients.ask(each, at_once)
                    tasks = await settled(http)
                    seconds = round(time.monotonic() - began, 1)
                    rss = process.memory_info().rss, me.memory_info().rss
                    ours = len(asyncio.all_tasks())
                    looks.append(Look(step * each, seconds, rss[0], tasks, rss[1], ours))
                    print(looks[-1], flush=True)
            return looks, clients.count


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=24, help="at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the looks there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        looks, count = asyncio.run(run(args.requests, args.clients, args.seed, Path(home)))
    grown = {each: growth(looks, each) for each in ("gateway_bytes", "engines_bytes")}
    tasks = max(
        max(getattr(look, each) for look in looks[WARM:]) - getattr(looks[0], each)
        for each in ("gateway_tasks", "engines_tasks")
    )
    print(f"{count.whole} whole, {count.left} broken off, {count.failed} failed")
    for each in count.ends:
        print(f"failed after: {each}")
    for name, value in grown.items():
        print(f"{name}: {value:+.1f} a request after the first {WARM} of {STEPS} steps")
    if args.json:
        told = {"looks": [asdict(look) for look in looks], "count": asdict(count), "grown": grown}
        args.json.write_text(json.dumps(told, indent=2) + "\n")
    flat = tasks <= MOST_TASKS and all(value <= MOST_BYTES for value in grown.values())
    return 0 if flat and count.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
