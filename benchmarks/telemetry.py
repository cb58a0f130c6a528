"""What telemetry costs: metrics and logs, traces, a scrape, and a scrape's effect on streams.

The gateway's own objects are driven with placements of a real router, outside of any cluster. Times
are CPU: of the thread that serves requests, and with traces also of the whole process, whose
exporter sends to a real OTLP receiver in another process. Gaps are those between the tokens of
streams from a simulated engine over the real channel, with and without somebody who scrapes.
"""

import asyncio
import contextlib
import gc
import itertools
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import httpx

from benchmarks.measure import arguments, report
from benchmarks.router import make_router
from cluster.config import TIERS, OutputTokens, SimulatedEngineConfig, TracingConfig
from cluster.logs import JsonLines
from cluster.metrics import GATEWAY_METRICS
from cluster.ops import OpsListener, exposition
from cluster.pool_steps import step_times
from cluster.tracing import tracer
from deployments.engine.channel.client import Endpoint, LinkSettings
from deployments.engine.channel.frames import Output, Sampling
from deployments.engine.channel.server import ServerSettings
from deployments.engine.host import EngineHost
from deployments.engine.simulated import SimulatedEngine
from deployments.gateway.context import RequestContext
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.links import Member
from deployments.gateway.request_log import log_request
from deployments.gateway.streams import CHANNEL, FINAL, MESSAGE, Stream
from deployments.gateway.traces import RequestTraces
from deployments.router import Placed, Request

MODEL, POOL = "gpt-oss-120b", "main"
TOKENS = 200
SECRET = "benchmark"


class Nobody:
    """A front-end that notes when tokens come."""

    model = MODEL

    def __init__(self) -> None:
        self.came: dict[str, list[float]] = {}
        self.ended = 0

    def deliver(self, outputs: list[tuple[Stream, Output]]) -> None:
        now = time.monotonic()
        for stream, output in outputs:
            self.came.setdefault(stream.request.request_id, []).append(now)
            self.ended += output.finish is not None

    def fail(self, stream: Stream, error: Exception) -> None:
        """The run is over; its streams have no end of their own."""


@dataclass(frozen=True)
class Case:
    """A generation that a real router has placed."""

    stream: Stream
    placed: Placed


def cases(count: int) -> list[Case]:
    """Placed generations, each with a context of its own."""
    router = make_router("effort", 8)
    made = []
    for number in range(count):
        tier, now = TIERS[number % 3], 0.01 * number
        request = Request(f"r{number}", MODEL, tier, 500, 4096)
        router.admit(request, now)
        for placed in router.placements(now):
            context = RequestContext(request.request_id, MODEL, tier, tier, time.monotonic())
            context.route = "chat"
            sampling = Sampling(4096)
            stream = Stream(request, number, [], sampling, b"", context, Nobody(), bytes)
            made.append(Case(stream, placed))
            router.on_first_token(placed.flight)
            router.on_finished(request.request_id, now + 0.005, complete=True)
    return made


def one_request(metrics: FleetMetrics, case: Case) -> None:
    """All that telemetry does for a request, apart from its tokens."""
    stream, context = case.stream, case.stream.context
    metrics.placed(stream, case.placed)
    stream.flight = case.placed.flight
    stream.placements += 1
    stream.first_token_s = time.monotonic()
    metrics.first_token(stream, Output(stream.number, [1], cached_tokens=128))
    stream.emitted = [1] * TOKENS
    stream.last_token_s = stream.answer_s = time.monotonic()
    stream.tokens_before_answer = TOKENS // 2
    metrics.ended(stream)
    metrics.request_done(context, "ok")
    log_request(context, 200, "ok", time.monotonic())
    if metrics.traces is not None:
        metrics.traces.done(context, 200, "ok")


def timed(work: Callable[[], None], clock: Callable[[], float]) -> float:
    gc.collect()
    gc.disable()
    started = clock()
    work()
    took_s = clock() - started
    gc.enable()
    return took_s


def per_request(
    count: int, rounds: int, collector: str | None, share: float
) -> tuple[float, float]:
    """µs a request: of the serving thread, and of the whole process with what it sends."""
    found = []
    for _ in range(rounds):
        ready = cases(count)
        traces = None
        if collector is not None:
            config = TracingConfig(endpoint=collector, share=share, max_queued_spans=100_000)
            made = tracer(config, "benchmark", "1")
            assert made is not None
            traces = RequestTraces(made)
        metrics = FleetMetrics((MODEL,), ((MODEL, POOL),), None, traces)

        def serve(ready: list[Case] = ready, metrics: FleetMetrics = metrics) -> None:
            for case in ready:
                one_request(metrics, case)

        gc.collect()
        gc.disable()
        process_s, thread_s = time.process_time(), time.thread_time()
        serve()
        thread_s = time.thread_time() - thread_s
        if traces is not None:
            traces.stop()
        process_s = time.process_time() - process_s
        gc.enable()
        found.append((1e6 * thread_s / len(ready), 1e6 * process_s / len(ready)))
    return min(t for t, _ in found), min(p for _, p in found)


def per_token(rounds: int) -> float:
    """µs a token: its time, and looking for where the answer begins."""
    tokens = [CHANNEL, 35644, MESSAGE, *[100] * 1000, 200007, 200006, CHANNEL, FINAL, MESSAGE, 1]
    best = float("inf")
    for _ in range(rounds):
        streams = [case.stream for case in cases(20)]

        def note(streams: list[Stream] = streams) -> None:
            for stream in streams:
                for token in tokens:
                    stream.note([token], 1.0)

        best = min(best, timed(note, time.thread_time) / (len(streams) * len(tokens)))
    return 1e6 * best


def scrape_ms(rounds: int, accept: str) -> tuple[float, int]:
    """(ms of CPU, bytes) of one scrape of a gateway that has served."""
    metrics = FleetMetrics((MODEL,), ((MODEL, POOL), (MODEL, "second")))
    for case in cases(300):
        one_request(metrics, case)
    took_s = []
    size = 0
    for _ in range(rounds):
        started = time.thread_time()
        body, _ = exposition(metrics.metrics.registry, accept)
        took_s.append(time.thread_time() - started)
        size = len(body)
    return 1e3 * statistics.median(took_s), size


# ---------------------------------------------------------------------- streams and scrapes


def scraper(url: Connection, period_s: float) -> None:
    """Scrapes until it is ended."""
    where = url.recv()
    with httpx.Client(trust_env=False, timeout=10) as http:
        while True:
            http.get(f"{where}/metrics").raise_for_status()
            time.sleep(period_s)


async def gaps_ms(seconds: float, scraped: bool) -> list[float]:
    """Gaps between tokens of 32 streams, in ms, beyond the engine's step."""
    step_ms = 5.0
    settings = SimulatedEngineConfig(
        step_ms={"base": step_ms},  # type: ignore[arg-type]
        output_tokens_mean=OutputTokens(low=1e5, medium=1e5, high=1e5),
        output_sigma=0,
    )
    engine = SimulatedEngine(settings, 64, 8192, 131_072)
    server = ServerSettings(SECRET, 1.0, 5.0, 1 << 24, 1 << 23, 1000)
    host = EngineHost(engine, "a", server, 60.0)
    await host.start("127.0.0.1")
    metrics = FleetMetrics((MODEL,), ((MODEL, POOL),))
    link = LinkSettings(SECRET, "g", 1.0, 5.0, 5.0, 1 << 24)
    client = FleetClient(make_router("effort", 0), link, metrics)
    client.start()
    every = frozenset(TIERS)
    steps = step_times(settings, 1)
    member = Member(Endpoint("a", "127.0.0.1", host.port), MODEL, POOL, every, every, steps)
    client.update_members([member])
    ops = OpsListener(metrics.metrics.registry, dict)
    url = await ops.start("127.0.0.1")
    front = Nobody()
    with scraping(url) if scraped else contextlib.nullcontext():
        for number in range(32):
            context = RequestContext(f"r{number}", MODEL, TIERS[number % 3], None, time.monotonic())
            client.submit(f"r{number}", [number] * 50, Sampling(100_000), b"", context, front)
        await asyncio.sleep(seconds)
    found = [
        1e3 * (later - sooner)
        for times in front.came.values()
        for sooner, later in itertools.pairwise(times[20:])
    ]
    await client.stop()
    await host.stop()
    await ops.stop()
    return found


@contextlib.contextmanager
def scraping(url: str) -> Iterator[None]:
    ours, its = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=scraper, args=(its, 1.0), daemon=True)
    process.start()
    ours.send(url)
    try:
        yield
    finally:
        process.kill()
        process.join()


def receiver(told: Connection) -> None:
    """An OTLP receiver in a process of its own."""
    from tests.observability.otlp_receiver import receiving

    with receiving() as made:
        told.send(made.url)
        with contextlib.suppress(EOFError):
            told.recv()


@contextlib.contextmanager
def collector() -> Iterator[str]:
    ours, its = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=receiver, args=(its,), daemon=True)
    process.start()
    its.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join(5)
        process.kill()


def main() -> None:
    args = arguments(str(__doc__)).parse_args()
    count, rounds, seconds = (1000, 3, 8.0) if args.quick else (3000, 7, 30.0)
    log = logging.getLogger("trireme")
    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.propagate = False
    log.setLevel("INFO")
    figures: dict[str, float] = {}
    asyncio.run(measure(figures, count, rounds, seconds))
    rows = [(name, f"{value:.2f}") for name, value in figures.items()]
    report("What telemetry costs", ("", "figure"), rows, figures, args.json)


async def measure(figures: dict[str, float], count: int, rounds: int, seconds: float) -> None:
    figures["metrics: µs a token"] = per_token(rounds)
    figures["metrics and log line: µs a request"], _ = per_request(count, rounds, None, 0.0)
    level = logging.getLogger("trireme").level
    logging.getLogger("trireme").setLevel("WARNING")
    bare, _ = per_request(count, rounds, None, 0.0)
    figures["metrics alone: µs a request"] = bare
    with collector() as url:
        for name, share in (("not sampled", 0.0), ("sampled", 1.0)):
            thread, process = per_request(count, rounds, url, share)
            figures[f"tracing on, {name}: µs a request of the serving thread"] = thread - bare
            figures[f"tracing on, {name}: µs a request in all"] = process - bare
    logging.getLogger("trireme").setLevel(level)
    figures["rows of a gateway's table"] = len(GATEWAY_METRICS)
    for name, accept in (("plain", ""), ("OpenMetrics", "application/openmetrics-text")):
        took, size = scrape_ms(10 * rounds, accept)
        figures[f"scrape, {name}: ms"] = took
        figures[f"scrape, {name}: kB"] = size / 1e3
    for name, scraped in (("not scraped", False), ("scraped every second", True)):
        found = sorted(await gaps_ms(seconds, scraped))
        figures[f"gap between tokens, {name}: p99.9 ms"] = found[int(0.999 * len(found))]
        figures[f"gap between tokens, {name}: largest ms"] = found[-1]


if __name__ == "__main__":
    main()
