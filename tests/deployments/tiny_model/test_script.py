"""What the tiny model says, without an engine."""

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import Message, Role, ToolDescription

from deployments.tiny_model.constraint import Constraint, Content
from deployments.tiny_model.script import ANALYSIS_TOKENS, write_script
from tests.deployments.tiny_model import schemas
from tests.deployments.tiny_model.prompts import ENCODING, WEATHER, Spoken, called, chat, parse

RETURN, CALL = 200002, 200012
_users = st.text(min_size=1, max_size=80)
_seeds = st.integers(0, 2**63)


def _analysis_tokens(reply: tuple[int, ...]) -> int:
    return reply.index(200007) - 3


def _final(reply: tuple[int, ...]) -> Spoken:
    analysis, final = parse(reply)
    assert (analysis.channel, final.channel) == ("analysis", "final")
    assert reply[-1] == RETURN
    return final


@given(user=_users, seed=_seeds, effort=st.sampled_from(("low", "medium", "high")))
@settings(deadline=None)
def test_a_reply_is_harmony_with_an_analysis_as_long_as_the_effort_says(
    user: str, seed: int, effort: str
) -> None:
    reply = write_script(chat(user, effort), seed).tokens
    assert _final(reply).text
    usual = ANALYSIS_TOKENS[effort]  # type: ignore[index]
    assert usual * 0.7 - 6 <= _analysis_tokens(reply) <= usual * 1.3 + 1


def test_the_effort_is_found_wherever_it_stands() -> None:
    instructions = "Reasoning: high\nis what I like to say."
    for effort, usual in ANALYSIS_TOKENS.items():
        prompt = chat("Reasoning: high", effort, instructions=instructions)
        assert abs(_analysis_tokens(write_script(prompt).tokens) - usual) <= usual * 0.3 + 6


def test_replies_repeat_the_users_last_words() -> None:
    final = _final(write_script(chat("Tell me a story about the harbour of Piraeus")).tokens)
    assert "the harbour of Piraeus" in final.text


@given(user=_users, seed=_seeds)
@settings(deadline=None, max_examples=30)
def test_a_reply_depends_on_prompt_and_seed_only(user: str, seed: int) -> None:
    prompt = chat(user)
    assert write_script(prompt, seed) == write_script(list(prompt), seed)


def test_seeds_and_prompts_vary_the_reply() -> None:
    prompts = [chat(f"Question number {number}", "medium") for number in range(20)]
    assert len({write_script(prompts[0], seed).tokens for seed in range(20)}) == 20
    assert len({_analysis_tokens(write_script(prompt).tokens) for prompt in prompts}) > 10


@pytest.mark.parametrize(
    "user",
    [
        "What is the weather like in Paris in 3 days?",
        "Please call something",
        "use the tool please",
        "I want get_weather for “Athens”",
    ],
)
def test_a_tool_that_is_asked_for_is_called(user: str) -> None:
    reply = write_script(chat(user, tools=[WEATHER])).tokens
    analysis, call = parse(reply)
    assert analysis.channel == "analysis"
    assert (call.channel, call.recipient) == ("commentary", "functions.get_weather")
    assert call.content_type == "<|constrain|>json"
    assert reply[-1] == CALL
    jsonschema.validate(json.loads(call.text), WEATHER.parameters)


def test_arguments_come_from_the_users_words() -> None:
    _, call = parse(write_script(chat("Weather in Paris for 3 days?", tools=[WEATHER])).tokens)
    arguments = json.loads(call.text)
    assert (arguments["city"], arguments["days"]) == ("Paris", 3)


def test_the_tool_that_is_meant_is_called() -> None:
    tools = [
        ToolDescription.new("search_web", "Looks pages up", {"type": "object", "properties": {}}),
        ToolDescription.new("sendEmail", "", None),
        WEATHER,
    ]
    for user, name in (
        ("Send an email to Themistocles", "sendEmail"),
        ("Look up some pages about triremes", "search_web"),
        ("How is the weather?", "get_weather"),
    ):
        _, call = parse(write_script(chat(user, tools=tools)).tokens)
        assert call.recipient == f"functions.{name}"


def test_a_tool_that_is_not_asked_for_is_not_called() -> None:
    final = _final(write_script(chat("Good morning, my friend!", tools=[WEATHER])).tokens)
    assert "Good morning" in final.text


def test_a_tool_result_is_repeated_and_the_tool_not_called_again() -> None:
    more = called("get_weather", '{"city": "Paris", "days": 3}', "21 degrees and sunny")
    final = _final(write_script(chat("Weather in Paris?", tools=[WEATHER], more=more)).tokens)
    assert "21 degrees and sunny" in final.text


def test_what_is_ordered_is_said_word_for_word() -> None:
    assert _final(write_script(chat("SAY Row on, “all” of you")).tokens).text == (
        "Row on, “all” of you"
    )
    order = 'CALL get_weather {"city": "Oslo", "days": 3}'
    _, call = parse(write_script(chat(order, tools=[WEATHER])).tokens)
    assert json.loads(call.text) == {"city": "Oslo", "days": 3}
    more = called("get_weather", call.text, "rain in Oslo")
    assert (
        "rain in Oslo" in _final(write_script(chat(order, tools=[WEATHER], more=more)).tokens).text
    )


def test_an_order_against_the_schema_is_not_followed() -> None:
    schema = {"properties": {"age": {"type": "integer"}}, "required": ["age"]}
    constraint = Constraint(final=Content("json", schema=schema))
    for ordered, said in (('{"age": 36}', True), ('{"age": "36"}', False), ("36", False)):
        final = _final(write_script(chat(f"SAY {ordered}"), 0, constraint).tokens)
        assert (json.loads(final.text) == json.loads(ordered)) is said
        jsonschema.validate(json.loads(final.text), schema)
    order = 'CALL get_weather {"town": "Oslo"}'
    _, call = parse(write_script(chat(order, tools=[WEATHER])).tokens)
    jsonschema.validate(json.loads(call.text), WEATHER.parameters)


# The rendering in a prompt has no bounds and no difference of integer and number, so tools at
# random keep to what it shows; what it hides is tested where a grammar brings the whole schema.
def _described(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from(
        [
            schema,
            {**schema, "description": "A word."},
            {**schema, "description": "Two\nlines: string, with a type"},
        ]
    )


_colours = st.lists(
    st.sampled_from(["red", "blue|green", 'a "b"', "x, y"]), min_size=1, unique=True
)
_shown: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "string", "default": 'a, "b" // c'},
    {"type": "integer", "minimum": 9, "default": 12},
    {"type": ["string", "null"]},
    {"type": "array"},
    {"oneOf": [{"type": "string", "description": "Or this."}, {"type": "boolean"}]},
    {"type": "object"},
    {},
]
_leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from(_shown), _colours.map(lambda texts: {"type": "string", "enum": texts})
)
_arguments = st.recursive(
    _leaves.flatmap(_described),
    lambda inner: st.one_of(
        schemas.objects(inner), inner.map(lambda schema: {"type": "array", "items": schema})
    ),
    max_leaves=8,
)


@given(parameters=schemas.objects(_arguments), seed=st.integers(0, 9))
@settings(deadline=None)
def test_arguments_obey_the_schema_that_the_prompt_shows(
    parameters: dict[str, Any], seed: int
) -> None:
    tool = ToolDescription.new("steer", "Turns the ship.\nHard: string", parameters)
    other = ToolDescription.new("anchor", "", {"type": "object", "properties": {}})
    prompt = chat("Call steer with 30 degrees to “port side”", tools=[other, tool, other])
    _, call = parse(write_script(prompt, seed).tokens)
    assert call.recipient == "functions.steer"
    jsonschema.validate(json.loads(call.text), parameters)


@given(schema=schemas.roots, seed=st.integers(0, 9))
@settings(deadline=None)
def test_a_constrained_final_message_obeys_its_schema(schema: dict[str, Any], seed: int) -> None:
    constraint = Constraint(final=Content("json", schema=schema))
    prompt = chat("Weather in Paris, as JSON", tools=[WEATHER])
    final = _final(write_script(prompt, seed, constraint).tokens)
    assert final.content_type == "<|constrain|>json"
    jsonschema.validate(json.loads(final.text), schema)


def test_a_call_that_the_grammar_demands_is_made_with_its_schema() -> None:
    schema = {"properties": {"days": {"type": "integer", "minimum": 8}}, "required": ["days"]}
    constraint = Constraint(calls={"get_weather": Content("json", schema=schema)})
    more = called("get_weather", "{}", "sunny")
    for prompt in (chat("Hello!", tools=[WEATHER]), chat("Hi", tools=[WEATHER], more=more)):
        _, call = parse(write_script(prompt, 0, constraint).tokens)
        assert call.recipient == "functions.get_weather"
        jsonschema.validate(json.loads(call.text), schema)


def test_bare_content_comes_without_harmony() -> None:
    def spoken(content: Content) -> str:
        reply = write_script(chat("I like blue"), 0, Constraint(bare=content)).tokens
        assert reply[-1] == RETURN
        return str(ENCODING.decode(list(reply[:-1])))

    assert spoken(Content("choice", choices=("red", "blue", "green"))) == "blue"
    assert len(spoken(Content("pattern", pattern="[0-9]{4}"))) == 4
    assert isinstance(json.loads(spoken(Content("json", schema={"type": "object"}))), dict)


_PLAIN_PROMPT = ENCODING.encode("Once upon a time ⇒ there was a ship")
_JSON = Constraint(final=Content("json", schema={"properties": {"a": {"type": "string"}}}))


@pytest.mark.parametrize(
    ("prompt", "constraint"),
    [
        (chat("Tell me of the sea", "low"), None),
        (chat("Tell me of the sea", "high"), None),
        (chat("Weather in Paris?", "low", tools=[WEATHER]), None),
        (chat("W?", tools=[WEATHER], more=called("get_weather", "{}", "sunny")), None),
        (chat("Tell me of the sea", "low"), _JSON),
        (_PLAIN_PROMPT, None),
    ],
    ids=["low", "high", "tool", "after-tool", "json", "plain"],
)
def test_a_reply_cut_anywhere_goes_on_exactly_there(
    prompt: list[int], constraint: Constraint | None
) -> None:
    whole = write_script(prompt, 5, constraint)
    assert whole.spoken_tokens == 0
    for cut in range(len(whole.tokens)):
        resumed = write_script([*prompt, *whole.tokens[:cut]], 5, constraint)
        assert resumed.tokens == whole.tokens
        assert resumed.spoken_tokens == cut


def test_a_lengthened_call_goes_on_exactly_as_well() -> None:
    prompt = chat("Weather in Paris?", tools=[WEATHER])
    whole = write_script(prompt, min_tokens=120)
    for cut in range(len(whole.tokens)):
        spoken = whole.tokens[:cut]
        resumed = write_script([*prompt, *spoken], min_tokens=max(0, 120 - cut))
        assert resumed.tokens == whole.tokens


@pytest.mark.parametrize("prompt", [chat("Tell me of the sea", "low"), _PLAIN_PROMPT])
def test_a_lengthened_reply_goes_on_exactly_as_well(prompt: list[int]) -> None:
    whole = write_script(prompt, min_tokens=120)
    endless = write_script(prompt, endless=True)
    for cut in range(0, 120, 7):
        spoken = whole.tokens[:cut]
        assert write_script([*prompt, *spoken], min_tokens=120 - cut).tokens == whole.tokens
        spoken = tuple(endless.token(place) for place in range(cut))
        assert write_script([*prompt, *spoken], endless=True) == type(endless)(endless.tokens, cut)


@given(user=_users, min_tokens=st.integers(0, 400), asks=st.booleans())
@settings(deadline=None)
def test_a_reply_ends_no_sooner_than_it_may(user: str, min_tokens: int, asks: bool) -> None:
    prompt = chat(f"call {user}" if asks else user, tools=[WEATHER] if asks else [])
    reply = write_script(prompt, min_tokens=min_tokens).tokens
    assert len(reply) > min_tokens
    assert len(reply) <= max(min_tokens + 10, 200)
    assert len(parse(reply)) == 2
    assert not {RETURN, CALL} & set(reply[:-1])


def test_an_endless_reply_never_ends() -> None:
    script = write_script(chat("Go on and on"), endless=True)
    spoken = [script.token(place) for place in range(5000)]
    assert not {RETURN, CALL, 199999} & set(spoken)
    assert parse(spoken)[1].channel == "final"


def test_a_plain_prompt_is_echoed_in_plain_words() -> None:
    reply = write_script(ENCODING.encode("The wine-dark sea")).tokens
    assert reply[-1] == RETURN
    assert all(token < 199998 for token in reply[:-1])
    assert "The wine-dark sea" in ENCODING.decode(list(reply[:-1]))


@pytest.mark.parametrize(
    "beginning",
    [
        "<|channel|>",
        "<|channel|>final",
        "<|channel|>final<|message|>Well,",
        "<|channel|>analysis<|message|>Something else entirely",
        "<|channel|>analysis<|message|>Something else entirely<|end|>",
        "<|channel|>analysis<|message|>Something else<|end|><|start|>",
        "<|channel|>analysis<|message|>Something else<|end|><|start|>assistant",
    ],
)
def test_another_models_beginning_is_brought_to_a_good_end(beginning: str) -> None:
    spoken = ENCODING.encode(beginning, allowed_special="all")
    script = write_script([*chat("Tell me of the sea", "medium"), *spoken])
    assert script.spoken_tokens == len(spoken)
    assert parse([*spoken, *script.tokens[len(spoken) :]])[-1].channel == "final"
    assert script.tokens[-1] == RETURN


def test_a_conversation_that_ends_with_an_assistants_words_gets_a_fresh_reply() -> None:
    more = [Message.from_role_and_content(Role.ASSISTANT, "Well met.").with_channel("final")]
    script = write_script(chat("Hello", more=more))
    assert script.spoken_tokens == 0
    _final(script.tokens)


def test_marks_of_harmony_in_the_users_words_do_no_harm() -> None:
    for user in (
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|> <|call|>",
        "|>",
    ):
        _final(write_script(chat(user)).tokens)


@given(prompt=st.lists(st.integers(0, 201087) | st.integers(199998, 200018), max_size=60))
@settings(deadline=None, max_examples=300)
def test_no_prompt_breaks_the_script(prompt: list[int]) -> None:
    script = write_script([*prompt, *chat("x", tools=[WEATHER])[-40:], *prompt])
    assert len(script.tokens) > script.spoken_tokens or not script.tokens
    write_script(prompt)


def test_a_long_prompt_costs_little() -> None:
    prompt = chat("漢" * 20_000 + " row " * 50_000, tools=[WEATHER])
    begun_s = time.process_time()
    write_script(prompt)
    assert time.process_time() - begun_s < 0.25
