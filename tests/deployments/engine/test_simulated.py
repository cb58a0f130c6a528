"""The live simulated replica: what it writes and refuses, and that it keeps the model's time."""

import asyncio
import time

import pytest
from pydantic import ValidationError

from cluster.config import PoolConfig
from cluster.pool_steps import step_times
from cluster.steptime import step_model
from deployments.engine.channel.frames import LENGTH, STOP, Output, Sampling, Submit
from deployments.engine.engine import RequestRefused
from deployments.engine.model import EngineLimits, EngineModel, EventKind, Work
from deployments.engine.simulated import (
    RETURN,
    WORDS,
    SimulatedEngine,
    block_hashes,
    reply,
)
from tests.deployments.engine.channel_world import quick_engine

PROMPT = list(range(40))


def submission(sampling: Sampling, prompt: list[int] | None = None) -> Submit:
    return Submit(1, prompt or PROMPT, sampling, 0, "low")


async def outputs(engine: SimulatedEngine, *submissions: Submit) -> list[list[Output]]:
    """What each request wrote, step by step, until all have ended."""
    for number, submit in enumerate(submissions):
        await engine.submit(str(number), submit)
    packed: list[list[Output]] = [[] for _ in submissions]
    async with asyncio.timeout(20):
        while engine._running:
            step = await engine.next_step()
            for output in step.outputs:
                packed[int(output.request_id)].append(engine.pack(output, 1))
    return packed


async def written(sampling: Sampling, engine: SimulatedEngine) -> tuple[list[int], int | None]:
    await engine.start()
    (packed,) = await outputs(engine, submission(sampling))
    assert [output.finish for output in packed[:-1]] == [None] * (len(packed) - 1)
    return [token for output in packed for token in output.tokens], packed[-1].finish


async def test_a_reply_ends_by_itself_or_at_the_limit_whichever_comes_first() -> None:
    script = reply(PROMPT, "low", 0, quick_engine().config)
    whole = len(script)
    assert await written(Sampling(10_000), quick_engine()) == (script, STOP)
    assert await written(Sampling(whole), quick_engine()) == (script, STOP)
    assert await written(Sampling(whole - 1), quick_engine()) == (script[:-1], LENGTH)


async def test_with_a_minimum_the_reply_goes_on_past_its_end() -> None:
    script = reply(PROMPT, "low", 0, quick_engine().config)
    tokens, finish = await written(
        Sampling(10_000, min_tokens=len(script) + 1), quick_engine(step_ms={"base": 0.2})
    )
    assert tokens == [*script[:-1], WORDS[0], *script]
    assert finish == STOP


async def test_a_reply_that_may_not_end_stops_where_the_context_does() -> None:
    engine = quick_engine(step_ms={"base": 0.05})
    engine.max_model_len = 200
    tokens, finish = await written(Sampling(10**9, ignore_eos=True), engine)
    assert (len(tokens), finish) == (160, LENGTH)
    assert RETURN in tokens


async def test_a_prompt_seen_before_comes_partly_from_the_cache() -> None:
    engine = quick_engine()
    await engine.start()
    longer = [*range(32), *range(100, 140)]
    found = []
    for prompt in (PROMPT, PROMPT, longer, [9, *PROMPT]):
        (packed,) = await outputs(engine, submission(Sampling(3), prompt))
        found.append(packed[0].cached_tokens)
        assert all(output.cached_tokens is None for output in packed[1:])
    assert found == [0, 32, 32, 0]


def test_blocks_are_known_by_all_tokens_up_to_their_end() -> None:
    one, other = block_hashes(list(range(48))), block_hashes([*range(47), 99])
    assert len(one) == len(other) == 3
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    swapped = block_hashes([*range(16, 32), *range(16), *range(32, 48)])
    assert not set(one) & set(swapped)
    assert block_hashes(list(range(15))) == ()


async def test_a_prompt_is_found_cached_only_under_the_salt_that_it_came_with() -> None:
    engine = quick_engine()
    await engine.start()
    found = []
    for salt in ("a", "b", "a", ""):
        submit = submission(Sampling(3), PROMPT)
        submit.cache_salt = salt
        (packed,) = await outputs(engine, submit)
        found.append(packed[0].cached_tokens)
    assert found == [0, 0, 32, 0]


async def test_what_can_never_run_is_refused_for_good_and_a_full_replica_for_now() -> None:
    engine = quick_engine(max_num_seqs=1, kv_tokens=1024, max_waiting=1)
    await engine.start()
    for prompt, limit in ((list(range(900)), 10_000), (list(range(9000)), 1)):
        with pytest.raises(RequestRefused) as refused:
            await engine.submit("large", submission(Sampling(limit, ignore_eos=True), prompt))
        assert not refused.value.retryable
    await engine.submit("0", submission(Sampling(500, ignore_eos=True)))
    await engine.submit("1", submission(Sampling(5)))
    with pytest.raises(RequestRefused) as refused:
        await engine.submit("2", submission(Sampling(5)))
    assert refused.value.retryable


async def test_steps_are_those_of_the_engine_model() -> None:
    """Which request gets a token in which step, and how long the steps take."""
    config = PoolConfig(engine="simulated").simulated.model_copy(update={"speed_factor": 10.0})
    engine = SimulatedEngine(config, 4, 512, 8192)
    limits = EngineLimits(4, 512, config.kv_tokens // 16)
    model = EngineModel(step_times(config, 1), limits, max_leap=1)
    await engine.start()
    lengths = [(300, 12), (900, 5), (40, 30), (40, 1), (40, 9), (700, 4)]
    submissions = [
        submission(Sampling(tokens, ignore_eos=True), [number] * prompt)
        for number, (prompt, tokens) in enumerate(lengths)
    ]
    started_s = asyncio.get_running_loop().time()
    for number, (prompt, tokens) in enumerate(lengths):
        model.submit(Work(str(number), prompt, tokens, 0, 0.0), 0.0)
    for number, submit in enumerate(submissions):
        await engine.submit(str(number), submit)
    while engine._running:
        step = await engine.next_step()
        live = {output.request_id: len(output.new_token_ids) for output in step.outputs}
        now = model.next_event_s()
        ended = [e.work.work_id for e in model.advance(now) if e.kind is EventKind.FINISHED]
        due = {key for key, work in model._works.items() if model.emitted(work, now)}
        assert live.keys() == {*due, *ended}
        assert set(live.values()) <= {1}
    passed_s = asyncio.get_running_loop().time() - started_s
    assert passed_s == pytest.approx(now / 10.0, abs=0.2)
    assert passed_s >= now / 10.0 - 0.01


def test_step_times_are_those_of_the_gpu_and_the_group_unless_set() -> None:
    pool = PoolConfig.model_validate(
        {"engine": "simulated", "tensor_parallel_size": 2, "simulated": {"gpu": "H100"}}
    )
    assert step_times(pool.simulated, 2) is step_model("H100", 2)
    own = quick_engine(step_ms={"base": 5, "request": 1, "context_1k": 2, "prompt_1k": 10}).config
    assert step_times(own, 1).step_s(3, 2000) == pytest.approx(0.005 + 0.003 + 0.004)
    assert step_times(own, 1).step_s(0, 0, 500) == pytest.approx(0.010)


def test_step_times_that_nobody_measured_are_refused_with_those_that_were() -> None:
    unknown = {"engine": "simulated", "simulated": {"gpu": "L4"}}
    with pytest.raises(ValidationError, match=r"L4 .* was not measured"):
        PoolConfig.model_validate(unknown)
    set_by_hand = {"engine": "simulated", "simulated": {"gpu": "L4", "step_ms": {"base": 20}}}
    assert PoolConfig.model_validate(set_by_hand).simulated.step_ms is not None


@pytest.mark.parametrize(
    "sampling",
    [Sampling(10_000), Sampling(20), Sampling(10_000, min_tokens=60, seed=5)],
    ids=["to its end", "to the limit", "past its end"],
)
async def test_a_reply_cut_anywhere_goes_on_where_it_was(sampling: Sampling) -> None:
    whole, finish = await written(sampling, quick_engine(step_ms={"base": 0.05}))
    engine = quick_engine(step_ms={"base": 0.05}, max_waiting=len(whole))
    await engine.start()
    cuts = [Submit(1, PROMPT, sampling, 0, "low", b"", whole[:cut]) for cut in range(len(whole))]
    for cut, packed in enumerate(await outputs(engine, *cuts)):
        assert [token for output in packed for token in output.tokens] == whole[cut:]
        assert [output.finish for output in packed] == [None] * (len(packed) - 1) + [finish]
        cached = [output.cached_tokens for output in packed]
        assert cached[0] in (0, 32, len(PROMPT))
        assert cached[1:] == [None] * (len(packed) - 1)
    with pytest.raises(RequestRefused) as refused:
        await engine.submit("whole", Submit(1, PROMPT, sampling, 0, "low", b"", whole))
    assert not refused.value.retryable


def oversleep(seconds: float) -> None:
    """The event loop does nothing for so long."""
    time.sleep(seconds)


async def test_an_end_that_comes_while_another_request_leaves_is_told_all_the_same() -> None:
    engine = quick_engine(step_ms={"base": 1})
    await engine.start()
    for request_id in ("stays", "leaves"):
        await engine.submit(request_id, submission(Sampling(5, ignore_eos=True)))
    oversleep(0.05)  # by now both have written everything, and nobody was told
    await engine.abort(["leaves"])
    told = 0
    async with asyncio.timeout(5.0):
        while told < 5:
            step = await engine.next_step()
            told += sum(len(output.new_token_ids) for output in step.outputs)
    assert step.outputs[-1].finished
