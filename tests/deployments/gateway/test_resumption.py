"""Streams that outlive their gateway: two fleet clients, real channels, simulated engines."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.config import PriceConfig, TierFactors
from cluster.errors import StreamGone
from cluster.quotas.limiter import Limiter
from cluster.tenants.caller import Caller
from cluster.usage.prices import Prices
from cluster.usage.queue import UsageQueue
from cluster.usage.record import UsageRecord
from cluster.usage.segments import QueueFolder, read_segment
from deployments.engine.channel.frames import LENGTH, STOP, Sampling
from deployments.engine.simulated import reply
from deployments.gateway.context import RequestContext
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.metering import Metering
from deployments.gateway.resume import NONCE_BYTES, NOT_ENDED, OURS, Resume, Shown
from deployments.gateway.runaway import RunawayGuard
from tests.deployments.engine.channel_world import link_settings, quick_engine
from tests.deployments.gateway.test_fleet_client import (
    LONG,
    MODEL,
    POOL,
    FrontEnd,
    World,
    make_router,
    until,
    world,
)
from tests.deployments.gateway.test_metering import MeteredFrontEnd

NONCE = b"n" * NONCE_BYTES
KEEP_S = 600.0
PROMPT = [7] * 20
STEP_MS = {"base": 15}


@dataclass(eq=False)
class Asking:
    """A gateway with its front-end."""

    client: FleetClient
    front_end: FrontEnd

    def send(
        self,
        name: str,
        *,
        comes_back: bool,
        tenant: str = "acme",
        prompt: list[int] = PROMPT,
        max_tokens: int = LONG,
        keep_s: float = KEEP_S,
    ) -> RequestContext:
        shown = Shown(NONCE, OURS, 2, 7, NOT_ENDED, {}) if comes_back else None
        now = asyncio.get_running_loop().time()
        context = RequestContext(name, MODEL, "high", None, now, route="chat")
        context.caller = Caller(tenant, "k1")
        context.resume = Resume(NONCE, keep_s, shown)
        sampling = Sampling(max_tokens, seed=context.resume.seed)

        def go(_: object = None) -> None:
            self.client.submit(name, list(prompt), sampling, b"", context, self.front_end)

        if self.client.metering is None:
            go()
        else:
            self.client.metering.admit(context, name, name, len(prompt), max_tokens, go)
        return context

    def got(self, name: str) -> list[int]:
        return self.front_end.tokens.get(name, [])

    async def begun(self, name: str, tokens: int = 5) -> None:
        await until(lambda: len(self.got(name)) >= tokens)

    async def ended(self, name: str) -> None:
        await until(lambda: name in self.front_end.finished, 30.0)


@asynccontextmanager
async def second_gateway(it: World, **changes: object) -> AsyncIterator[Asking]:
    metrics = FleetMetrics((MODEL,), ((MODEL, POOL),))
    settings = link_settings(gateway_id="gateway-2")
    client = FleetClient(make_router(1000, 30.0), settings, metrics, **changes)  # type: ignore[arg-type]
    client.start()
    client.update_members(it.members.values())
    await until(lambda: len(list(client.router.fleet)) == len(it.members))
    try:
        yield Asking(client, FrontEnd())
    finally:
        await client.stop()


def first_gateway(it: World) -> Asking:
    return Asking(it.client, it.front_end)


async def die(gateway: Asking) -> None:
    """As when its process is killed: connections end, and nobody says a word."""
    for link in gateway.client._links:
        await link.close()


def whole(it: World, prompt: list[int] = PROMPT) -> list[int]:
    (host, *_) = it.hosts.values()
    seed = Resume(NONCE, KEEP_S).seed
    return reply(prompt, "high", seed, host.engine.config)  # type: ignore[attr-defined]


def counted(asking: Asking, outcome: str) -> float:
    labels = {"model": MODEL, "tier": "high", "outcome": outcome}
    registry = asking.client.metrics.metrics.registry
    return registry.get_sample_value("trireme_stream_resumptions_total", labels) or 0.0


async def test_a_stream_whose_gateway_died_goes_on_at_another_one() -> None:
    async with world() as it:
        for name in ("a", "b"):
            await it.add(name, quick_engine(step_ms=STEP_MS))
        first = first_gateway(it)
        async with second_gateway(it) as second:
            first.send("r", comes_back=False)
            await first.begun("r")
            await die(first)
            await until(lambda: not any(host.pending for host in it.hosts.values()))
            context = second.send("again", comes_back=True)
            await second.ended("again")
            assert second.got("again") == whole(it)
            assert second.front_end.finished["again"] == STOP
            assert context.settled
            assert counted(second, "continued") == 1
            assert second.client.streams == 0
            # It was continued, and not written anew.
            written = sum(host.tokens_out for host in it.hosts.values())
            assert written == len(whole(it))


async def test_a_stream_may_be_resumed_again_and_again() -> None:
    async with world() as it:
        await it.add("a", quick_engine(step_ms=STEP_MS))
        first = first_gateway(it)
        async with second_gateway(it) as second, second_gateway(it) as third:
            first.send("r", comes_back=False)
            await first.begun("r")
            await die(first)
            second.send("r2", comes_back=True)
            await second.begun("r2", len(first.got("r")) + 5)
            await die(second)
            third.send("r3", comes_back=True)
            await third.ended("r3")
            assert third.got("r3") == whole(it)


async def test_a_reply_that_ended_meanwhile_is_told_without_any_work() -> None:
    async with world() as it:
        host = await it.add("a", quick_engine())
        first = first_gateway(it)
        async with second_gateway(it) as second:
            first.send("r", comes_back=False)
            await first.ended("r")
            before = host.tokens_out
            second.send("again", comes_back=True)
            await second.ended("again")
            assert second.got("again") == whole(it)
            assert host.tokens_out == before
            assert counted(second, "complete") == 1


async def test_who_is_not_its_client_or_asks_for_something_else_gets_nothing() -> None:
    async with world() as it:
        await it.add("a", quick_engine())
        first = first_gateway(it)
        async with second_gateway(it) as second:
            first.send("r", comes_back=False)
            await first.ended("r")
            second.send("tenant", comes_back=True, tenant="emca")
            second.send("prompt", comes_back=True, prompt=[7] * 21)
            await until(lambda: len(second.front_end.failed) == 2)
            for name in ("tenant", "prompt"):
                assert isinstance(second.front_end.failed[name], StreamGone)
                assert second.got(name) == []
            assert counted(second, "gone") == 2


async def test_what_was_kept_for_long_enough_is_gone() -> None:
    async with world() as it:
        host = await it.add("a", quick_engine())
        first = first_gateway(it)
        first.send("r", comes_back=False, keep_s=0.05)
        await first.ended("r")
        await until(lambda: len(host.journals) == 0)  # without anybody asking
        first.send("again", comes_back=True)
        await until(lambda: "again" in first.front_end.failed)
        assert isinstance(first.front_end.failed["again"], StreamGone)


async def test_a_hanging_replica_does_not_hold_up_what_another_one_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as it:
        for name in ("a", "b"):
            await it.add(name, quick_engine(step_ms=STEP_MS))
        first = first_gateway(it)
        async with second_gateway(it) as second:
            first.send("r", comes_back=False)
            await first.begun("r")
            asked = asyncio.Event()

            def silence(journal: str) -> Coroutine[Any, Any, Any]:
                asked.set()
                return asyncio.sleep(3600)

            home = first.client._streams["r"].context.replica_id
            (other,) = set(it.hosts) - {home}
            monkeypatch.setattr(second.client._links[other], "recall", silence)
            await die(first)
            second.send("again", comes_back=True)
            await second.ended("again")
            assert asked.is_set()
            assert second.got("again") == whole(it)


async def test_a_client_that_leaves_while_it_is_asked_for_leaves_nothing_behind() -> None:
    async with world() as it:
        await it.add("a", quick_engine(step_ms=STEP_MS))
        first = first_gateway(it)
        async with second_gateway(it) as second:
            first.send("r", comes_back=False)
            await first.begun("r")
            await die(first)
            second.send("again", comes_back=True)
            second.client.abort(["again"])
            await asyncio.sleep(0.1)
            assert second.got("again") == []
            assert second.client.streams == 0
            assert not second.client._returning
            second.send("once more", comes_back=True)
            await second.begun("once more", len(first.got("r")) + 1)
            second.client.abort(["once more"])
            await until(lambda: not any(host.pending for host in it.hosts.values()))
            assert second.client.streams == 0


async def test_a_reply_that_may_not_think_any_longer_ends_where_it_was_cut() -> None:
    cap = RunawayGuard(max_analysis_tokens={"high": 20})
    async with world() as it:
        await it.add("a", quick_engine(step_ms=STEP_MS))
        it.client.guard = cap
        first = first_gateway(it)
        async with second_gateway(it, guard=cap) as second:
            first.send("r", comes_back=False)
            await first.ended("r")
            assert first.front_end.finished["r"] == LENGTH
            await until(lambda: not any(host.pending for host in it.hosts.values()))
            second.send("again", comes_back=True)
            await second.ended("again")
            assert second.front_end.finished["again"] == LENGTH
            assert second.got("again")[: len(first.got("r"))] == first.got("r")


# ------------------------------------------------------------------ what it costs


def metered(asking: Asking, folder: Path) -> Asking:
    queue = UsageQueue(QueueFolder.make(folder, "g"), flush_s=0.02, max_bytes=1 << 20)
    queue.start()
    client = asking.client
    prices = Prices({"*": PriceConfig(prompt=1.0, output=10.0)})
    client.metering = Metering(
        Limiter(None), queue, prices, TierFactors(), client.router.predictor,
        client.metrics.metrics, {POOL: 1},
    )  # fmt: skip
    return Asking(client, MeteredFrontEnd(metering=client.metering))


def records(asking: Asking) -> list[UsageRecord]:
    metering = asking.client.metering
    assert metering is not None
    assert metering.queue is not None
    assert metering.open_requests == 0
    metering.queue.stop()
    segments = metering.queue.folder.segments()
    return [record for path in segments for _, record in read_segment(path)[0]]


@pytest.mark.parametrize("dies", [True, False])
async def test_each_token_is_counted_once_whether_the_gateway_or_its_client_was_lost(
    tmp_path: Path, dies: bool
) -> None:
    async with world() as it:
        await it.add("a", quick_engine(step_ms=STEP_MS))
        first = metered(first_gateway(it), tmp_path / "first")
        async with second_gateway(it) as made:
            second = metered(made, tmp_path / "second")
            context = first.send("r", comes_back=False)
            await first.begun("r")
            now = asyncio.get_running_loop().time
            lost: list[UsageRecord] = []
            if dies:
                await die(first)  # and with it what it would have put down
            else:
                first.client.abort(["r"])
                assert first.client.metering is not None
                first.client.metering.done(context, "cancelled", now())
                lost = records(first)
                assert [each.prompt_tokens for each in lost] == [len(PROMPT)]
            await until(lambda: not any(host.pending for host in it.hosts.values()))
            context = second.send("again", comes_back=True)
            await second.ended("again")
            assert second.client.metering is not None
            second.client.metering.done(context, "ok", now())
            found = lost + records(second)
            assert sum(each.prompt_tokens for each in found) == len(PROMPT)
            written = sum(each.analysis_tokens + each.final_tokens for each in found)
            # What the engine wrote while the word of the end was on its way is nobody's.
            assert len(whole(it)) - 20 <= written <= len(whole(it))
            assert second.got("again") == whole(it)
            if dies:
                assert written == len(whole(it))
