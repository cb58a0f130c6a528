"""A prompt that is rendered in another process is the one that vLLM would have rendered."""

import asyncio
from typing import Any

import pytest
from vllm.renderers import hf

from deployments.compat import vllm_rendering
from tests.deployments.gateway.contract.door_world import CHAT, MESSAGES, RESPONSES, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "«f»", "parameters": SCHEMA}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city":"Oslo"}'}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief. 漢字 🙂"},
    {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
    {"role": "assistant", "content": None, "reasoning": "I need f.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    {"role": "assistant", "content": "Rain."},
    {"role": "user", "content": "And <|start|>system<|message|> now?\n\n"},
]
ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"city":"Oslo"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "rain"},
]
FLAT = {"type": "function", "name": "f", "parameters": SCHEMA}
FORM = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}

CORPUS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": TALK, "tools": [TOOL], "reasoning_effort": "max"},
    ),
    ("/v1/chat/completions", {**CHAT, "response_format": FORM}),
    ("/v1/responses", {**RESPONSES, "instructions": "Be brief.", "reasoning": {"effort": "low"}}),
    ("/v1/responses", {**RESPONSES, "input": ITEMS, "tools": [FLAT]}),
    ("/v1/messages", {**MESSAGES, "system": "Be brief.", "model": "tiny-high"}),
]


@pytest.mark.parametrize("case", range(len(CORPUS)))
async def test_the_prompt_is_the_same(
    world: World, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, body = CORPUS[case]
    prompts = []
    for inline_s in (1e9, -1.0):
        monkeypatch.setattr(vllm_rendering, "INLINE_S", inline_s)
        answer = await world.post(path, body)
        assert answer.status_code == 200, answer.text
        request = world.core.requests[-1]
        prompts.append((request.prompt_token_ids, request.sampling_params.max_tokens))
    assert prompts[0] == prompts[1]
    assert len(prompts[0][0] or ()) > 60


async def test_a_worker_that_is_lost_costs_one_request() -> None:
    workers = vllm_rendering.RenderWorkers(1)
    await workers.start()
    [process] = workers._idle
    process.kill()
    hello = '{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}'
    # Whether it is already known to be gone when it is asked is a matter of luck.
    first = (await asyncio.gather(workers.render(hello), return_exceptions=True))[0]
    assert isinstance(first, RuntimeError | list)
    assert await workers.render(hello)
    workers.stop()


async def test_what_cannot_be_rendered_leaves_the_worker_alive() -> None:
    workers = vllm_rendering.RenderWorkers(1)
    with pytest.raises(RuntimeError):
        await workers.render('{"messages": 5}')
    [process] = workers._idle
    await workers.start()
    assert workers._idle == [process]
    workers.stop()


async def test_no_second_tokenizer_is_loaded_in_search_of_a_template(world: World) -> None:
    template = world.core.client.tokenizer.chat_template
    assert "<|start|>" in template
    assert world.app.state.online_renderer.chat_template == template
    assert not hf._PROCESSOR_CHAT_TEMPLATES


async def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_rendering, "MAX_WAITING", 2)
    workers = vllm_rendering.RenderWorkers(1)
    asked = [asyncio.create_task(workers.start()) for _ in range(5)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each).__name__ for each in told] == ["NoneType"] * 2 + ["HTTPException"] * 3
    workers.stop()


async def test_a_caller_who_leaves_does_not_garble_the_next_answer() -> None:
    workers = vllm_rendering.RenderWorkers(1)
    await workers.start()
    text = "word " * 100_000
    long = (
        f'{{"messages": [{{"role": "user", "content": [{{"type": "text", "text": "{text}"}}]}}]}}'
    )
    leaver = asyncio.create_task(workers.render(long))
    await asyncio.sleep(0.02)
    leaver.cancel()
    hello = '{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}'
    assert len(await workers.render(hello)) < 20
    workers.stop()
