"""An answer that is cut after any of its tokens and continued is the answer that was not cut.

On a real engine, with the requests that vLLM's front-end makes of OpenAI's API. A small slice of
``python -m benchmarks.continuation``, whose text says how real sampling is had from the tiny model.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from benchmarks import continuation
from benchmarks.continuation import (
    CASES,
    Answer,
    FrontEnd,
    answers,
    cpu_environment,
    cut_everywhere,
    make_engine,
    submission,
    tally,
    tiny_model,
)
from deployments.compat import vllm as compat
from deployments.engine.channel.frames import STOP, Submit
from deployments.engine.engine import RequestRefused
from deployments.engine.vllm_engine import VllmEngine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]

PROMPTS = int(os.environ.get("TRIREME_CONTINUATION_PROMPTS", "4"))
"""Prompts of each case; 50 take minutes (see the benchmark)."""


@dataclass
class World:
    front_end: FrontEnd
    engine: VllmEngine

    async def requests(self, case: str, prompts: int = PROMPTS) -> list[Any]:
        return [await self.front_end.request(*CASES[case](each)) for each in range(prompts)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    cache = request.config.cache
    assert cache is not None
    with pytest.MonkeyPatch.context() as patch, cpu_environment():
        patch.setenv("TRIREME_HOME", str(cache.mkdir("trireme_home")))
        model = tiny_model()
        engine = make_engine(model, num_gpu_blocks_override=continuation.FEW_KV_BLOCKS)
        starting = asyncio.create_task(engine.start())
        front_end = await FrontEnd.make(model)
        assert (await starting).exact_sampling
        yield World(front_end, engine)
        engine.stop()


@pytest.mark.parametrize("case", CASES)
async def test_an_answer_goes_on_the_same_after_every_one_of_its_tokens(
    world: World, case: str
) -> None:
    found = await tally(world.engine, await world.requests(case))
    assert not found.wrong
    assert found.cuts >= 5 * found.prompts


async def test_seeds_draw_different_answers_and_stop_tokens_end_some(world: World) -> None:
    """The cases above are about something."""
    sampled = await answers(world.engine, [submission(r) for r in await world.requests("seeded")])
    assert len({tuple(each.tokens) for each in sampled}) == PROMPTS
    assert all(len(set(each.tokens)) > 10 for each in sampled)
    stopped = await answers(
        world.engine, [submission(r) for r in await world.requests("stop tokens")]
    )
    assert any(each.finish == STOP and each.stop_reason == each.tokens[-1] for each in stopped)
    favoured = await answers(
        world.engine, [submission(r) for r in await world.requests("penalties")]
    )
    assert {(len(each.tokens), each.finish) for each in favoured} == {(15, STOP)}
    (detailed,) = await answers(
        world.engine, [submission(r) for r in await world.requests("log-probabilities", 1)]
    )
    assert {len(row) for row in detailed.logprobs} == {6}
    assert len(detailed.logprobs) == len(detailed.tokens)


def as_prompt(submit: Submit) -> Submit:
    """What a gateway could send without ``emitted``: written tokens become part of the prompt."""
    written = submit.emitted
    prompt = [*submit.prompt_token_ids, *written]
    request = compat.decode_request(submit.request, "", prompt)
    params = request.sampling_params
    assert params is not None
    assert params.max_tokens is not None
    params.max_tokens -= len(written)
    params.min_tokens = max(0, params.min_tokens - len(written))
    return submission(request)


async def wrong_as_prompt(world: World, case: str) -> tuple[int, int]:
    """(continuations that differ, all of them) with what was written in the prompt."""
    (request,) = await world.requests(case, 1)
    (whole,) = await answers(world.engine, [submission(request)])
    submits = [as_prompt(each) for each in cut_everywhere(request, whole)]
    rests = await answers(world.engine, submits)
    wrong = [rest for cut, rest in enumerate(rests, 1) if not rest.is_rest_of(whole, cut)]
    return len(wrong), len(rests)


async def test_with_fresh_noise_nearly_every_continuation_would_differ(world: World) -> None:
    wrong, cuts = await wrong_as_prompt(world, "seeded")
    assert wrong > 0.9 * cuts


async def test_with_the_answer_in_the_prompt_penalties_would_choose_others(world: World) -> None:
    """Greedy, so that noise has no part in it."""
    wrong, cuts = await wrong_as_prompt(world, "penalties")
    assert wrong > 0.5 * cuts


async def test_with_the_answer_in_the_prompt_a_grammar_would_begin_anew(world: World) -> None:
    wrong, cuts = await wrong_as_prompt(world, "JSON schema")
    assert wrong > 0.9 * cuts


async def test_what_cannot_go_on_is_refused_and_harms_no_other(world: World) -> None:
    (request,) = await world.requests("seeded", 1)
    limit = request.sampling_params.max_tokens
    full = submission(request, [100_000] * 1990)
    for submit in (submission(request, [100_000] * limit), full):
        with pytest.raises(RequestRefused) as refused:
            await world.engine.submit("refused", submit)
        assert not refused.value.retryable
    (answer,) = await answers(world.engine, [submission(request)])
    assert isinstance(answer, Answer)
    assert len(answer.tokens) == limit
