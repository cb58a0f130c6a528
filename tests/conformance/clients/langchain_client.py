# mypy: ignore-errors
# ruff: noqa: PT017
"""LangChain's ChatOpenAI."""

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
    at_once,
    busy,
    run,
)
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

common = {"model": "tiny", "base_url": sys.argv[1] + "/v1", "timeout": 60}
model = ChatOpenAI(api_key=KEY, **common)


class Person(BaseModel):
    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def chat():
    assert model.invoke("SAY fjord").content == "fjord"


def stream():
    assert "".join(chunk.content for chunk in model.stream("SAY a b c")) == "a b c"


def tools():
    armed = model.bind_tools([get_weather])
    asked = armed.invoke(CALL)
    [call] = asked.tool_calls
    assert call["args"] == {"city": "Oslo"}
    told = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert "rain in Oslo" in armed.invoke([HumanMessage(CALL), asked, told]).content


def structured():
    found = model.with_structured_output(Person, method="json_schema").invoke(SAY_PERSON)
    assert found.model_dump() == PERSON


def errors():
    try:
        model.invoke(TOO_LONG)
    except openai.BadRequestError as error:
        # LangChain's own class for it, where this version has one.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        assert "context_length_exceeded" in str(error), error
        assert kinds & {"ContextOverflowError", "OpenAIContextOverflowError"} or len(kinds) < 9
    else:
        raise AssertionError("no error")


def retries():
    patient = ChatOpenAI(api_key=BUSY_KEY, max_retries=RETRIES, **common)
    assert all(answer.content for answer in at_once(patient.invoke, busy("langchain")))


run("langchain-openai", {"chat": chat, "stream": stream, "tools": tools,
    "structured output": structured, "errors": errors, "retries": retries})  # fmt: skip
