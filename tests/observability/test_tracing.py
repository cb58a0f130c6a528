"""One trace from the client's `traceparent` to the last token, at a real OTLP receiver."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cluster.config import TIERS, TracingConfig
from cluster.ops import exposition
from cluster.tracing import tracer
from deployments.engine.channel.client import Endpoint
from deployments.engine.channel.frames import Sampling
from deployments.engine.host import EngineHost
from deployments.engine.traces import EngineTraces
from deployments.gateway.context import RequestContext
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.links import Member
from deployments.gateway.traces import RequestTraces
from tests.deployments.engine.channel_world import link_settings, quick_engine, server_settings
from tests.deployments.gateway.test_fleet_client import (
    LONG,
    MODEL,
    POOL,
    STEPS,
    World,
    make_router,
    until,
)
from tests.observability.otlp_receiver import Received, Receiver, receiving

CALLER = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = f"00-{CALLER}-{PARENT}-01"
NOT_SAMPLED = f"00-{CALLER}-{PARENT}-00"


class TracedWorld(World):
    """Gateway and hosts that trace to ``url``."""

    def __init__(self, client: FleetClient, traces: RequestTraces, config: TracingConfig) -> None:
        super().__init__(client)
        self.traces = traces
        self.config = config
        self.engines: list[EngineTraces] = []

    async def add_traced(self, name: str) -> None:
        made = tracer(self.config, "trireme-engine", name)
        assert made is not None
        traces = EngineTraces(made, name)
        self.engines.append(traces)
        host = EngineHost(
            quick_engine(16, step_ms={"base": 20}), name, server_settings(), 60.0, traces
        )
        await host.start("127.0.0.1")
        self.hosts[name] = host
        endpoint = Endpoint(name, "127.0.0.1", host.port)
        self.members[name] = Member(endpoint, MODEL, POOL, frozenset(TIERS), frozenset(), STEPS)
        self.client.update_members(self.members.values())
        await until(lambda: self.client.router.fleet.get(name) is not None)

    def ask(self, request_id: str, traceparent: str = "") -> None:
        """A chat, as the door would hand it on."""
        now = asyncio.get_running_loop().time()
        context = RequestContext(request_id, MODEL, "low", None, now)
        context.route, context.traceparent = "chat", traceparent
        self.front_end.contexts[request_id] = context
        prompt, sampling = self.prompt_of(request_id), Sampling(LONG)
        self.client.submit(request_id, prompt, sampling, b"", context, self.front_end)

    async def sent(self) -> None:
        """Everything that was recorded has gone out."""
        await asyncio.to_thread(self.traces.stop)
        for engine in self.engines:
            await asyncio.to_thread(engine.stop)


@asynccontextmanager
async def traced(receiver: Receiver, share: float = 1.0) -> AsyncIterator[TracedWorld]:
    config = TracingConfig(endpoint=receiver.url, share=share, timeout_s=2.0)
    made = tracer(config, "trireme-gateway", "g1")
    assert made is not None
    traces = RequestTraces(made)
    metrics = FleetMetrics((MODEL,), ((MODEL, POOL),), None, traces)
    client = FleetClient(make_router(100, 30.0), link_settings(), metrics)
    client.start()
    world = TracedWorld(client, traces, config)
    try:
        yield world
    finally:
        await client.stop()
        for host in world.hosts.values():
            await host.stop()


def by_name(receiver: Receiver) -> dict[str, list[Received]]:
    found: dict[str, list[Received]] = {}
    for span in sorted(receiver.spans, key=lambda span: span.start_ns):
        found.setdefault(span.name, []).append(span)
    return found


async def finish(world: TracedWorld, request_id: str) -> RequestContext:
    await until(lambda: request_id in world.front_end.finished)
    context = world.front_end.contexts[request_id]
    world.traces.done(context, 200, "ok")
    return context


async def test_one_trace_leads_from_the_caller_to_the_engines_last_token() -> None:
    with receiving() as receiver:
        async with traced(receiver) as world:
            await world.add_traced("a")
            world.ask("r1", traceparent=SAMPLED)
            await finish(world, "r1")
            await world.sent()
        spans = by_name(receiver)
        assert {span.trace_id for span in receiver.spans} == {CALLER}
        (root,) = spans[f"chat {MODEL}"]
        (attempt,) = spans[f"generate {MODEL}"]
        (engine,) = spans["engine"]
        assert root.parent_id == PARENT
        assert attempt.parent_id == root.span_id
        assert "admitted" in root.events
        assert engine.parent_id == attempt.span_id
        assert (root.service, engine.service) == ("trireme-gateway", "trireme-engine")
        assert root.start_ns <= attempt.start_ns <= engine.start_ns
        assert engine.end_ns <= attempt.end_ns <= root.end_ns
        tokens = len(world.front_end.tokens["r1"])
        assert root.attributes["gen_ai.usage.output_tokens"] == tokens
        assert root.attributes["gen_ai.operation.name"] == "chat"
        assert root.attributes["trireme.tier"] == "low"
        assert attempt.attributes["trireme.replica"] == "a"
        assert engine.attributes["gen_ai.response.finish_reasons"] == ["stop"]
        assert {"first_token", "first_answer_token"} <= attempt.events.keys()
        assert not root.failed


async def test_who_waits_for_a_replica_has_a_span_that_says_so() -> None:
    with receiving() as receiver:
        async with traced(receiver) as world:
            world.ask("r1")
            await asyncio.sleep(0.05)
            await world.add_traced("a")
            await finish(world, "r1")
            await world.sent()
        spans = by_name(receiver)
        ((root,), (queue,), (attempt,)) = (
            spans[name] for name in (f"chat {MODEL}", "queue", f"generate {MODEL}")
        )
        assert queue.parent_id == root.span_id
        assert queue.end_ns - queue.start_ns >= 0.05e9
        assert root.start_ns <= queue.start_ns < queue.end_ns <= attempt.start_ns


async def test_a_failover_is_two_attempts_of_one_trace_linked_to_each_other() -> None:
    with receiving() as receiver:
        async with traced(receiver) as world:
            await world.add_traced("a")
            await world.add_traced("b")
            world.ask("r1")
            await world.until_begun(["r1"], 3)
            first = world.home_of("r1")
            assert first is not None
            await world.kill(first)
            context = await finish(world, "r1")
            await world.sent()
        assert context.figures is not None
        assert context.figures.failovers == 1
        spans = by_name(receiver)
        (root,) = spans[f"chat {MODEL}"]
        before, after = spans[f"generate {MODEL}"]
        assert len({span.trace_id for span in receiver.spans}) == 1
        assert before.failed
        assert before.events["left"]["trireme.cause"] in {"died", "replica_lost"}
        assert after.links == (before.span_id,)
        assert after.attributes["trireme.tokens.before"] >= 3
        assert "resumed" in after.events
        assert "failover" in root.events
        assert root.attributes["trireme.failovers"] == 1
        assert {before.attributes["trireme.replica"], after.attributes["trireme.replica"]} == {
            "a",
            "b",
        }


async def test_who_calls_decides_whether_it_is_traced_and_else_the_share_does() -> None:
    with receiving() as receiver:
        async with traced(receiver, share=0.0) as world:
            await world.add_traced("a")
            world.ask("sampled", traceparent=SAMPLED)
            world.ask("not", traceparent=NOT_SAMPLED)
            world.ask("unsaid")
            world.ask("nonsense", traceparent="no such thing")
            for request_id in ("sampled", "not", "unsaid", "nonsense"):
                await finish(world, request_id)
            await world.sent()
        assert {span.trace_id for span in receiver.spans} == {CALLER}
        assert len(by_name(receiver)[f"chat {MODEL}"]) == 1


@pytest.mark.parametrize("status", [500, 404])
async def test_a_collector_that_refuses_harms_nothing(status: int) -> None:
    with receiving() as receiver:
        receiver.status = status
        async with traced(receiver) as world:
            await world.add_traced("a")
            for n in range(5):
                world.ask(f"r{n}")
            for n in range(5):
                await finish(world, f"r{n}")
            await world.sent()
        assert receiver.requests > 0
        assert world.front_end.failed == {}


async def test_a_collector_that_is_not_there_harms_nothing_and_holds_nothing_up() -> None:
    gone = Receiver("http://127.0.0.1:9/v1/traces")
    async with traced(gone) as world:
        await world.add_traced("a")
        for n in range(5):
            world.ask(f"r{n}")
        for n in range(5):
            await finish(world, f"r{n}")
        async with asyncio.timeout(15.0):
            await world.sent()
    assert world.front_end.failed == {}


async def test_measurements_of_a_traced_request_point_to_its_trace() -> None:
    with receiving() as receiver:
        async with traced(receiver) as world:
            await world.add_traced("a")
            world.ask("r1", traceparent=SAMPLED)
            await finish(world, "r1")
            accept = "application/openmetrics-text;version=1.0.0"
            text, _ = exposition(world.client.metrics.metrics.registry, accept)
            await world.sent()
    lines = [line for line in text.decode().splitlines() if CALLER in line]
    assert any(line.startswith("trireme_time_to_first_token_seconds_bucket") for line in lines)


def test_without_a_collector_there_is_no_tracer_and_nothing_of_it_is_imported() -> None:
    assert tracer(TracingConfig(), "trireme-gateway", "g1") is None
    code = (
        "import sys; from cluster.config import TracingConfig; from cluster.tracing import tracer;"
        "tracer(TracingConfig(), 's', 'i'); print(*(m for m in sys.modules if 'opentel' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


async def test_spans_beyond_the_queue_are_dropped() -> None:
    with receiving() as receiver:
        config = TracingConfig(endpoint=receiver.url, max_queued_spans=64, share=1.0, timeout_s=0.5)
        made = tracer(config, "s", "i")
        assert made is not None
        receiver.status = 503
        for n in range(5000):
            made.span(f"s{n}", 0.0, {}).end()
        receiver.status = 200
        await asyncio.to_thread(made.stop)
    assert len(receiver.spans) <= 128
