"""The same books in a real Redis: the script keeps the rules of the ledger."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.quotas.ledger import Change, Ledger, day_of, month_of
from cluster.quotas.remote import Call, Held, LedgerAway, RemoteLedger
from cluster.quotas.work import Subject, Uses, Work
from cluster.tenants.caller import Limits
from tests.services import RedisServer, redis_server

NOON = 1_795_348_900.25

SUBJECTS = (
    Subject("tenant:a", Limits(requests_per_minute=20, tokens_per_minute=500, tokens_per_day=2000)),
    Subject("tenant:a/high", Limits(concurrent_requests=3, cost_per_month=4.0)),
    Subject("key:k", Limits(tokens_per_minute=300, tokens_per_month=5000, cost_per_day=1.5)),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


def ledger_at(server: RedisServer, prefix: str, gateway: str = "g1") -> RemoteLedger:
    return RemoteLedger(server.url, prefix, gateway, lease_s=15.0, timeout_s=5.0)


@pytest.fixture
async def remote(
    server: RedisServer, request: pytest.FixtureRequest
) -> AsyncIterator[RemoteLedger]:
    made = ledger_at(server, request.node.name)
    yield made
    await made.close()


def near(ours: Uses, theirs: Uses) -> bool:
    return all(a == pytest.approx(b, abs=1e-6) for a, b in zip(ours, theirs, strict=True))


STEP = st.tuples(
    st.sampled_from([0.0, 0.1, 0.4, 0.5, 3.0, 17.0, 61.0, 40_000.0]),
    st.sets(st.integers(0, 2), min_size=1),
    st.integers(1, 400),
    st.floats(0, 1),
    st.integers(0, 500),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, max_size=40))
def test_redis_and_memory_keep_the_same_books(
    server: RedisServer, steps: list[tuple[float, set[int], int, float, int]]
) -> None:
    async def compare() -> None:
        memory, redis, now = Ledger(), ledger_at(server, str(uuid4())), NOON
        running: list[tuple[list[str], int, Work]] = []
        sequence = 0
        for pause, chosen, tokens, cost, real in steps:
            now += pause
            subjects = [SUBJECTS[index] for index in sorted(chosen)]
            work = Work(1, tokens, 2.0 * tokens, cost)
            ours = memory.reserve(subjects, work, now)
            answer = await redis.call(Call(asked=[(subjects, work)]), now=now)
            (theirs,) = answer.verdicts
            assert (ours.refused is None) == (theirs.refused is None)
            if ours.refused is not None and theirs.refused is not None:
                assert ours.refused.name == theirs.refused.name
                assert ours.refused.kind == theirs.refused.kind
                assert ours.refused.wait_s == pytest.approx(theirs.refused.wait_s, abs=1e-3)
            else:
                running.append(([each.name for each in subjects], ours.slot, work))
            assert ours.slot == theirs.slot
            assert all(map(near, ours.uses, theirs.uses))
            if len(running) > 2:
                names, slot, booked = running.pop(0)
                change = Change(
                    slot, 0, real - booked.tokens, -1, -booked.weighted, -booked.cost,
                    2.0 * real, cost,
                )  # fmt: skip
                memory.change(names, change, now)
                sequence += 1
                await redis.call(
                    Call(sequence, changes=[(name, change) for name in names]), now=now
                )
        await redis.close()

    asyncio.run(compare())


async def test_many_subjects_of_many_requests_take_one_round_trip(remote: RemoteLedger) -> None:
    one = Subject("tenant:b", Limits(requests_per_minute=25))
    answer = await remote.call(Call(asked=[([one], Work(1, 1, 1.0, 0.0))] * 40), now=NOON)
    assert [each.refused is None for each in answer.verdicts] == [True] * 25 + [False] * 15


async def test_a_change_that_is_sent_twice_counts_once(remote: RemoteLedger) -> None:
    change = Change(int(NOON * 2), tokens=7, used=7.0)
    for _ in range(3):
        await remote.call(Call(1, changes=[("tenant:c", change)]), now=NOON)
    probe = Subject("tenant:c", Limits())
    answer = await remote.call(Call(asked=[([probe], Work(0, 0, 0.0, 0.0))]), now=NOON)
    assert answer.verdicts[0].uses[0].tokens == 7


async def test_what_a_dead_gateway_held_expires_and_what_was_used_does_not(
    server: RedisServer, remote: RemoteLedger, request: pytest.FixtureRequest
) -> None:
    other = ledger_at(
        server, "test_what_a_dead_gateway_held_expires_and_what_was_used_does_not", "g2"
    )
    limited = Subject("tenant:d", Limits(concurrent_requests=2, tokens_per_day=100))
    work = Work(1, 40, 40.0, 0.0)
    for _ in range(2):
        await other.call(Call(asked=[([limited], work)]), now=NOON)
    await other.call(Call(1, changes=[("tenant:d", Change(int(NOON * 2), used=15.0))]), now=NOON)
    answer = await remote.call(Call(asked=[([limited], work)]), now=NOON + 14)
    assert answer.verdicts[0].refused is not None
    assert answer.gateways == 2
    answer = await remote.call(Call(asked=[([limited], work)]), now=NOON + 16)
    assert answer.gateways == 1
    uses = answer.verdicts[0].uses[0]
    assert (uses.concurrent, uses.held, uses.day_weighted) == (1, 40.0, 55.0)
    answer = await other.call(Call(), now=NOON + 17)
    assert answer.lapsed
    await other.close()


async def test_a_gateway_that_comes_back_states_what_it_holds(remote: RemoteLedger) -> None:
    held = Held("tenant:e", 2, 50.0, 0.5, day_of(NOON), 70.0, 1.0, month_of(NOON), 900.0, 2.0)
    await remote.call(Call(holds=[held]), now=NOON)
    await remote.call(Call(holds=[held]), now=NOON)
    probe = Subject("tenant:e", Limits())
    answer = await remote.call(Call(asked=[([probe], Work(0, 0, 0.0, 0.0))]), now=NOON)
    uses = answer.verdicts[0].uses[0]
    assert (uses.concurrent, uses.day_weighted, uses.month_weighted) == (2, 120.0, 950.0)


async def test_a_redis_that_is_not_there_is_away(server: RedisServer) -> None:
    gone = RemoteLedger("redis://127.0.0.1:1/0", "p", "g", lease_s=1.0, timeout_s=0.2)
    with pytest.raises(LedgerAway):
        await gone.call(Call())
    await gone.close()
