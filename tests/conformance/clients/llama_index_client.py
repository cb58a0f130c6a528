# mypy: ignore-errors
# ruff: noqa: PT017
"""LlamaIndex's OpenAI-like model."""

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
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

common = {
    "model": "tiny",
    "api_base": sys.argv[1] + "/v1",
    "is_chat_model": True,
    "is_function_calling_model": True,
    "should_use_structured_outputs": True,
    "context_window": 131_072,
    "timeout": 60,
}
model = OpenAILike(api_key=KEY, **common)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def chat():
    assert model.chat([ChatMessage(role="user", content="SAY fjord")]).message.content == "fjord"


def stream():
    pieces = model.stream_chat([ChatMessage(role="user", content="SAY a b c")])
    assert [piece.message.content for piece in pieces][-1] == "a b c"


def tools():
    tool = FunctionTool.from_defaults(get_weather)
    result = model.predict_and_call([tool], CALL)
    assert "rain in Oslo" in str(result)


def structured():
    response = model.as_structured_llm(Person).chat([ChatMessage(role="user", content=SAY_PERSON)])
    assert response.raw.model_dump() == PERSON


def errors():
    try:
        model.chat([ChatMessage(role="user", content=TOO_LONG)])
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
    else:
        raise AssertionError("no error")


def retries():
    patient = OpenAILike(api_key=BUSY_KEY, max_retries=RETRIES, **common)

    def ask(text):
        return patient.chat([ChatMessage(role="user", content=text)]).message.content

    assert all(at_once(ask, busy("llama-index")))


run("llama-index", {"chat": chat, "stream": stream, "tools": tools,
    "structured output": structured, "errors": errors, "retries": retries})  # fmt: skip
