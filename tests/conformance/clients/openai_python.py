# mypy: ignore-errors
# ruff: noqa: PT017
"""openai (Python), unchanged: chat and Responses."""

import json
import sys

import openai
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

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=KEY, timeout=60)
MODEL = "tiny"


def say(text):
    return [{"role": "user", "content": text}]


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=say("SAY fjord"))
    assert answer.choices[0].message.content == "fjord"
    assert client.responses.create(model=MODEL, input="SAY fjord").output_text == "fjord"


def stream():
    with client.chat.completions.stream(model=MODEL, messages=say("SAY a b c")) as events:
        assert events.get_final_completion().choices[0].message.content == "a b c"
    with client.responses.stream(model=MODEL, input="SAY a b c") as events:
        for _ in events:
            pass
        assert events.get_final_response().output_text == "a b c"


def tools():
    function = {"name": "get_weather", "parameters": WEATHER}
    tool = {"type": "function", "function": function}
    answer = client.chat.completions.create(model=MODEL, messages=say(CALL), tools=[tool])
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    back = [*say(CALL), answer.choices[0].message]
    back.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
    answer = client.chat.completions.create(model=MODEL, messages=back, tools=[tool])
    assert "rain" in answer.choices[0].message.content
    tool = {"type": "function", **function, "strict": True}
    response = client.responses.create(model=MODEL, input=CALL, tools=[tool])
    [call] = [item for item in response.output if item.type == "function_call"]
    items = [*say(CALL), call.model_dump(exclude_none=True)]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    assert "rain" in client.responses.create(model=MODEL, input=items, tools=[tool]).output_text


def structured():
    schema = {"name": "person", "schema": {"type": "object"}, "strict": False}
    form = {"type": "json_schema", "json_schema": schema}
    answer = client.chat.completions.create(
        model=MODEL, messages=say(SAY_PERSON), response_format=form
    )
    assert json.loads(answer.choices[0].message.content) == PERSON


def errors():
    for attempt, kind, code in (
        (lambda: client.chat.completions.create(model="no", messages=say("x")),
         openai.NotFoundError, "model_not_found"),
        (lambda: client.chat.completions.create(model=MODEL, messages=say(TOO_LONG)),
         openai.BadRequestError, "context_length_exceeded"),
        (lambda: client.responses.create(model=MODEL, input="x", previous_response_id="resp_1"),
         openai.BadRequestError, "previous_response_not_found"),
    ):  # fmt: skip
        try:
            attempt()
        except kind as error:
            assert error.code == code, error.code
            assert error.request_id
        else:
            raise AssertionError(f"no {kind.__name__}")


def retries():
    patient = client.with_options(api_key=BUSY_KEY, max_retries=RETRIES)

    def ask(text):
        answer = patient.chat.completions.create(model=MODEL, messages=say(text))
        return answer.choices[0].message.content

    assert all(at_once(ask, busy("openai-python")))

    def respond(text):
        return patient.responses.create(model=MODEL, input=text).output_text

    assert all(at_once(respond, busy("openai-python-responses")))


run("openai-python", {"chat": chat, "stream": stream, "tools": tools,
    "structured output": structured, "errors": errors, "retries": retries})  # fmt: skip
