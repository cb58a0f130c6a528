"""What OpenAI's own client gets from a cluster of real vLLM engines."""

import json
import socket
import time
from typing import Any

import httpx
import openai
import pytest
from jsonschema import validate

from deployments.compat.vllm import ranks_of
from tests.e2e.real_engines.conftest import MODEL, TP2_MODEL
from tests.e2e.running import Cluster, look

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1500)]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture
def client(vllm_cluster: Cluster) -> openai.OpenAI:
    url = f"{vllm_cluster.url}/v1"
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_models_are_listed_with_their_aliases_and_tiers(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {MODEL, f"{MODEL}-high", "gpt-oss", "gpt-oss-low", TP2_MODEL} <= names
    assert client.models.retrieve("gpt-oss-low").id == "gpt-oss-low"


def test_reasoning_grows_with_the_effort_unary_and_streamed(client: openai.OpenAI) -> None:
    unary, streamed = [], []
    for effort in ("low", "medium", "high"):
        answer = client.chat.completions.create(
            model=MODEL, messages=say("Why is the sea salt?"), reasoning_effort=effort, seed=0
        )
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage
        assert answer.usage.completion_tokens_details
        unary.append(answer.usage.completion_tokens_details.reasoning_tokens or 0)
        thought, text, usage = collect(client, "Why is the sea salt?", effort)
        assert thought
        assert text == answer.choices[0].message.content
        assert usage.prompt_tokens == answer.usage.prompt_tokens
        streamed.append(usage.completion_tokens_details.reasoning_tokens)
    assert unary == streamed
    assert unary[0] * 2 < unary[1]
    assert unary[1] * 2 < unary[2]


def collect(client: openai.OpenAI, text: str, effort: Any) -> tuple[str, str, Any]:
    """Analysis, answer and usage of a streamed chat."""
    thought = answer = ""
    usage = None
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=say(text),
        reasoning_effort=effort,
        seed=0,  # as in the unary one: the tiny model's script hangs on it
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning", None) or ""
            answer += choice.delta.content or ""
    return thought, answer, usage


def test_the_tier_of_an_alias_is_rendered_and_told(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-oss-high", messages=say("Hello")
    )
    assert raw.headers["x-trireme-tier"] == "high"
    assert raw.headers["x-trireme-replica"]
    assert raw.headers["x-request-id"]
    answer = raw.parse()
    assert answer.model == MODEL
    assert answer.usage
    assert answer.usage.completion_tokens_details
    assert (answer.usage.completion_tokens_details.reasoning_tokens or 0) > 150


def test_a_tool_is_called_and_its_result_used(client: openai.OpenAI) -> None:
    messages = say("What is the weather in Reykjavik? Use the tool.")
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])  # type: ignore[list-item]
    assert first.choices[0].finish_reason == "tool_calls"
    assert first.choices[0].message.tool_calls
    call = first.choices[0].message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])  # type: ignore[index]
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "drizzle and seven degrees"},
    ]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])  # type: ignore[list-item]
    assert "drizzle" in (second.choices[0].message.content or "")


def test_a_json_schema_is_obeyed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=say("Describe a sailor."),
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON, "strict": True},
        },
    )
    validate(json.loads(answer.choices[0].message.content or ""), PERSON)


def test_responses_are_streamed_in_openais_order(client: openai.OpenAI) -> None:
    events = list(
        client.responses.create(
            model=MODEL, input="Hello there", reasoning={"effort": "low"}, stream=True
        )
    )
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    order = [
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.completed",
    ]
    places = [kinds.index(kind) for kind in order]
    assert places == sorted(places)
    opened = [i for i, kind in enumerate(kinds) if kind == "response.output_item.added"]
    closed = [i for i, kind in enumerate(kinds) if kind == "response.output_item.done"]
    assert len(opened) == len(closed) == 2
    assert opened[0] < closed[0] < opened[1] < closed[1]
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert events[-1].response.output_text == text  # type: ignore[union-attr]


def test_several_choices_come_each_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=say("Two of them"), n=2, seed=7, reasoning_effort="low"
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)


def test_generation_ends_at_a_stop_string(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> Any:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=say("Tell me of harbours"),
            reasoning_effort="low",
            seed=1,
            **more,
        )
        return answer.choices[0]

    text = ask().message.content
    word = text.split()[-2]
    cut = ask(stop=[word])
    assert cut.finish_reason == "stop"
    # vLLM's Harmony parser works on tokens, so the stop string itself is still in the answer
    # (a difference to OpenAI that README names).
    assert cut.message.content.removesuffix(word) == text[: text.index(word)]


def test_log_probabilities_come_with_every_token_of_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=say("Likely?"),
        reasoning_effort="low",
        logprobs=True,
        top_logprobs=3,
    )
    assert answer.choices[0].logprobs
    entries = answer.choices[0].logprobs.content
    assert entries
    assert all(len(entry.top_logprobs) >= 3 and entry.logprob <= 0 for entry in entries)


def test_completions_and_messages_answer_too(client: openai.OpenAI, vllm_cluster: Cluster) -> None:
    completion = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=12)
    assert completion.choices[0].text
    message = httpx.post(
        f"{vllm_cluster.url}/v1/messages",
        json={"model": MODEL, "max_tokens": 900, "messages": say("Hello")},
        timeout=300,
        trust_env=False,
    ).json()
    assert message["type"] == "message"
    assert message["stop_reason"] == "end_turn"
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    counted = httpx.post(
        f"{vllm_cluster.url}/tokenize",
        json={"model": MODEL, "prompt": "Once upon a time"},
        trust_env=False,
    ).json()
    assert counted["count"] == 4


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(vllm_cluster: Cluster, stream: bool) -> None:
    """The limits only tell an abort from running to the end, which takes three times as long."""
    urls = vllm_cluster.engines("main")

    def wait_until(busy: bool, limit_s: float) -> float:
        started = time.monotonic()
        while any(look(url)["pending"] > 0 for url in urls) != busy:
            assert time.monotonic() < started + limit_s
            time.sleep(0.05)
        return time.monotonic() - started

    body = json.dumps(
        {
            "model": MODEL,
            "messages": say("Go on for long"),
            "stream": stream,
            "ignore_eos": True,
            "max_tokens": 3900,
        }
    ).encode()
    port = int(vllm_cluster.url.rpartition(":")[2])
    # A bare socket: when it is closed, it is closed, which HTTP clients with pools do not promise.
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: trireme\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        wait_until(busy=True, limit_s=60)
        time.sleep(0.5)
    print(f"freed after {wait_until(busy=False, limit_s=10):.2f} s")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/chat/completions", b"{not json", 400, None),
        ("/v1/chat/completions", {"model": "gpt-5", "messages": say("x")}, 404, "model"),
        (
            "/v1/chat/completions",
            {"model": MODEL, "messages": say("x"), "reasoning_effort": "extreme"},
            400,
            "reasoning_effort",
        ),
        (
            "/v1/chat/completions",
            {"model": MODEL, "messages": say("x"), "max_tokens": -1},
            400,
            "max_tokens",
        ),
        ("/v1/chat/completions", {"model": MODEL, "messages": "x"}, 400, "messages"),
        ("/v1/chat/completions", {"model": MODEL, "messages": say("word " * 5000)}, 400, None),
        ("/v1/chat/completions", b"x" * 10_000_000, 413, None),
        ("/v1/sleep", {}, 404, None),
        ("/scale_elastic_ep", {}, 404, None),
    ],
)
def test_bad_input_gets_openais_error_object(
    vllm_cluster: Cluster, path: str, body: Any, status: int, param: str | None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(
        f"{vllm_cluster.url}{path}",
        content=content,
        headers={"content-type": "application/json"},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 500
    if param is not None:
        assert error["param"] == param


def test_two_models_are_served_side_by_side_each_by_its_own_pool(
    client: openai.OpenAI, vllm_cluster: Cluster
) -> None:
    pools = {each["replica"]: each for each in vllm_cluster.status()["replicas"]}
    for model, pool, size in ((MODEL, "main", 1), (TP2_MODEL, "pair", 2)):
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=say("Which replica?"), reasoning_effort="low"
        )
        replica = pools[raw.headers["x-trireme-replica"]]
        assert (replica["pool"], replica["tensor_parallel_size"]) == (pool, size)
        assert raw.parse().choices[0].message.content


def test_the_ranks_of_a_tp_group_are_found_by_their_titles(vllm_cluster: Cluster) -> None:
    """The host looks at each of them: a core hears of a dead rank ten seconds later."""
    (core,) = [
        process.pid
        for process in vllm_cluster.processes()
        if "EngineCore" in " ".join(process.cmdline())
        and any("Worker_TP" in " ".join(each.cmdline()) for each in process.children())
    ]
    assert len(ranks_of(core)) == 2
