"""The quick way to write a chunk gives the bytes that vLLM's own way gives."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import HarmonyEncodingName, load_harmony_encoding
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion import serving
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionResponseStreamChoice,
    ChatCompletionStreamResponse,
)
from vllm.parser import harmony

from deployments.compat import vllm as compat
from deployments.compat import vllm_chunks, vllm_harmony, vllm_streams
from tests.deployments.gateway.contract.door_world import (
    CHAT,
    HELLO,
    ROUTES,
    Script,
    ScriptedCore,
    World,
)
from tests.deployments.gateway.contract.test_openai_shape import cut_after, with_logprobs

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENCODING = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


def say(text: str, at_once: int = 1) -> Script:
    """The model writes ``text`` in Harmony, so many tokens in a step."""
    tokens = ENCODING.encode(text, allowed_special="all")

    async def script(core: ScriptedCore, request: Any, context: Any) -> None:
        context.settled = True
        for start in range(0, len(tokens), at_once):
            step = tokens[start : start + at_once]
            finish = compat.FinishReason.STOP if start + at_once >= len(tokens) else None
            output = compat.EngineCoreOutput(request.request_id, step, finish_reason=finish)
            await core.steps.put(compat.EngineCoreOutputs(outputs=[output]))

    return script


THOUGHT = '<|channel|>analysis<|message|>I "think" \\ über 漢字 🙂\n\t<|end|><|start|>assistant'
ANSWER = THOUGHT + "<|channel|>final<|message|>Ja: «é» \u2028 \x7f {}<|return|>"
CALL = THOUGHT + (
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": [1, "x"]}<|call|>'
)
PREAMBLE = THOUGHT + (
    "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
STREAMED: dict[str, Any] = {**CHAT, "stream": True}
USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}

CORPUS: list[tuple[dict[str, Any], Script]] = [
    ({}, say(ANSWER)),
    ({}, say(ANSWER, at_once=3)),
    ({}, say(ANSWER, at_once=100)),
    ({"stream_options": {"include_usage": True}}, say(ANSWER)),
    (USAGE, say(ANSWER)),
    ({"n": 3}, say(ANSWER)),
    ({"include_reasoning": False}, say(ANSWER)),
    ({"return_token_ids": True}, say(ANSWER)),
    ({"logprobs": True, "top_logprobs": 1}, with_logprobs),
    ({"tools": [TOOL]}, say(CALL)),
    ({"tools": [TOOL], "parallel_tool_calls": False}, say(CALL)),
    ({"tools": [TOOL]}, say(PREAMBLE, at_once=2)),
    ({"service_tier": "auto"}, say("no harmony at all")),
    ({}, say("<|channel|>final<|message|>a<|start|>b<|channel|>c<|message|>d<|end|>e")),
    *(({}, cut_after(tokens)) for tokens in range(1, len(HELLO))),
]


@pytest.fixture
def same_each_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No clock and no chance in an answer; afterwards the quick way is in place again."""
    monkeypatch.setattr(serving.time, "time", lambda: 1_800_000_000.0)
    yield
    vllm_chunks.write_chunks_fast()
    vllm_harmony.repair()
    vllm_streams.send_chunks_straight()


async def answer(
    world: World, fields: dict[str, Any], script: Script, monkeypatch: pytest.MonkeyPatch
) -> str:
    numbers = itertools.count()
    monkeypatch.setattr(harmony, "make_tool_call_id", lambda: f"call-{next(numbers)}")
    world.core.script = script
    body = {**STREAMED, **fields}
    return (await world.post("/v1/chat/completions", body, X_Request_Id="same")).text


@pytest.mark.usefixtures("same_each_time")
@pytest.mark.parametrize("case", range(len(CORPUS)))
async def test_streams_have_vllms_bytes(
    world: World, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, script = CORPUS[case]
    quick = await answer(world, fields, script, monkeypatch)
    vllm_chunks.write_chunks_as_vllm_does()
    vllm_streams.send_chunks_as_vllm_does()
    assert await answer(world, fields, script, monkeypatch) == quick
    assert quick.endswith("data: [DONE]\n\n")
    assert quick.count("data: ") >= 2


def both(delta: DeltaMessage, **choice: Any) -> tuple[str, str]:
    """A chunk as we write it and as vLLM does."""
    outer = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": 'm/ö"'}
    told = {"index": 0, "logprobs": None, "finish_reason": None, "token_ids": None, **choice}
    ours = vllm_chunks.StreamChunk(choices=[vllm_chunks.StreamChoice(delta=delta, **told)], **outer)
    theirs = ChatCompletionStreamResponse(
        choices=[ChatCompletionResponseStreamChoice(delta=delta, **told)], **outer
    )
    return ours.model_dump_json(exclude_unset=True), theirs.model_dump_json(exclude_unset=True)


@settings(max_examples=1000, deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.sampled_from([("content",), ("reasoning",), ("content", "reasoning"), ("role", "content")]),
    st.integers(0, 5),
)
async def test_any_text_is_written_as_vllm_writes_it(
    text: str, fields: tuple[str, ...], index: int
) -> None:
    ours, theirs = both(DeltaMessage(**dict.fromkeys(fields, text)), index=index)
    assert ours == theirs


async def test_an_unusual_chunk_is_vllms_own() -> None:
    for delta in (
        DeltaMessage(),
        DeltaMessage(content=None),
        DeltaMessage(content="x", extra=1),
    ):
        ours, theirs = both(delta)
        assert ours == theirs
    for more in ({"finish_reason": "stop"}, {"token_ids": [1]}, {"stop_reason": 5}):
        ours, theirs = both(DeltaMessage(content="x"), **more)
        assert ours == theirs
    with pytest.raises(ValueError):
        both(DeltaMessage(content="\ud800"))


SPECIAL = [200002, 200003, 200005, 200006, 200007, 200008, 200012, 199999]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*HELLO, *SPECIAL]) | st.integers(0, 199_000), max_size=40),
    st.integers(1, 5),
)
async def test_the_parser_finds_the_same_messages(tokens: list[int], at_once: int) -> None:
    def parsed() -> list[Any]:
        parser = harmony.HarmonyParser.__new__(harmony.HarmonyParser)
        parser._parser = None
        parser._num_processed_messages = parser._num_counted_tokens = 0
        parser._num_reasoning_tokens = 0
        parser._current_message_tokens = []
        found: list[Any] = []
        for start in range(0, len(tokens), at_once):
            result = parser.process_chunk(tokens[start : start + at_once])
            found.append((result.segments, result.reasoning_token_count))
            found.append(list(parser._current_message_tokens))
        return found

    quick = parsed()
    vllm_harmony.undo()
    try:
        assert parsed() == quick
    finally:
        vllm_harmony.repair()


async def test_other_routes_stream_as_before(world: World) -> None:
    for path in ROUTES:
        world.core.script = say(ANSWER)
        text = (await world.post(path, {**ROUTES[path], "stream": True})).text
        assert "«" in text or "\\u00ab" in text
