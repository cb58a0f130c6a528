"""Two gateways, one Redis, one PostgreSQL, fifty tenants: quotas hold, and usage adds up.

One of the gateways is killed half-way. ``TRIREME_QUOTA_TEST_S`` sets how long tenants send
(seconds); the figures in docs/quotas.md are those of 60.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from cluster.config import TriremeConfig
from cluster.tenants.book import Actor, Book
from cluster.tenants.locate import door_secret
from cluster.tenants.orders import NewKeyOrder, NewTenant
from cluster.tenants.store import open_store
from cluster.usage.tables import Usage
from deployments.engine.host import EngineHost
from tests.deployments.engine.channel_world import quick_engine, server_settings
from tests.e2e.running import ROOT
from tests.services import postgres_server, redis_server

LOAD_S = max(20.0, float(os.environ.get("TRIREME_QUOTA_TEST_S", "20")))
"""Shorter, and too few tenants come to their limits."""

TENANTS = 50
SEED = 6
TOTAL_RATE = 22.0
"""Requests a second of all tenants together: what this takes of 2 cores leaves some idle."""

TOKENS = 150.0
"""Of a request, about."""

FLUSH_S = 0.2
LOST_S = FLUSH_S + 0.3
"""A killed gateway may lose the records of the last flush and the write that was under way."""

MODEL = "gpt-oss-tiny"
POOL = "main"
MEAN = {"low": 40.0, "medium": 60.0, "high": 90.0}


@dataclass(eq=False)
class Tenant:
    """One, with what it sends and what came of it. ``limit`` 0: none."""

    name: str
    rate: float
    kind: str
    limit: int
    key: str = ""
    sent: int = 0
    answered: list["Answer"] = field(default_factory=list)
    refused: int = 0
    cut: int = 0
    left: int = 0


@dataclass(frozen=True)
class Answer:
    """A complete response's own usage."""

    request_id: str
    gateway: str
    at_s: float
    prompt: int
    cached: int
    output: int


def make_tenants(rng: random.Random) -> list[Tenant]:
    """Random rates; a third without limits, the others with less than they ask for.

    Those with a limit of tokens send most: it is as exact as one answer is small against it.
    """
    kinds = ["tokens_per_minute"] * 8 + ["requests_per_minute", "none"] * 21
    rates = [rng.uniform(3.0, 5.0) if each[0] == "t" else rng.uniform(0.3, 1.0) for each in kinds]
    scale = TOTAL_RATE / sum(rates)
    tenants = []
    for index, (kind, rate) in enumerate(zip(kinds, rates, strict=True)):
        offered = rate * scale * LOAD_S * rng.uniform(0.4, 0.8)
        limit = {"tokens_per_minute": TOKENS * offered, "requests_per_minute": offered}.get(kind, 0)
        whole = max(2, int(limit)) if limit else 0
        tenants.append(Tenant(f"tenant-{index:02d}", rate * scale, kind, whole))
    return tenants


def settings(home: Path, redis_url: str, store_url: str) -> dict[str, Any]:
    tiers = {
        tier: {"prior_output_tokens_mean": mean, "max_queued": 1000} for tier, mean in MEAN.items()
    }
    pool = {"name": POOL, "engine": "simulated", "max_num_seqs": 64}
    return {
        "models": [{"name": MODEL, "source": "tiny", "max_model_len": 4096, "pools": [pool]}],
        "tiers": tiers,
        "gateway": {"replicas": 2},
        "access": {"mode": "keys", "store_url": store_url, "secret_file": str(home / "secret")},
        "quotas": {"redis_url": redis_url, "lease_s": 3.0},
        "usage": {
            "queue_dir": str(home / "queue"),
            "flush_s": FLUSH_S,
            "prices": {"*": {"prompt": 1.0, "output": 4.0}},
        },
    }


@dataclass
class Gateway:
    name: str
    process: "subprocess.Popen[bytes]"
    url: str = ""
    alive: bool = True


@contextlib.contextmanager
def gateways(home: Path, names: list[str]) -> Iterator[list[Gateway]]:
    """Started together: each takes 20 s of a CPU."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TRIREME_", "RAY_"))}
    environ |= {"TRIREME_HOME": str(home / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.e2e.gateway_alone", str(home / "config.json"),
               str(home / "members.json")]  # fmt: skip
    with contextlib.ExitStack() as stack:
        started = []
        for name in names:
            log = stack.enter_context((home / f"{name}.log").open("w"))
            process = subprocess.Popen(
                [*command, name, str(home / f"{name}.url")], env=environ, stdout=log, stderr=log
            )
            stack.callback(_end, process)
            started.append(Gateway(name, process))
        for gateway in started:
            while not (home / f"{gateway.name}.url").exists():
                ended = gateway.process.poll() is not None
                assert not ended, (home / f"{gateway.name}.log").read_text()[-3000:]
                time.sleep(0.1)
            gateway.url = (home / f"{gateway.name}.url").read_text()
        yield started


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


@contextlib.asynccontextmanager
async def engines(count: int) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    hosts = []
    for index in range(count):
        engine = quick_engine(64, output_tokens_mean=MEAN, output_sigma=0.3, step_ms={"base": 8})
        host = EngineHost(engine, f"engine-{index}", server_settings(dead_after_s=10.0), 60.0)
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


class Load:
    """What the tenants do. ``gateways`` are those that live."""

    def __init__(self, tenants: list[Tenant], gateways: list[Gateway], rng: random.Random) -> None:
        self.tenants = tenants
        self.gateways = gateways
        self.rng = rng
        self.http = httpx.AsyncClient(
            trust_env=False, timeout=60, limits=httpx.Limits(max_connections=500)
        )
        self.running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """``LOAD_S`` seconds of requests, each tenant's at random moments of its rate."""
        end = time.monotonic() + LOAD_S
        await asyncio.gather(*(self._send_all(tenant, end) for tenant in self.tenants))
        await asyncio.gather(*self.running)
        await self.http.aclose()

    async def _send_all(self, tenant: Tenant, end: float) -> None:
        while True:
            await asyncio.sleep(self.rng.expovariate(tenant.rate))
            if time.monotonic() >= end:
                return
            tenant.sent += 1
            task = asyncio.create_task(self._send(tenant, f"{tenant.name}-{tenant.sent}"))
            self.running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """One that failed is kept, so that its failure is told."""
        if not task.cancelled() and task.exception() is None:
            self.running.discard(task)

    async def _send(self, tenant: Tenant, request_id: str) -> None:
        gateway = self.rng.choice([each for each in self.gateways if each.alive])
        headers = {"authorization": f"Bearer {tenant.key}", "x-request-id": request_id}
        shape = self.rng.random()
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": " ".join(["sea"] * self.rng.randint(1, 60))}],
            "reasoning_effort": self.rng.choice(["low", "medium", "high"]),
            "max_completion_tokens": 200,
        }
        if shape < 0.1:
            body |= {"n": 2}
        stream = shape > 0.8
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self.http.stream(
                "POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers
            ) as response:
                if response.status_code == 429:
                    check_refusal(response.headers, await response.aread())
                    tenant.refused += 1
                    return
                assert response.status_code == 200, await response.aread()
                if shape > 0.97:  # a client that leaves in the middle
                    async for _ in response.aiter_lines():
                        break
                    tenant.left += 1
                    return
                usage = await _usage_of(response, stream)
        except httpx.TransportError:
            assert not gateway.alive, f"{gateway.name} broke a connection"
            tenant.cut += 1
            return
        if tenant.kind != "none":
            check_told(response.headers, tenant)
        tenant.answered.append(
            Answer(
                request_id, gateway.name, time.time(), usage["prompt_tokens"],
                (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
                usage["completion_tokens"],
            )
        )  # fmt: skip


async def _usage_of(response: httpx.Response, stream: bool) -> dict[str, Any]:
    raw = await response.aread()
    if not stream:
        usage: dict[str, Any] = json.loads(raw)["usage"]
        return usage
    lines = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: {")]
    if b"data: [DONE]" not in raw:
        raise httpx.ReadError("the stream ended early")
    found: dict[str, Any] = json.loads(lines[-1])["usage"]
    return found


def check_refusal(headers: httpx.Headers, raw: bytes) -> None:
    error = json.loads(raw)["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded"), error
    assert 1 <= int(headers["retry-after"]) <= 61


def check_told(headers: httpx.Headers, tenant: Tenant) -> None:
    what = tenant.kind.partition("_")[0]
    assert int(headers[f"x-ratelimit-limit-{what}"]) == tenant.limit
    assert 0 <= int(headers[f"x-ratelimit-remaining-{what}"]) < tenant.limit
    assert headers[f"x-ratelimit-reset-{what}"].endswith("s")


def make_keys(store_url: str, secret_file: Path, tenants: list[Tenant]) -> None:
    secret_file.write_text("5f" * 32)
    secret_file.chmod(0o600)
    store = open_store(store_url)
    store.migrate()
    config = TriremeConfig.model_validate({"access": {"secret_file": str(secret_file)}})
    book, actor = Book(store, door_secret(config.access, {})), Actor("test", "here")
    for tenant in tenants:
        limits = {"all": {tenant.kind: tenant.limit}} if tenant.limit else {}
        order = {"name": tenant.name, "limits": limits}
        book.create_tenant(NewTenant.model_validate(order), actor)
        made = book.create_key(NewKeyOrder.model_validate({"tenant": tenant.name}), actor)
        tenant.key = made.key.text
    store.close()


def rows_of(store_url: str) -> dict[str, Any]:
    store = open_store(store_url)
    with store.engine.connect() as connection:
        rows = connection.execute(select(Usage.__table__)).mappings().all()
    store.close()
    found = {row["request_id"]: row for row in rows}
    assert len(found) == len(rows), "a request was booked twice"
    return found


@pytest.mark.timeout(240)
async def test_fifty_tenants_over_two_gateways_of_which_one_is_killed(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    tenants = make_tenants(rng)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        store_url = stack.enter_context(postgres_server())
        make_keys(store_url, tmp_path / "secret", tenants)
        config = settings(tmp_path, redis.url, store_url)
        (tmp_path / "config.json").write_text(json.dumps(config))
        async with engines(2) as members:
            (tmp_path / "members.json").write_text(json.dumps(members))
            starting = gateways(tmp_path, ["gateway-a", "gateway-b"])
            started = await asyncio.to_thread(stack.enter_context, starting)
            load = Load(tenants, started, rng)
            victim = started[1]
            running = asyncio.create_task(load.run())
            await asyncio.sleep(0.6 * LOAD_S)
            victim.alive = False
            victim.process.kill()
            killed_s = time.time()
            await running
            survivor = started[0]
            await until_empty(tmp_path / "queue", 40.0)
            await check_api(survivor, tenants)
            survivor.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(survivor.process.wait, 30)
        rows = rows_of(store_url)
    tell(tenants, rows, killed_s)
    check_usage(tenants, rows, killed_s)
    check_quotas(tenants)


async def check_api(gateway: Gateway, tenants: list[Tenant]) -> None:
    """Every tenant is told of its own answers (all of them, as far as they are not just lost)."""
    end = time.monotonic() + 10.0
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as http:
        for tenant in tenants[:10]:
            known = sum(each.output for each in tenant.answered if each.gateway == gateway.name)
            told = -1
            while told < known:
                assert time.monotonic() < end, (told, known)
                headers = {"authorization": f"Bearer {tenant.key}"}
                answer = await http.get("/v1/usage", params={"group_by": "tier"}, headers=headers)
                assert answer.status_code == 200, answer.text
                told = sum(row["completion_tokens"] for row in answer.json()["data"])
                await asyncio.sleep(0.2)


async def until_empty(home: Path, timeout_s: float) -> None:
    """The survivor has taken up what the killed one left behind."""
    end = time.monotonic() + timeout_s
    while len(os.listdir(home)) > 1:
        assert time.monotonic() < end, "nobody took up the queue of the killed gateway"
        await asyncio.sleep(0.2)


def lost(tenants: list[Tenant], rows: dict[str, Any]) -> list[Answer]:
    answers = [answer for tenant in tenants for answer in tenant.answered]
    return [answer for answer in answers if answer.request_id not in rows]


def check_usage(tenants: list[Tenant], rows: dict[str, Any], killed_s: float) -> None:
    for answer in lost(tenants, rows):
        assert answer.gateway == "gateway-b", answer
        assert killed_s - answer.at_s <= LOST_S, answer
    for tenant in tenants:
        told = [each for each in tenant.answered if each.request_id in rows]
        mine = [rows[each.request_id] for each in told]
        assert sum(row["prompt_tokens"] for row in mine) == sum(each.prompt for each in told)
        assert sum(row["cached_tokens"] for row in mine) == sum(each.cached for each in told)
        output = sum(row["analysis_tokens"] + row["final_tokens"] for row in mine)
        assert output == sum(each.output for each in told)
        # One of two answers to a prompt may be admitted and the other refused: then both are, and
        # what the first has cost is booked.
        others = {
            row["request_id"]
            for row in rows.values()
            if row["tenant"] == tenant.name and row["outcome"] != "refused"
        }
        assert len(others - {each.request_id for each in told}) <= tenant.left + tenant.cut
    for row in rows.values():
        cost = row["prompt_tokens"] + 4.0 * (row["analysis_tokens"] + row["final_tokens"])
        assert row["cost"] == pytest.approx(cost / 1e6)
        assert row["gpu_s"] > 0 or row["outcome"] != "ok"


def used_by(tenant: Tenant) -> tuple[float, float]:
    """What was surely let through of what is limited, and what perhaps was."""
    if tenant.kind == "requests_per_minute":
        known = float(len(tenant.answered) + tenant.left)
        return known, known + tenant.cut
    known = float(sum(each.prompt + each.output for each in tenant.answered))
    largest = max((each.prompt + each.output for each in tenant.answered), default=0)
    return known, known + largest * (tenant.cut + tenant.left)


def errors_of(tenants: list[Tenant]) -> Iterator[tuple[Tenant, float]]:
    """By how much of its limit a tenant got too much (above 0) or too little.

    A limit of tokens has no room for a request that does not fit any more: so much is no error.
    """
    for tenant in tenants:
        if tenant.limit and tenant.refused:
            sure, perhaps = used_by(tenant)
            room = 0.0
            if tenant.kind == "tokens_per_minute":
                room = max(each.prompt for each in tenant.answered) + 200.0
            short = max(0.0, tenant.limit - perhaps - room)
            yield tenant, max(0.0, sure - tenant.limit) / tenant.limit or -short / tenant.limit


def check_quotas(tenants: list[Tenant]) -> None:
    found = list(errors_of(tenants))
    assert len(found) >= 20
    for tenant, error in found:
        # In a short run the limits are small, and half an answer is more than 2 % of them.
        least = 0.5 * TOKENS / tenant.limit if tenant.kind == "tokens_per_minute" else 0.0
        assert abs(error) <= max(0.02, least), (error, tenant)
    for tenant in tenants:
        if not tenant.limit:
            assert tenant.refused == 0


def tell(tenants: list[Tenant], rows: dict[str, Any], killed_s: float) -> None:
    worst = max((abs(error) for _, error in errors_of(tenants)), default=0.0)
    print(
        f"{LOAD_S:.0f} s: {sum(t.sent for t in tenants)} requests, "
        f"{sum(len(t.answered) for t in tenants)} answered, "
        f"{sum(t.refused for t in tenants)} refused, {sum(t.cut for t in tenants)} cut, "
        f"{sum(t.left for t in tenants)} left; {len(rows)} rows, "
        f"{len(lost(tenants, rows))} lost with the gateway; worst quota error {100 * worst:.2f} %"
    )
