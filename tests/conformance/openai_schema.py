"""OpenAI's own schemas, to check answers against."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SPEC = Path(__file__).with_name("openai.json")
"""Of openai/openai-openapi f85dbe2 (2026-08-21, MIT): the paths that are served here."""


@cache
def spec() -> dict[str, Any]:
    return dict(json.loads(SPEC.read_text()))


@cache
def validator(schema: str) -> Draft202012Validator:
    """Of ``schema``, a name among the components."""
    whole = {"$ref": f"#/components/schemas/{schema}", "components": spec()["components"]}
    return Draft202012Validator(whole)


def faults(schema: str, value: Any) -> list[str]:
    """What is wrong with ``value``; empty if nothing."""
    found = validator(schema).iter_errors(value)
    return [f"{'.'.join(map(str, each.absolute_path))}: {each.message[:300]}" for each in found]
