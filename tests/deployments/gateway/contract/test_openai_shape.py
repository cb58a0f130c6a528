"""Answers have OpenAI's shape: its schemas, its words, and nothing of vLLM's engine room."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from vllm.v1.outputs import LogprobsLists

from deployments.compat import vllm as compat
from deployments.gateway.context import RequestContext
from deployments.gateway.contract.chat_shape import ChatShape
from deployments.gateway.contract.fields import STRIPPED
from tests.conformance.openai_schema import faults
from tests.deployments.gateway.contract.door_world import (
    CHAT,
    HELLO,
    MESSAGES,
    RESPONSES,
    ROUTES,
    Script,
    ScriptedCore,
    World,
)
from tests.deployments.gateway.contract.test_door import error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT_PATH, RESPONSES_PATH = "/v1/chat/completions", "/v1/responses"
ALL_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def events(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def cut_after(tokens: int) -> Script:
    """The model meets the cap after so many tokens."""

    async def script(core: ScriptedCore, request: Any, context: RequestContext) -> None:
        context.settled = True
        for token in HELLO[: tokens - 1]:
            await core.say(request, token)
        last = compat.EngineCoreOutput(
            request.request_id, [HELLO[tokens - 1]], finish_reason=compat.FinishReason.LENGTH
        )
        await core.steps.put(compat.EngineCoreOutputs(outputs=[last]))

    return script


async def with_logprobs(core: ScriptedCore, request: Any, context: RequestContext) -> None:
    context.settled = True
    for token in HELLO:
        finish = compat.FinishReason.STOP if token == HELLO[-1] else None
        probable = LogprobsLists(np.array([[token, 976]]), np.array([[-0.1, -2.0]]), np.array([1]))
        output = compat.EngineCoreOutput(
            request.request_id, [token], new_logprobs=probable, finish_reason=finish
        )
        await core.steps.put(compat.EngineCoreOutputs(outputs=[output]))


# ------------------------------------------------------------------ OpenAI's schemas


@pytest.mark.parametrize(
    ("fields", "script"),
    [
        ({}, None),
        ({"n": 3}, None),
        ({"logprobs": True, "top_logprobs": 1}, with_logprobs),
        ({"service_tier": "flex"}, None),
        ({"reasoning_effort": "xhigh", "stop": ["x"], "seed": 1}, None),
    ],
)
async def test_chats_and_their_chunks_are_openais(
    world: World, fields: dict[str, Any], script: Script | None
) -> None:
    world.core.script = script or world.core.script
    whole = (await world.post(CHAT_PATH, {**CHAT, **fields})).json()
    assert faults("CreateChatCompletionResponse", whole) == []
    assert [choice["index"] for choice in whole["choices"]] == list(range(fields.get("n", 1)))
    streamed = {**CHAT, **fields, "stream": True, "stream_options": {"include_usage": True}}
    chunks = events((await world.post(CHAT_PATH, streamed)).text)
    assert [fault for each in chunks for fault in faults(CHUNK, each)] == []
    assert [each["usage"] for each in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(HELLO) * fields.get("n", 1)


CHUNK = "CreateChatCompletionStreamResponse"


async def test_responses_and_their_events_are_openais(world: World) -> None:
    whole = (await world.post(RESPONSES_PATH, RESPONSES)).json()
    assert faults("Response", whole) == []
    assert (whole["error"], whole["store"]) == (None, False)
    assert whole["created_at"] <= whole["completed_at"] < whole["created_at"] + 60
    happened = events((await world.post(RESPONSES_PATH, {**RESPONSES, "stream": True})).text)
    assert [fault for each in happened for fault in faults("ResponseStreamEvent", each)] == []
    carried = [each["response"] for each in happened if "response" in each]
    assert [each["status"] for each in carried] == ["in_progress", "in_progress", "completed"]
    assert [each["completed_at"] is None for each in carried] == [True, True, False]
    assert "_per_turn" not in json.dumps([*happened, whole])


async def test_nothing_of_the_engines_is_in_an_answer_that_did_not_ask(world: World) -> None:
    chat = (await world.post(CHAT_PATH, CHAT)).json()
    response = (await world.post(RESPONSES_PATH, RESPONSES)).json()
    for field in ("kv_transfer_params", "ec_transfer_params", "prompt_token_ids", "metrics"):
        assert field not in chat
        assert field not in response
    asked = (await world.post(CHAT_PATH, {**CHAT, "return_token_ids": True})).json()
    assert asked["choices"][0]["token_ids"] == HELLO


async def test_logprobs_say_that_there_was_no_refusal(world: World) -> None:
    world.core.script = with_logprobs
    asked = {**CHAT, "logprobs": True, "top_logprobs": 1}
    whole = (await world.post(CHAT_PATH, asked)).json()
    assert whole["choices"][0]["logprobs"]["refusal"] is None
    assert whole["choices"][0]["logprobs"]["content"]
    chunks = events((await world.post(CHAT_PATH, {**asked, "stream": True})).text)
    told = [each["choices"][0]["logprobs"] for each in chunks if each["choices"][0]["logprobs"]]
    assert told
    assert all(each["refusal"] is None for each in told)


async def test_text_that_looks_like_a_field_is_left_alone() -> None:
    text = ',"kv_transfer_params":null "service_tier":null "logprobs":{"content": "usage":}\n\n'
    body = json.dumps({"text": text, "service_tier": None}, separators=(",", ":")).encode()
    shape = ChatShape(usage_in_stream=True, logprobs=True, service_tier="default")
    assert json.loads(shape.whole(body)) == {"text": text, "service_tier": "default"}
    shaped = shape.chunk(b"data: " + json.dumps({"text": text}).encode() + b"\n\n")
    chunk = json.loads(shaped.removeprefix(b"data: "))
    assert chunk == {"text": text, "service_tier": "default", "usage": None}
    assert shape.chunk(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"


# ------------------------------------------------------------------ the cap


@pytest.mark.parametrize("tokens", range(1, len(HELLO)))
async def test_a_cap_anywhere_leaves_no_marker_in_an_answer(world: World, tokens: int) -> None:
    world.core.script = cut_after(tokens)
    for path in (CHAT_PATH, RESPONSES_PATH, "/v1/messages"):
        for stream in (False, True):
            answer = await world.post(path, {**ROUTES[path], "stream": stream})
            assert answer.status_code == 200, answer.text
            assert "<|" not in answer.text
            assert "assistant<" not in answer.text
            if path == CHAT_PATH and not stream:
                [choice] = answer.json()["choices"]
                assert choice["finish_reason"] == "length"
                assert choice["message"]["content"] in (None, "", "Hello", "Hello there")


@pytest.mark.parametrize("tokens", [2, 5, 7, 10, 12])
async def test_a_response_that_met_the_cap_is_incomplete(world: World, tokens: int) -> None:
    world.core.script = cut_after(tokens)
    whole = (await world.post(RESPONSES_PATH, RESPONSES)).json()
    raw = (await world.post(RESPONSES_PATH, {**RESPONSES, "stream": True})).text
    last = events(raw)[-1]
    assert last["type"] == "response.incomplete"
    assert "event: response.incomplete\n" in raw
    assert "response.completed" not in raw
    for response in (whole, last["response"]):
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["completed_at"] is None
        assert faults("Response", response) == []


# ------------------------------------------------------------------ what was asked for


@pytest.mark.parametrize("effort", ALL_EFFORTS)
async def test_a_response_repeats_the_effort_as_it_was_asked_for(world: World, effort: str) -> None:
    body = {**RESPONSES, "reasoning": {"effort": effort}}
    assert (await world.post(RESPONSES_PATH, body)).json()["reasoning"]["effort"] == effort
    happened = events((await world.post(RESPONSES_PATH, {**body, "stream": True})).text)
    carried = [each["response"] for each in happened if "response" in each]
    assert [each["reasoning"]["effort"] for each in carried] == [effort] * 3


async def test_a_response_names_the_effort_of_an_alias_and_the_default(world: World) -> None:
    answer = await world.post(RESPONSES_PATH, {**RESPONSES, "model": "tiny-high"})
    assert answer.json()["reasoning"]["effort"] == "high"
    answer = await world.post(RESPONSES_PATH, RESPONSES)
    assert answer.json()["reasoning"]["effort"] == "medium"


@pytest.mark.parametrize("asked", ["auto", "default", "flex", "scale", "priority", "fast"])
async def test_the_service_tier_that_is_used_is_told(world: World, asked: str) -> None:
    used = "flex" if asked == "flex" else "default"
    chat = {**CHAT, "service_tier": asked}
    assert (await world.post(CHAT_PATH, chat)).json()["service_tier"] == used
    chunks = events((await world.post(CHAT_PATH, {**chat, "stream": True})).text)
    assert {each["service_tier"] for each in chunks} == {used}
    response = {**RESPONSES, "service_tier": asked}
    assert (await world.post(RESPONSES_PATH, response)).json()["service_tier"] == used
    context = world.core.contexts[-1]
    flex = used == "flex"
    assert (context.ahead, context.behind, context.spare) == (False, flex, flex)


@pytest.mark.parametrize("asked", ["gold", "x" * 500, 5, ["flex"]])
@pytest.mark.parametrize("path", [CHAT_PATH, RESPONSES_PATH])
async def test_a_service_tier_that_is_none_is_refused(world: World, path: str, asked: Any) -> None:
    error = error_of(await world.post(path, {**ROUTES[path], "service_tier": asked}), 400)
    assert error["param"] == "service_tier"
    assert len(error["message"]) < 300
    assert not world.core.requests


async def test_anthropics_service_tier_is_another_field(world: World) -> None:
    answer = await world.post("/v1/messages", {**MESSAGES, "service_tier": "standard_only"})
    assert answer.status_code == 200, answer.text


# ------------------------------------------------------------------ vLLM's extras


async def test_what_steers_the_engines_is_stripped_and_told(world: World) -> None:
    extras = {name: {"prompt_token_ids": [1, 2]} for name in STRIPPED}
    for path, body in ROUTES.items():
        world.core.requests.clear()
        plain = await world.post(path, body)
        steered = await world.post(path, {**body, **extras})
        assert steered.status_code == 200, steered.text
        assert steered.headers["x-trireme-ignored"] == ",".join(sorted(STRIPPED))
        assert "x-trireme-ignored" not in plain.headers
        first, second = world.core.requests
        assert first.prompt_token_ids == second.prompt_token_ids
        assert (second.priority, second.cache_salt, second.data_parallel_rank) == (0, None, None)
        assert second.sampling_params is not None
        assert second.sampling_params.extra_args == first.sampling_params.extra_args


# ------------------------------------------------------------------ headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(ROUTES))
async def test_every_answer_is_named_and_timed(world: World, path: str, stream: bool) -> None:
    answer = await world.post(path, {**ROUTES[path], "stream": stream}, X_Request_Id="trace-7")
    assert answer.headers["x-request-id"] == "trace-7"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert (answer.headers.get("x-accel-buffering") == "no") == stream
    assert (answer.headers.get("cache-control") == "no-cache") == stream
    odd = await world.post(path, {**ROUTES[path], "model": "no"}, X_Request_Id="y" * 200)
    assert odd.status_code == 404
    assert odd.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/v1/models?" + "q" * 9000, {}, 414),
        ("/v1/models", {"x-big": "y" * 40_000}, 431),
        ("/v1/models", {f"x-{n}": "y" for n in range(120)}, 431),
        ("/v1/models?" + "q" * 7000, {"x-big": "y" * 20_000}, 200),
    ],
)
async def test_urls_and_headers_are_bounded(
    world: World, target: str, headers: dict[str, str], status: int
) -> None:
    answer = await world.http.get(target, headers=headers)
    assert answer.status_code == status
    if status != 200:
        error_of(answer, status)


async def test_a_body_that_does_not_come_is_a_timeout(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.door, "_limits", replace(world.door._limits, body_s=0.1))
    sent: list[Any] = []
    first = [{"type": "http.request", "body": b'{"model"', "more_body": True}]

    async def receive() -> Any:
        if first:
            return first.pop()
        await asyncio.sleep(30)
        raise AssertionError("waited for a body that never ends")

    async def send(message: Any) -> None:
        sent.append(message)

    json_type = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT_PATH, "headers": json_type}
    await world.door(scope, receive, send)
    assert sent[0]["status"] == 408
    assert dict(sent[0]["headers"])[b"connection"] == b"close"
    assert json.loads(sent[1]["body"])["error"]["code"] == "request_timeout"
    assert [status for _, status in world.done] == [408]
