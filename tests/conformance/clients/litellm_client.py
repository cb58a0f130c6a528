# mypy: ignore-errors
"""LiteLLM as a client of an OpenAI-compatible endpoint."""

import json
import sys

import litellm
from checks import (
    BUSY_KEY,
    CALL,
    KEY,
    PERSON,
    RETRIES,
    SAY_PERSON,
    TOO_LONG,
    WEATHER,
    at_once,
    busy,
    run,
)

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}


def ask(text, **more):
    return litellm.completion(
        model=more.pop("model", "openai/tiny"),
        messages=[{"role": "user", "content": text}],
        api_base=sys.argv[1] + "/v1",
        api_key=more.pop("api_key", KEY),
        timeout=60,
        **more,
    )


def chat():
    message = ask("SAY fjord").choices[0].message
    assert message.content == "fjord"
    assert message.reasoning_content


def stream():
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask("SAY a b c", stream=True)]
    assert "".join(pieces) == "a b c"


def tools():
    [call] = ask(CALL, tools=[TOOL]).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


def structured():
    schema = {"name": "person", "schema": {"type": "object"}}
    answer = ask(SAY_PERSON, response_format={"type": "json_schema", "json_schema": schema})
    assert json.loads(answer.choices[0].message.content) == PERSON


def errors():
    for kind, text, more in (
        (litellm.ContextWindowExceededError, TOO_LONG, {}),
        (litellm.NotFoundError, "x", {"model": "openai/no"}),
        (litellm.BadRequestError, "x", {"temperature": 9}),
    ):
        try:
            ask(text, **more)
        except kind:
            continue
        raise AssertionError(f"no {kind.__name__}")


def retries():
    def patient(text):
        return ask(text, api_key=BUSY_KEY, num_retries=RETRIES).choices[0].message.content

    assert all(at_once(patient, busy("litellm")))


run("litellm", {"chat": chat, "stream": stream, "tools": tools,
    "structured output": structured, "errors": errors, "retries": retries})  # fmt: skip
