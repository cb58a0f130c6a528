"""Scripts under the grammars that vLLM makes of chat requests, judged by xgrammar itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.tiny_model.constraint import Constraint, Content, read_constraint
from deployments.tiny_model.script import write_script
from tests.deployments.tiny_model import schemas
from tests.deployments.tiny_model.grammars import Grammars
from tests.deployments.tiny_model.prompts import WEATHER, called, chat

_BOUNDED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "days": {"type": "integer", "minimum": 5, "maximum": 6},
        "city": {"type": "string", "minLength": 20},
        "place": {"$ref": "#/$defs/place"},
    },
    "required": ["days", "city", "place"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"const": 3}}, "required": ["x"]}},
}


@pytest.fixture(scope="module")
def grammars(model_directory: Path) -> Grammars:
    return Grammars(model_directory)


def _tool(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    function = {"name": WEATHER.name, "description": WEATHER.description, "parameters": schema}
    return {"type": "function", "function": {**function, **more}}


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


@given(schema=schemas.roots, seed=st.integers(0, 9))
@settings(deadline=None, max_examples=25)
def test_json_is_legal_under_the_grammar_of_its_schema(
    grammars: Grammars, schema: dict[str, Any], seed: int
) -> None:
    params = grammars.structured_outputs(response_format=_json_schema(schema))
    final = grammars.reply(chat("Row to Piraeus in 3 days", "low"), params, seed)[-1]
    assert final.channel == "final"
    assert isinstance(json.loads(final.text), dict)


def test_a_json_object_is_given_when_one_is_asked_for(grammars: Grammars) -> None:
    params = grammars.structured_outputs(response_format={"type": "json_object"})
    final = grammars.reply(chat("Give me JSON", "medium"), params)[-1]
    assert isinstance(json.loads(final.text), dict)


def test_ordered_json_is_legal_under_the_grammar_of_its_schema(grammars: Grammars) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    for each in (schema, {"type": "object"}):
        params = grammars.structured_outputs(response_format=_json_schema(each))
        final = grammars.reply(chat('SAY {"name": "Ada", "age": 36}'), params)[-1]
        assert json.loads(final.text) == {"name": "Ada", "age": 36}


@pytest.mark.parametrize(
    ("tool_choice", "strict"),
    [
        ("required", False),
        ("required", True),
        ({"type": "function", "function": {"name": "get_weather"}}, True),
        ("auto", True),
    ],
)
def test_tool_calls_are_legal_under_the_grammar_of_the_tool_choice(
    grammars: Grammars, tool_choice: Any, strict: bool
) -> None:
    params = grammars.structured_outputs(
        tools=[_tool(_BOUNDED, strict=strict)], tool_choice=tool_choice
    )
    call = grammars.reply(chat("Weather in Paris, please", tools=[WEATHER]), params)[-1]
    assert call.recipient == "functions.get_weather"
    if strict:
        arguments = json.loads(call.text)
        assert arguments["days"] in (5, 6)
        assert len(arguments["city"]) >= 20
        assert arguments["place"] == {"x": 3}


def test_a_strict_tool_is_left_alone_when_it_is_not_asked_for(grammars: Grammars) -> None:
    params = grammars.structured_outputs(tools=[_tool(_BOUNDED, strict=True)])
    more = called("get_weather", "{}", "sunny all day")
    assert "sunny" in grammars.reply(chat("W?", tools=[WEATHER], more=more), params)[-1].text
    assert "Good day" in grammars.reply(chat("Good day!", tools=[WEATHER]), params)[-1].text


@pytest.mark.parametrize(
    ("structured_outputs", "text"),
    [({"choice": ["red", "blue", "green"]}, "blue"), ({"regex": "ab{3}c"}, "abbbc")],
)
def test_choices_and_patterns_are_legal_in_the_final_message(
    grammars: Grammars, structured_outputs: dict[str, Any], text: str
) -> None:
    params = grammars.structured_outputs(structured_outputs=structured_outputs)
    assert grammars.reply(chat("I like blue"), params)[-1].text == text


def test_bare_json_is_legal_without_harmony(grammars: Grammars) -> None:
    script = write_script(chat("Paris in 5 days"), 0, read_constraint(json_schema=_BOUNDED))
    grammars.accept(script, grammars.compiler.compile_json_schema(json.dumps(_BOUNDED)))


def test_vllms_own_parser_splits_replies_into_reasoning_content_and_calls(
    grammars: Grammars,
) -> None:
    told = grammars.read_as_vllm_does(write_script(chat("Tell me of the sea")).tokens)
    assert told[0] is not None
    assert told[0].startswith("The user asks about")
    assert told[1] is not None
    assert "Tell me of the sea" in told[1]
    assert told[2] is None

    constraint = Constraint(final=Content("json", schema=_BOUNDED))
    as_json = grammars.read_as_vllm_does(write_script(chat("JSON!"), 0, constraint).tokens)
    assert as_json[1] is not None
    assert json.loads(as_json[1])["place"] == {"x": 3}
    assert as_json[2] is None

    tokens = write_script(chat("Weather in Paris?", tools=[WEATHER])).tokens
    _, content, calls = grammars.read_as_vllm_does(tokens, tools=[_tool(_BOUNDED)])
    assert content is None
    assert calls is not None
    assert [call.name for call in calls] == ["get_weather"]
    assert json.loads(calls[0].arguments)["city"] == "Paris"


def test_a_choice_is_read_from_the_grammar_that_vllm_makes_of_it() -> None:
    from vllm.v1.structured_output.utils import choice_as_grammar

    choices = ('say "hi"', "back\\slash", "two\nlines", "漢字")
    constraint = read_constraint(grammar=choice_as_grammar(list(choices)))
    assert constraint == Constraint(bare=Content("choice", choices=choices))
    assert read_constraint(grammar='root ::= "a" [0-9]+') == Constraint(bare=Content("unknown"))


def test_a_tag_of_the_clients_own_making_constrains_nothing_here() -> None:
    tag = {"type": "structural_tag", "format": {"type": "any_text"}}
    assert read_constraint(structural_tag=json.dumps(tag)) is None
    assert read_constraint() is None
