"""No request, however it is made, keeps the event loop from the others.

A small request is answered all the time; beside it comes the worst that a caller can send. What
counts is the longest time for which the loop's thread computed without a turn for anybody else:
CPU time, as this machine's other processes are none of the gateway's doing.
"""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from cluster import heap
from deployments.tiny_model import make_tiny_model
from tests.deployments.gateway.contract.door_world import CHAT, ROUTES, World, make_world

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONTEXT = 131_072
BODY_BYTES = 4 * 1024 * 1024
"""What the gateway allows unless it is configured otherwise."""

MAX_LAG_S = 0.1


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def wide(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A front-end with gpt-oss's whole context, and a heap that is frozen as a gateway's is: the
    collector's full rounds are those of the tests before this one, not of what is measured."""
    cache = request.config.cache
    assert cache is not None
    directory = make_tiny_model(cache.mkdir("tiny_model") / "model")
    world = await make_world(directory, CONTEXT, BODY_BYTES)
    heap.freeze()
    yield world
    gc.unfreeze()


class Lag:
    """The longest time between two turns of a task that asks for one every millisecond."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0

    async def watch(self) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now_cpu, now_wall = time.thread_time(), time.perf_counter()
            self.cpu_s = max(self.cpu_s, now_cpu - cpu)
            self.wall_s = max(self.wall_s, now_wall - wall)
            cpu, wall = now_cpu, now_wall


@asynccontextmanager
async def watched() -> AsyncIterator[Lag]:
    lag = Lag()
    task = asyncio.create_task(lag.watch())
    await asyncio.sleep(0.005)  # it has begun to look
    try:
        yield lag
        await asyncio.sleep(0.005)  # and sees the last turn too
    finally:
        task.cancel()


def texts() -> Iterator[tuple[str, str]]:
    yield "é x 100,000", "é" * 100_000
    yield "漢 x 100,000", "漢" * 100_000
    yield "spaces", " " * 100_000
    yield "x x 100,000", "x" * 100_000
    yield "line ends", "\n" * 100_000
    yield "mixed scripts", "éख漢あعا한" * 15_000
    yield "marks", "a\u0301\u0302" * 40_000
    yield "emoji", "🙂" * 60_000
    yield "punctuation", "!?#" * 40_000
    yield "runs just allowed", " ".join(["漢" * 3_999] * 4)
    yield "many runs below notice", " ".join(["漢" * 126] * 8_000)
    yield "prose that fits", "word " * 120_000
    yield "prose over the context", "word " * 800_000
    yield "digits", "7" * 1_000_000


def bodies(path: str, text: str) -> bytes:
    body: dict[str, Any] = dict(ROUTES[path])
    [name] = body.keys() & {"messages", "prompt", "input"}
    body[name] = [{"role": "user", "content": text}] if name == "messages" else text
    return json.dumps(body, ensure_ascii=False).encode()[: BODY_BYTES + 1]


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "5,000 digits", b'{"model": "tiny", "seed": ' + b"9" * 5_000 + b"}"
    yield "a million digits", b'{"model": "tiny", "seed": ' + b"9" * 1_000_000 + b"}"
    yield "depth", b'{"model": "tiny", "messages": ' + b"[" * 2_000_000
    yield "depth, closed", b'{"model": "tiny", "messages": ' + b"[" * 500_000 + b"]" * 500_000
    yield "over the limit", b" " * (BODY_BYTES + 1)
    many = [{"role": "user", "content": "x"}] * 20_000
    yield "as many messages as may be", json.dumps({**CHAT, "messages": many[:1_024]}).encode()
    yield "20,000 messages", json.dumps({**CHAT, "messages": many}).encode()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    yield "1,000 tools", json.dumps({**CHAT, "tools": [tool] * 1_000}).encode()
    yield "a million keys", json.dumps({**CHAT, "x": {str(n): n for n in range(300_000)}}).encode()


async def test_no_text_holds_the_loop_up(wide: World) -> None:
    worst: dict[str, Lag] = {}
    for name, text in texts():
        for path in ROUTES:
            worst[f"{name}, {path}"] = await lag_of(wide, path, bodies(path, text))
    report(worst)


async def test_no_body_holds_the_loop_up(wide: World) -> None:
    worst = {name: await lag_of(wide, "/v1/chat/completions", body) for name, body in bombs()}
    report(worst)


async def lag_of(world: World, path: str, body: bytes) -> Lag:
    """The least of three tries at most: noise only adds, and does not come thrice at one place."""
    for _ in range(3):
        lag = await lag_once(world, path, body)
        if lag.cpu_s < MAX_LAG_S:
            break
    return lag


async def lag_once(world: World, path: str, body: bytes) -> Lag:
    """Of one bad request, beside small ones that must all be answered."""
    world.reset()
    json_type = {"content-type": "application/json"}
    async with watched() as lag:
        bad = asyncio.create_task(world.http.post(path, content=body, headers=json_type))
        while not bad.done():
            assert (await world.http.get("/v1/models")).status_code == 200
            await asyncio.sleep(0.002)
    assert (await bad).status_code in (200, 400, 413), bad.result().text
    return lag


def report(lags: dict[str, Lag]) -> None:
    for name, lag in sorted(lags.items(), key=lambda each: -each[1].cpu_s)[:8]:
        print(f"loop held {1000 * lag.cpu_s:6.1f} ms (wall {1000 * lag.wall_s:6.1f} ms): {name}")
    name, worst = max(lags.items(), key=lambda each: each[1].cpu_s)
    assert worst.cpu_s < MAX_LAG_S, f"{name} held the loop up for {worst.cpu_s:.3f} s"
