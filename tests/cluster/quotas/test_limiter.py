"""Gateways that share limits through a real Redis, and what they do without it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from cluster.quotas.ledger import Change
from cluster.quotas.limiter import RETRY_S, Limiter, given_back
from cluster.quotas.remote import RemoteLedger
from cluster.quotas.work import Subject, Verdict, Work
from cluster.tenants.caller import Limits
from tests.services import RedisServer, redis_server

ONE = Work(1, 10, 10.0, 0.0)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@asynccontextmanager
async def limiters(
    server: RedisServer, count: int, *, known: int = 1, lease_s: float = 15.0
) -> AsyncIterator[list[Limiter]]:
    prefix = str(uuid4())
    made = [
        Limiter(
            RemoteLedger(server.url, prefix, f"g{index}", lease_s=lease_s, timeout_s=0.25),
            gateways=known,
            lease_s=lease_s,
        )
        for index in range(count)
    ]
    for each in made:
        await each.start()
    try:
        yield made
    finally:
        for each in made:
            await each.stop()


async def ask(limiter: Limiter, subject: Subject, work: Work = ONE) -> Verdict:
    told: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    limiter.ask([subject], work, told.set_result)
    return await asyncio.wait_for(told, 5.0)


async def admitted(limiter: Limiter, subject: Subject, tries: int, work: Work = ONE) -> int:
    verdicts = await asyncio.gather(*(ask(limiter, subject, work) for _ in range(tries)))
    return sum(verdict.refused is None for verdict in verdicts)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.02)


def limited(**limits: float) -> Subject:
    return Subject("tenant:a", Limits(**limits))  # type: ignore[arg-type]


async def test_gateways_let_through_exactly_the_limit_together(server: RedisServer) -> None:
    subject = limited(requests_per_minute=100)
    async with limiters(server, 3) as all_three:
        counts = await asyncio.gather(*(admitted(each, subject, 60) for each in all_three))
    assert sum(counts) == 100


async def test_one_gateway_without_redis_counts_for_itself() -> None:
    alone = Limiter(None)
    await alone.start()
    assert await admitted(alone, limited(requests_per_minute=100), 300) == 100
    await alone.stop()


async def test_settled_tokens_come_free_in_all_gateways(server: RedisServer) -> None:
    subject = limited(tokens_per_day=100)
    async with limiters(server, 2) as (one, other):
        verdict = await ask(one, subject, Work(1, 90, 90.0, 0.0))
        assert (await ask(other, subject, Work(1, 50, 50.0, 0.0))).refused is not None
        settled = Change(verdict.slot, 0, -60, -1, held=-90.0, used=30.0)
        one.change(["tenant:a"], settled)
        await asyncio.sleep(0.2)
        assert (await ask(other, subject, Work(1, 70, 70.0, 0.0))).refused is None


async def test_without_redis_each_keeps_to_its_share_and_returns_by_itself(
    server: RedisServer,
) -> None:
    subject = limited(requests_per_minute=100)
    async with limiters(server, 2) as (one, other):
        await ask(one, subject)
        await ask(other, subject)
        await until(lambda: one.gateways == other.gateways == 2 or not one._beat())  # type: ignore[func-returns-value]
        server.stop()
        counts = await asyncio.gather(*(admitted(each, subject, 80) for each in (one, other)))
        assert not one.shared
        assert [count + 1 for count in counts] == [50, 50]
        server.start()
        await until(lambda: one.shared and other.shared)
        # All of it is known there again, although Redis came back with nothing.
        assert await admitted(one, subject, 10) == 0
        assert await admitted(other, subject, 10) == 0


async def test_a_redis_that_hangs_is_away_after_its_time_limit(server: RedisServer) -> None:
    subject = limited(requests_per_minute=10)
    async with limiters(server, 1) as (one,):
        await ask(one, subject)
        server.pause(paused=True)
        begun = asyncio.get_running_loop().time()
        assert await admitted(one, subject, 20) == 9
        assert asyncio.get_running_loop().time() - begun < 1.0
        server.pause(paused=False)
        await until(lambda: one.shared)
        assert await admitted(one, subject, 5) == 0


async def test_a_redis_that_never_was_there_means_the_configured_share() -> None:
    away = RemoteLedger("redis://127.0.0.1:1/0", "p", "g", lease_s=15.0, timeout_s=0.2)
    limiter = Limiter(away, gateways=4)
    await limiter.start()
    assert await admitted(limiter, limited(requests_per_minute=100), 100) == 25
    other = Subject("tenant:b", Limits(concurrent_requests=2))
    assert await admitted(limiter, other, 3) == 1
    await limiter.stop()


async def test_a_budget_survives_a_redis_that_loses_everything(server: RedisServer) -> None:
    subject = limited(tokens_per_month=1000)
    async with limiters(server, 1) as (one,):
        for _ in range(2):
            verdict = await ask(one, subject, Work(1, 400, 400.0, 0.0))
            assert verdict.refused is None
            change = Change(verdict.slot, concurrent=-1, held=-400.0, used=400.0)
            one.change(["tenant:a"], change)
        await asyncio.sleep(0.2)
        server.stop()
        server.start()
        await until(lambda: not one.shared or not one._beat())  # type: ignore[func-returns-value]
        await asyncio.sleep(2 * RETRY_S)
        await until(lambda: one.shared)
        assert (await ask(one, subject, Work(1, 300, 300.0, 0.0))).refused is not None
        assert (await ask(one, subject, Work(1, 200, 200.0, 0.0))).refused is None


async def test_what_a_stopped_gateway_held_is_free_at_once(server: RedisServer) -> None:
    subject = limited(concurrent_requests=1)
    async with limiters(server, 2) as (one, other):
        await ask(one, subject)
        assert (await ask(other, subject)).refused is not None
        await one.stop()
        assert (await ask(other, subject)).refused is None


async def test_a_gateway_that_was_thought_dead_states_its_requests_again(
    server: RedisServer,
) -> None:
    subject = limited(concurrent_requests=1)
    async with limiters(server, 2, lease_s=1.0) as (one, other):
        await ask(one, subject)
        for timer in (one._heart, one._timer):
            if timer is not None:
                timer.cancel()
        await asyncio.sleep(1.2)
        assert (await ask(other, subject)).refused is None  # one's lease has run out
        one._beat()
        await asyncio.sleep(0.3)
        other.change(["tenant:a"], Change(0, concurrent=-1))
        await asyncio.sleep(0.2)
        assert (await ask(other, subject)).refused is not None


async def test_known_spending_is_there_from_the_start(server: RedisServer) -> None:
    subject = limited(tokens_per_day=100)
    async with limiters(server, 1) as (one,):
        late = Limiter(RemoteLedger(server.url, str(uuid4()), "s", lease_s=9, timeout_s=0.25))
        late.seed("tenant:a", (95.0, 0.0), (95.0, 0.0))
        await late.start()
        assert (await ask(late, subject)).refused is not None
        await late.stop()
        assert (await ask(one, subject)).refused is None


def test_what_is_given_back_undoes_an_admission() -> None:
    back = given_back(ONE, 5)
    assert (back.requests, back.tokens, back.concurrent, back.held) == (-1, -10, -1, -10.0)


def test_a_clock_that_is_set_moves_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = Limiter(None)
    before = limiter.now()
    assert abs(before - time.time()) < 1.0
    for set_to in (before - 3600.0, before + 3600.0):
        monkeypatch.setattr(time, "time", lambda set_to=set_to: set_to)
        assert 0.0 <= limiter.now() - before < 5.0
