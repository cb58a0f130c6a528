"""Values that obey JSON schemas, judged by `jsonschema`."""

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.tiny_model.json_values import Hints, Unsatisfiable, value_for
from tests.deployments.tiny_model import schemas


def _hints(seed: int = 0) -> Hints:
    return Hints(["the oars", "Piraeus", "漢字"], [42, 7], "row to Piraeus", random.Random(seed))


@given(schema=schemas.values, seed=st.integers(0, 9))
def test_a_value_obeys_its_schema(schema: dict[str, Any], seed: int) -> None:
    value = value_for(schema, _hints(seed))
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/ship", "$defs": {"ship": {"type": "object", "required": ["oars"]}}},
        {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": {"$ref": "#"}},
            "required": ["value"],
        },
        {
            "$defs": {
                "tree": {
                    "type": "object",
                    "properties": {
                        "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                        "right": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                    },
                    "required": ["left", "right"],
                    "additionalProperties": False,
                }
            },
            "$ref": "#/$defs/tree",
        },
        {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "integer", "minimum": 3}}}]},
        {"type": "array", "items": {"type": "string"}, "minItems": 5, "uniqueItems": True},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"const": "x"}], "items": False},
        {"type": "integer", "multipleOf": 7, "minimum": 20, "maximum": 30},
        {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6},
        {"type": "number", "minimum": 0.001, "maximum": 0.0011},
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
        {"type": "object", "patternProperties": {"^x-[a-z]+$": {"type": "boolean"}}},
        {"enum": [None, 1, "two", [3], {"four": 4}]},
        {"type": "string", "pattern": "^(ab|cd)+[^a-z]?\\w{2}$"},
        {"oneOf": [False, {"type": "string", "maxLength": 2}]},
        {},
        True,
    ],
)
def test_a_value_obeys_references_recursion_and_bounds(schema: Any) -> None:
    for seed in range(10):
        value = value_for(schema, _hints(seed))
        jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"$ref": "#"},
        {"$ref": "#/$defs/missing"},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "object", "properties": {"again": {"$ref": "#"}}, "required": ["again"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 2},
    ],
)
def test_what_cannot_be_obeyed_is_said_so(schema: Any) -> None:
    with pytest.raises(Unsatisfiable):
        value_for(schema, _hints())


def test_strings_and_numbers_come_from_the_hints() -> None:
    schema = {
        "properties": {"to": {"type": "string"}, "from": {"type": "string"}, "n": {"minimum": 1}}
    }
    assert value_for(schema, _hints()) == {"to": "the oars", "from": "Piraeus", "n": 42}


def test_an_enumerated_text_that_was_mentioned_is_chosen() -> None:
    for seed in range(20):
        assert value_for({"enum": ["athens", "piraeus", "corinth"]}, _hints(seed)) == "piraeus"
