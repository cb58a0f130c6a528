# mypy: ignore-errors
# ruff: noqa: PT017
"""pydantic-ai over chat completions and over Responses."""

import asyncio
import sys

import openai
from checks import BUSY_KEY, CALL, KEY, PERSON, RETRIES, SAY_PERSON, TOO_LONG, busy, run
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    name: str
    age: int


def models(key=KEY):
    url = sys.argv[1] + "/v1"
    client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=60, max_retries=RETRIES)
    provider = OpenAIProvider(openai_client=client)
    return (
        OpenAIChatModel("tiny", provider=provider),
        OpenAIResponsesModel("tiny", provider=provider),
    )


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


async def chat():
    for model in models():
        assert (await Agent(model).run("SAY fjord")).output == "fjord"


async def stream():
    for model in models():
        async with Agent(model).run_stream("SAY a b c") as result:
            assert await result.get_output() == "a b c"


async def tools():
    for model in models():
        assert "rain in Oslo" in (await Agent(model, tools=[get_weather]).run(CALL)).output


async def structured():
    for model in models():
        result = await Agent(model, output_type=NativeOutput(Person)).run(SAY_PERSON)
        assert result.output.model_dump() == PERSON


async def errors():
    for model in models():
        try:
            await Agent(model).run(TOO_LONG)
        except ModelHTTPError as error:
            assert error.status_code == 400
            assert "context_length_exceeded" in str(error)
        else:
            raise AssertionError("no error")


async def retries():
    for number, model in enumerate(models(BUSY_KEY)):
        asked = [Agent(model).run(text) for text in busy(f"pydantic-{number}")]
        assert all(result.output for result in await asyncio.gather(*asked))


run("pydantic-ai", {"chat": chat, "stream": stream, "tools": tools,
    "structured output": structured, "errors": errors, "retries": retries})  # fmt: skip
