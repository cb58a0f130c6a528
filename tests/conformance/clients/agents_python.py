# mypy: ignore-errors
# ruff: noqa: PT017
"""OpenAI Agents SDK (Python), over chat completions and over Responses."""

import asyncio
import sys

import openai
from agents import (
    Agent,
    AgentOutputSchema,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import BUSY_KEY, CALL, KEY, PERSON, RETRIES, SAY_PERSON, TOO_LONG, busy, run

set_tracing_disabled(True)


def models(key=KEY):
    url = sys.argv[1] + "/v1"
    client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=60, max_retries=RETRIES)
    return (OpenAIChatCompletionsModel("tiny", client), OpenAIResponsesModel("tiny", client))


@function_tool
def get_weather(city: str) -> str:
    return f"rain in {city}"


async def chat():
    for model in models():
        assert (await Runner.run(Agent("a", model=model), "SAY fjord")).final_output == "fjord"


async def stream():
    for model in models():
        result = Runner.run_streamed(Agent("a", model=model), "SAY a b c")
        kinds = [event.type async for event in result.stream_events()]
        assert "raw_response_event" in kinds
        assert result.final_output == "a b c"


async def tools():
    for model in models():
        result = await Runner.run(Agent("a", model=model, tools=[get_weather]), CALL)
        assert "rain in Oslo" in result.final_output


async def structured():
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    schema = AgentOutputSchema(Person, strict_json_schema=True)
    for model in models():
        result = await Runner.run(Agent("a", model=model, output_type=schema), SAY_PERSON)
        assert result.final_output.model_dump() == PERSON


async def errors():
    for model in models():
        try:
            await Runner.run(Agent("a", model=model), TOO_LONG)
        except openai.BadRequestError as error:
            assert error.code == "context_length_exceeded"
        else:
            raise AssertionError("no error")


async def retries():
    for number, model in enumerate(models(BUSY_KEY)):
        agent = Agent("a", model=model)
        asked = [Runner.run(agent, text) for text in busy(f"agents-{number}")]
        assert all(result.final_output for result in await asyncio.gather(*asked))


run("openai-agents", {"chat": chat, "stream": stream, "tools": tools,
    "structured output": structured, "errors": errors, "retries": retries})  # fmt: skip
