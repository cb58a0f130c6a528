"""Quotas and usage of real generations: simulated engines behind real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.config import PriceConfig, Tier, TierFactors
from cluster.errors import BudgetExhausted, OverLimit, RateLimited, TriremeError
from cluster.quotas.limiter import Limiter
from cluster.quotas.work import Subject, Uses, Verdict, Work
from cluster.tenants.caller import Caller, Limited, Limits
from cluster.usage.prices import Prices
from cluster.usage.queue import UsageQueue
from cluster.usage.record import UsageRecord
from cluster.usage.segments import QueueFolder, read_segment
from deployments.engine.channel.frames import Sampling
from deployments.gateway.context import RequestContext
from deployments.gateway.metering import Metering
from deployments.gateway.streams import Stream
from tests.deployments.engine.channel_world import quick_engine
from tests.deployments.gateway.test_fleet_client import (
    LONG,
    MODEL,
    POOL,
    FrontEnd,
    World,
    slow_engine,
    until,
    world,
)

PRICES = Prices({"*": PriceConfig(prompt=1.0, output=10.0)})


def caller(tier: Tier | None = None, **limits: float) -> Caller:
    bounds = Limits(**limits)  # type: ignore[arg-type]
    return Caller("acme", "k1", team="red", limits=(Limited("tenant:acme", tier, bounds),))


@dataclass(eq=False)
class MeteredFrontEnd(FrontEnd):
    """Tells the meter of streams that never were, as the model core does."""

    metering: Metering | None = None

    def fail(self, stream: Stream, error: TriremeError) -> None:
        assert self.metering is not None
        self.metering.dropped(stream.context, stream.request.request_id)
        super().fail(stream, error)


@dataclass(eq=False)
class Metered:
    it: World
    metering: Metering
    limiter: Limiter
    queue: UsageQueue
    front_end: MeteredFrontEnd
    refused: dict[str, TriremeError] = field(default_factory=dict)

    def begin(self, request_id: str, who: Caller, tier: Tier = "low") -> RequestContext:
        now = asyncio.get_running_loop().time()
        return RequestContext(request_id, MODEL, tier, None, now, route="chat", caller=who)

    def generate(
        self, context: RequestContext, name: str, prompt: Sequence[int], max_tokens: int = LONG
    ) -> None:
        """One generation, as the model core asks for it."""

        def then(refusal: TriremeError | None) -> None:
            if refusal is not None:
                self.refused[name] = refusal
                return
            self.it.client.submit(
                name, list(prompt), Sampling(max_tokens), b"", context, self.front_end
            )

        self.metering.admit(context, name, context.request_id, len(prompt), max_tokens, then)

    def send(self, name: str, who: Caller, tier: Tier = "low", prompt: int = 20) -> RequestContext:
        context = self.begin(name, who, tier)
        self.generate(context, name, [7] * prompt)
        return context

    def done(self, context: RequestContext, outcome: str = "ok") -> None:
        self.metering.done(context, outcome, asyncio.get_running_loop().time())

    def uses(self, name: str = "tenant:acme") -> Uses:
        return self.limiter.ledger.uses(name, self.limiter.now())

    def tokens(self, name: str) -> int:
        return len(self.front_end.tokens.get(name, ()))

    def records(self) -> list[UsageRecord]:
        """Ends the queue."""
        self.queue.stop()
        segments = self.queue.folder.segments()
        return [record for path in segments for _, record in read_segment(path)[0]]


@asynccontextmanager
async def metered(
    folder: Path, *, max_queued: int = 1000, limiter: Limiter | None = None
) -> AsyncIterator[Metered]:
    async with world(max_queued) as it:
        queue = UsageQueue(QueueFolder.make(folder, "g"), flush_s=0.02, max_bytes=1 << 20)
        queue.start()
        limiter = limiter or Limiter(None)
        client = it.client
        metering = Metering(
            limiter, queue, PRICES, TierFactors(high=3.0), client.router.predictor,
            client.metrics.metrics, {POOL: 2},
        )  # fmt: skip
        client.metering = metering
        front_end = MeteredFrontEnd(metering=metering)
        yield Metered(it, metering, limiter, queue, front_end)
        assert metering.open_requests == 0


async def test_a_request_is_settled_with_what_it_wrote_and_booked_once(tmp_path: Path) -> None:
    async with metered(tmp_path) as on:
        await on.it.add("a", quick_engine())
        context = on.send("r", caller(tokens_per_day=10_000, cost_per_day=1.0), "high")
        assert on.uses().held > 0
        assert on.uses().concurrent == 1
        await until(lambda: "r" in on.front_end.finished)
        on.done(context)
        written = on.tokens("r")
        uses = on.uses()
        assert (uses.requests, uses.tokens, uses.concurrent) == (1, 20 + written, 0)
        assert uses.day_weighted == pytest.approx(3.0 * (20 + written))
        assert uses.day_cost == pytest.approx((20 + 10 * written) / 1e6)
        assert (uses.held, uses.held_cost) == (0.0, 0.0)
        (record,) = on.records()
        assert (record.tenant, record.team, record.key_id) == ("acme", "red", "k1")
        assert (record.tier_asked, record.tier_served, record.outcome) == ("high", "high", "ok")
        assert record.prompt_tokens == 20
        assert record.analysis_tokens + record.final_tokens == written
        assert record.final_tokens > 0
        assert record.cost == pytest.approx(uses.day_cost)
        assert 0 < record.gpu_s < 2 * record.duration_s
        assert record.ttft_s is not None
        assert record.ttft_s <= record.duration_s


async def test_gpu_seconds_of_all_are_what_the_gpus_were_busy_for(tmp_path: Path) -> None:
    async with metered(tmp_path) as on:
        await on.it.add("a", quick_engine(16, step_ms={"base": 10}))
        began = asyncio.get_running_loop().time()
        contexts = [on.send(f"r{n}", caller(), "medium") for n in range(8)]
        await until(lambda: len(on.front_end.finished) == 8)
        busy_s = asyncio.get_running_loop().time() - began
        for context in contexts:
            on.done(context)
        assert sum(each.gpu_s for each in on.records()) == pytest.approx(2 * busy_s, rel=0.35)


async def test_a_cancelled_request_pays_for_what_it_has_had(tmp_path: Path) -> None:
    async with metered(tmp_path) as on:
        await on.it.add("a", slow_engine())
        context = on.send("r", caller(tokens_per_minute=100_000))
        await until(lambda: on.tokens("r") >= 3)
        on.done(context, "cancelled")
        assert on.uses().concurrent == 1  # the engine still runs it
        on.it.client.abort(["r"])
        uses = on.uses()
        assert (uses.tokens, uses.concurrent, uses.held) == (20 + on.tokens("r"), 0, 0.0)
        (record,) = on.records()
        assert record.outcome == "cancelled"
        assert record.analysis_tokens + record.final_tokens == on.tokens("r")


async def test_a_gateway_that_stops_settles_everything(tmp_path: Path) -> None:
    async with metered(tmp_path) as on:
        await on.it.add("a", slow_engine())
        contexts = [on.send(f"r{n}", caller(tokens_per_day=100_000)) for n in range(4)]
        await until(lambda: all(on.tokens(f"r{n}") for n in range(4)))
        await on.it.client.stop()
        for context in contexts:
            on.done(context, "failed")
        written = sum(on.tokens(f"r{n}") for n in range(4))
        assert on.uses().day_weighted == 4 * 20 + written
        assert (on.uses().held, on.uses().concurrent) == (0.0, 0)
        assert len(on.records()) == 4


async def test_what_the_router_refuses_costs_no_tokens(tmp_path: Path) -> None:
    async with metered(tmp_path, max_queued=1) as on:
        contexts = [on.send(f"r{n}", caller(tokens_per_day=100_000)) for n in range(5)]
        assert len(on.front_end.failed) == 4
        on.it.client.abort(["r0"])
        for context in contexts:
            on.done(context, "refused")
        uses = on.uses()
        assert (uses.requests, uses.tokens, uses.concurrent, uses.held) == (5, 0, 0, 0.0)
        assert all(each.prompt_tokens == 0 for each in on.records())


async def test_a_burst_of_high_requests_cannot_overdraw_a_budget(tmp_path: Path) -> None:
    async with metered(tmp_path) as on:
        await on.it.add("a", quick_engine(64))
        who, weight = caller(tokens_per_day=6000), 3.0
        contexts = [on.send(f"r{n}", who, "high") for n in range(100)]
        admitted = 100 - len(on.refused)
        assert 5 <= admitted <= 25
        assert all(isinstance(each, BudgetExhausted) for each in on.refused.values())
        await until(lambda: len(on.front_end.finished) == admitted)
        for context in contexts:
            on.done(context)
        assert on.uses().held == pytest.approx(0.0)
        assert on.uses().day_weighted <= 6000
        assert on.uses().day_weighted == weight * sum(
            20 + on.tokens(f"r{n}") for n in range(100) if f"r{n}" in on.front_end.finished
        )
        on.records()


async def test_a_request_that_outgrows_its_reservation_reserves_more(tmp_path: Path) -> None:
    async with metered(tmp_path) as on:
        tokens = {"low": 400.0, "medium": 400.0, "high": 400.0}  # ten times what is predicted
        await on.it.add("a", quick_engine(output_tokens_mean=tokens, output_sigma=0.0))
        context = on.send("r", caller(tokens_per_day=100_000))
        first = on.uses().held
        assert first < 100
        await until(lambda: on.tokens("r") > 200)
        assert on.uses().held > 220
        await until(lambda: "r" in on.front_end.finished)
        on.done(context)
        assert on.uses().held == pytest.approx(0.0)
        assert on.uses().tokens == 20 + on.tokens("r")
        on.records()


async def test_answers_to_one_prompt_pay_for_it_once(tmp_path: Path) -> None:
    async with metered(tmp_path) as on:
        await on.it.add("a", quick_engine())
        context = on.begin("r", caller(tokens_per_minute=100_000, concurrent_requests=1))
        for choice in range(3):
            on.generate(context, f"{choice}_r", [7] * 20)
        await until(lambda: len(on.front_end.finished) == 3)
        on.done(context)
        written = sum(on.tokens(f"{choice}_r") for choice in range(3))
        uses = on.uses()
        assert (uses.requests, uses.tokens, uses.concurrent) == (1, 20 + written, 0)
        (record,) = on.records()
        assert record.prompt_tokens == 20
        assert record.analysis_tokens + record.final_tokens == written


async def test_a_stream_that_moves_to_another_replica_pays_for_each_token_once(
    tmp_path: Path,
) -> None:
    async with metered(tmp_path) as on:
        await on.it.add("a", slow_engine())
        context = on.send("r", caller(tokens_per_minute=100_000))
        await until(lambda: on.tokens("r") >= 3)
        await on.it.add("b", quick_engine())
        await on.it.kill("a")
        await until(lambda: "r" in on.front_end.finished)
        on.done(context)
        assert on.uses().tokens == 20 + on.tokens("r")
        (record,) = on.records()
        assert record.prompt_tokens == 20
        assert record.analysis_tokens + record.final_tokens == on.tokens("r")


async def test_near_a_limit_requests_stand_behind_and_at_it_they_are_refused(
    tmp_path: Path,
) -> None:
    async with metered(tmp_path) as on:
        who = caller(requests_per_minute=5, soft_share=0.6)
        contexts = [on.send(f"r{n}", who) for n in range(7)]
        assert [each.behind for each in contexts] == [False] * 3 + [True] * 2 + [False] * 2
        router = on.it.client.router
        late = router.queues[MODEL]._queues["low"].late
        assert list(late) == ["r3", "r4"]
        assert [type(each) for each in on.refused.values()] == [RateLimited] * 2
        told = contexts[6].rate_limits
        assert told["x-ratelimit-limit-requests"] == "5"
        assert told["x-ratelimit-remaining-requests"] == "0"
        assert told["x-ratelimit-reset-requests"] in ("1m0s", "1m1s")
        assert int(on.refused["r6"].headers()["retry-after"]) >= 60
        on.it.client.abort([f"r{n}" for n in range(5)])
        for context in contexts:
            on.done(context, "cancelled")
        on.records()


async def test_after_a_refusal_the_door_refuses_without_a_look_at_the_prompt(
    tmp_path: Path,
) -> None:
    async with metered(tmp_path) as on:
        who = caller(requests_per_minute=1)
        contexts = [on.send("r0", who), on.send("r1", who)]
        again = on.begin("r2", who)
        with pytest.raises(RateLimited) as raised:
            on.metering.check(again)
        assert raised.value.retry_after_s == pytest.approx(60.5, abs=1.0)
        assert again.rate_limits["x-ratelimit-limit-requests"] == "1"
        on.metering.check(on.begin("r3", caller(requests_per_minute=2)))  # it was raised
        on.it.client.abort(["r0"])
        for context in contexts:
            on.done(context, "refused")
        assert [each.request_id for each in on.records()] == ["r0"]


async def test_a_prompt_that_no_minute_has_room_for_is_not_to_be_tried_again(
    tmp_path: Path,
) -> None:
    async with metered(tmp_path) as on:
        context = on.send("r", caller(tokens_per_minute=100), prompt=101)
        assert isinstance(on.refused["r"], OverLimit)
        assert on.refused["r"].headers()["x-should-retry"] == "false"
        on.done(context, "refused")
        assert on.records() == []


class SlowLimiter(Limiter):
    """Answers when it is told to, as one does that asks Redis."""

    def __init__(self) -> None:
        super().__init__(None)
        self.waiting: list[Callable[[], None]] = []

    def ask(self, subjects: Sequence[Subject], work: Work, then: Callable[[Verdict], None]) -> None:
        self.waiting.append(lambda: then(self.reserve_here(subjects, work)))

    def answer(self) -> None:
        for each in self.waiting:
            each()
        self.waiting = []


async def test_a_request_that_is_given_up_before_its_admission_never_starts(
    tmp_path: Path,
) -> None:
    limiter = SlowLimiter()
    async with metered(tmp_path, limiter=limiter) as on:
        await on.it.add("a", quick_engine())
        context = on.send("r", caller(tokens_per_day=1000, concurrent_requests=1))
        on.metering.abort(["r"])
        on.done(context, "cancelled")
        limiter.answer()
        assert on.it.client.streams == 0
        uses = on.uses()
        assert (uses.tokens, uses.held, uses.concurrent) == (0, 0.0, 0)
        kept = on.send("s", caller(tokens_per_day=1000, concurrent_requests=1))
        limiter.answer()
        await until(lambda: "s" in on.front_end.finished)
        on.done(kept)
        on.records()


async def test_callers_without_limits_are_booked_all_the_same(tmp_path: Path) -> None:
    async with metered(tmp_path) as on:
        await on.it.add("a", quick_engine())
        context = on.send("r", Caller("free", "k9"))
        await until(lambda: "r" in on.front_end.finished)
        on.done(context)
        assert context.rate_limits == {}
        (record,) = on.records()
        assert record.tenant == "free"
