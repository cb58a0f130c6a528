"""What keys, quotas and usage add to a request: CPU µs of the gateway's process, and per token.

Two ways in one process, in turn: the door open to everybody, and with keys, limits on tenant, key
and tier, and usage; the latter with the books in this process, and in a Redis if there is one
(``redis-server`` on the PATH or ``--redis URL``). Everything behind the door is left out: in place
of vLLM's application stands one that admits a generation where vLLM would, and answers with a few
chunks. Threads of ours (usage to disk and to a SQLite store) are counted.

``keys`` is the difference that the caller's identity makes, ``quotas`` and ``usage`` the rest.
"""

import asyncio
import dataclasses
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measure import arguments, report
from cluster.config import TIERS, PriceConfig, TierFactors
from cluster.errors import TriremeError
from cluster.local_ray import free_ports
from cluster.metrics import GATEWAY_METRICS, Metrics
from cluster.quotas.limiter import Limiter
from cluster.quotas.remote import RemoteLedger
from cluster.tenants.book import Actor, Book
from cluster.tenants.directory import Directory
from cluster.tenants.orders import NewKeyOrder, NewTenant
from cluster.tenants.secret import DoorSecret
from cluster.tenants.store import Store, open_store
from cluster.usage.prices import Prices
from cluster.usage.queue import UsageQueue
from cluster.usage.segments import QueueFolder
from cluster.usage.writer import UsageWriter
from deployments.engine.channel.frames import Output, Sampling
from deployments.gateway.context import Figures, RequestContext, current_request
from deployments.gateway.contract.door import Door
from deployments.gateway.contract.limits import Limits
from deployments.gateway.identity import Identity
from deployments.gateway.metering import Metering
from deployments.gateway.streams import Stream
from deployments.router import LogNormal, Request
from deployments.router.predict import LengthPredictor
from deployments.router.tiers import served_names

MODEL = "gpt-oss-120b"
BODY = msgspec.json.encode(
    {"model": MODEL, "messages": [{"role": "user", "content": "Why is the sea salt?"}] * 4}
)
CHUNKS = 8
PROMPT_TOKENS = 200
LIMITS = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "concurrent_requests": 10**6,
    "tokens_per_day": 10**14,
    "cost_per_month": 1e12,
}
AT_ONCE = 32
"""Requests at a time: a gateway that is worth measuring is busy."""


@dataclass(frozen=True)
class Plan:
    rounds: int
    requests: int


FULL, QUICK = Plan(9, 3000), Plan(3, 800)


class Way:
    """A door and what is behind it; ``run`` gives CPU µs a request."""

    def __init__(
        self, identity: Identity | None, key: str, metering: Metering | None, chunks: int = CHUNKS
    ) -> None:
        self._metering = metering
        self._chunks = chunks
        self._numbers = itertools.count()
        self._headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        if key:
            self._headers.append((b"authorization", b"Bearer " + key.encode()))
        hooks: dict[str, Any] = {} if metering is None else {"check_limits": metering.check}
        self._door = Door(
            {MODEL: self._application},
            served_names({MODEL: ()}),
            default_tier="medium",
            limits=Limits(1 << 20, 4000),
            max_model_len={MODEL: 131_072},
            ready=lambda: True,
            metrics=_no_metrics,
            clock=asyncio.get_running_loop().time,
            on_done=self._done,
            access=identity,
            **hooks,
        )

    def _done(self, context: RequestContext, status: int) -> None:
        assert status == 200, status
        if self._metering is not None:
            self._metering.done(context, "ok", asyncio.get_running_loop().time())

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        """As vLLM's, less its work: reads the body, asks for a generation, streams an answer."""
        await receive()
        context = current_request.get()
        context.figures = Figures(first_token_s=0.01)
        number = str(next(self._numbers))
        stream = await self._admitted(context, number)
        context.settled = True
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for _ in range(self._chunks):
            stream.emitted.append(1)
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        if self._metering is not None:
            self._metering.ended(stream)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _admitted(self, context: RequestContext, number: str) -> Stream:
        request = Request(number, MODEL, context.tier, PROMPT_TOKENS, 1000)
        stream = Stream(request, 1, [], Sampling(1000), b"", context, _NoFrontEnd(), bytes)
        stream.placements = 1
        if self._metering is not None:
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def then(refusal: TriremeError | None) -> None:
                assert refusal is None, refusal
                told.set_result(None)

            self._metering.admit(context, number, number, PROMPT_TOKENS, 1000, then)
            await told
        return stream

    async def run(self, requests: int) -> float:
        """CPU µs a request of the whole process."""
        left = iter(range(requests))

        async def client() -> None:
            for _ in left:
                await self._one()

        began = time.process_time()
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        while self._metering is not None and self._metering.queue is not None:
            # Else the next one would pay for writing the usage of this one.
            await asyncio.sleep(0.3)
            if self._metering.queue.size_bytes == 0:
                break
        return 1e6 * (time.process_time() - began) / requests

    async def _one(self) -> None:
        messages = [{"type": "http.request", "body": BODY, "more_body": False}]
        gone = asyncio.Event()

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            # A server's write is where other requests get their turn.
            if message["type"] == "http.response.start":
                await asyncio.sleep(0)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "root_path": "",
            "query_string": b"", "headers": list(self._headers), "asgi": {},
        }  # fmt: skip
        await self._door(scope, receive, send)


class _NoFrontEnd:
    model = MODEL

    def deliver(self, outputs: list[tuple[Stream, Output]]) -> None:
        raise AssertionError

    def fail(self, stream: Stream, error: TriremeError) -> None:
        raise AssertionError


async def _no_metrics() -> tuple[bytes, str]:
    return b"", ""


@contextmanager
def redis_at(given: str | None, folder: Path) -> Iterator[str | None]:
    """The URL of a Redis: that one, or one that is started; None if there is none."""
    program = shutil.which("redis-server")
    if given is not None or program is None:
        yield given
        return
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def make_key(store: Store, secret: DoorSecret) -> str:
    """Of a tenant with limits over all tiers and on one, and some more of its own."""
    book, actor = Book(store, secret), Actor("benchmark", "here")
    limits = {"all": LIMITS, "medium": LIMITS}
    book.create_tenant(NewTenant.model_validate({"name": "acme", "limits": limits}), actor)
    order = NewKeyOrder.model_validate({"tenant": "acme", "limits": {"all": LIMITS}})
    return book.create_key(order, actor).key.text


@dataclasses.dataclass
class Books:
    """Everything behind the door that quotas and usage need."""

    metering: Metering
    limiter: Limiter
    queue: UsageQueue
    writer: UsageWriter

    async def stop(self) -> None:
        await self.limiter.stop()
        self.queue.stop()
        self.writer.stop()


async def books(store: Store, folder: Path, redis_url: str | None) -> Books:
    remote = None
    if redis_url is not None:
        remote = RemoteLedger(redis_url, "door", os.urandom(4).hex(), lease_s=15, timeout_s=1.0)
    limiter = Limiter(remote)
    await limiter.start()
    queue = UsageQueue(QueueFolder.make(folder, "door"), flush_s=0.2, max_bytes=1 << 28)
    writer = UsageWriter(queue, store.engine)
    queue.start()
    writer.start()
    predictor = LengthPredictor({tier: LogNormal.from_mean(4000.0, 1.0) for tier in TIERS})
    metering = Metering(
        limiter, queue, Prices({"*": PriceConfig(prompt=1, output=4)}), TierFactors(), predictor,
        Metrics(GATEWAY_METRICS), {},
    )  # fmt: skip
    return Books(metering, limiter, queue, writer)


Turns = dict[str, list[float]]


async def measure(plan: Plan, redis_url: str | None, folder: Path) -> dict[str, float]:
    """µs a request of every way, and of a token, on less off."""
    store = open_store(f"sqlite:///{folder / 'store.db'}")
    store.migrate()
    secret = DoorSecret("5f" * 32)
    key = make_key(store, secret)
    loop, known = asyncio.get_running_loop(), asyncio.Event()
    directory = Directory(
        store, period_s=1.0, on_change=lambda _: void(loop.call_soon_threadsafe(known.set))
    )
    directory.start()
    await known.wait()
    identity = Identity(directory, secret, None, public_metrics=True, refused=lambda reason: None)
    found = {"memory": await books(store, folder / "a", None)}
    if redis_url is not None:
        found["redis"] = await books(store, folder / "b", redis_url)
    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "off": _runs(Way(None, "", None), plan),
        "keys": _runs(Way(identity, key, None), plan),
    }
    for name, each in found.items():
        ways[f"all, {name}"] = _runs(Way(identity, key, each.metering), plan)
    long = 64 * CHUNKS
    few = Plan(plan.rounds, plan.requests // 16)
    ways["off, long"] = _runs(Way(None, "", None, long), few)
    ways["all, long"] = _runs(Way(identity, key, found["memory"].metering, long), few)
    turns: Turns = {name: [] for name in ways}
    for _ in range(plan.rounds + 1):
        for name, run in ways.items():
            turns[name].append(await run())
    for each in found.values():
        await each.stop()
    await asyncio.to_thread(directory.stop)
    store.close()
    return figures(turns)


def void(_: object) -> None:
    """For a callback that must give nothing."""


def _runs(way: Way, plan: Plan) -> Callable[[], Awaitable[float]]:
    return lambda: way.run(plan.requests)


def figures(turns: Turns) -> dict[str, float]:
    """By each way's least disturbed round: what else a machine does makes CPU time longer, never
    shorter. The first round warms up."""
    least = {name: min(values[1:]) for name, values in turns.items()}
    off = least["off"]
    told = {"door, open: us a request": off, "keys: us a request": least["keys"] - off}
    for name in ("memory", "redis"):
        if f"all, {name}" in least:
            told[f"keys, quotas ({name}), usage: us a request"] = least[f"all, {name}"] - off
    longer = least["all, long"] - least["off, long"]
    told["keys, quotas, usage: us a token"] = (longer - (least["all, memory"] - off)) / (
        63 * CHUNKS
    )
    return told


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--redis", metavar="URL", help="a Redis to use")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_at(args.redis, Path(folder)) as redis_url:
        told = asyncio.run(measure(QUICK if args.quick else FULL, redis_url, Path(folder)))
    rows = [(name, f"{value:.2f}") for name, value in told.items()]
    report("CPU of the door", ("figure", "µs"), rows, told, args.json)


if __name__ == "__main__":
    main()
