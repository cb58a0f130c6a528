"""What a request's structured output asks of a reply, read from vLLM's parameters.

vLLM gives the engine one of two shapes. Chat and Responses requests to gpt-oss arrive as an
xgrammar structural tag over the whole Harmony reply (vllm/parser/harmony.py): the tags say which
channels and function calls may come and what each must hold. Everything else (Completions, direct
engine use) is a bare schema, choice, pattern or grammar over the whole output, without any Harmony.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_FINAL_BEGIN = re.compile(r"<\|channel\|>final\b")
_CALL_BEGIN = re.compile(r"\bto=functions\.([^\s<]+)")
# vLLM rewrites a choice into this grammar before the engine sees it.
_CHOICE_GRAMMAR = re.compile(r'root ::= ("(?:[^"\\]|\\.)*"(?: \| "(?:[^"\\]|\\.)*")*)\s*')


@dataclass(frozen=True)
class Content:
    """What one stretch of text must be. `unknown` is a grammar that this package cannot write."""

    kind: Literal["any", "json", "choice", "pattern", "unknown"] = "any"
    schema: object = True
    choices: tuple[str, ...] = ()
    pattern: str = ""


@dataclass(frozen=True)
class Constraint:
    """What a reply must be: `bare`, or a Harmony reply with a `final` message or one of `calls`."""

    bare: Content | None = None
    final: Content | None = None
    calls: Mapping[str, Content] = field(default_factory=dict)


def read_constraint(
    *,
    json_schema: str | dict[str, Any] | None = None,
    json_object: bool | None = None,
    regex: str | None = None,
    choice: Sequence[str] | None = None,
    grammar: str | None = None,
    structural_tag: str | None = None,
) -> Constraint | None:
    """The constraint that one of vLLM's structured-output parameters states; None if none does."""
    if json_object:
        return Constraint(bare=Content("json", schema={"type": "object"}))
    if json_schema is not None:
        schema = json.loads(json_schema) if isinstance(json_schema, str) else json_schema
        return Constraint(bare=Content("json", schema=schema))
    if regex is not None:
        return Constraint(bare=Content("pattern", pattern=regex))
    if choice:
        return Constraint(bare=Content("choice", choices=tuple(choice)))
    if grammar is not None:
        return Constraint(bare=_from_grammar(grammar))
    if structural_tag is not None:
        return _from_structural_tag(json.loads(structural_tag))
    return None


def _from_grammar(grammar: str) -> Content:
    match = _CHOICE_GRAMMAR.fullmatch(grammar)
    if match is None:
        return Content("unknown")
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', match.group(1))
    return Content("choice", choices=tuple(json.loads(f'"{word}"') for word in words))


def _from_structural_tag(tag: dict[str, Any]) -> Constraint | None:
    """The Harmony constraint in a structural tag; None for a tag of the client's own making."""
    final: Content | None = None
    calls: dict[str, Content] = {}
    for part in _tags(tag.get("format", {})):
        begin = part.get("begin", "")
        call = _CALL_BEGIN.search(begin) if isinstance(begin, str) else None
        if call is not None:
            calls.setdefault(call.group(1), _from_format(part.get("content", {})))
        elif isinstance(begin, str) and _FINAL_BEGIN.search(begin):
            final = final or _from_format(part.get("content", {}))
    return Constraint(final=final, calls=calls) if final or calls else None


def _tags(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All tags that a reply may hold, whatever sequences, choices and options they stand in."""
    if part.get("type") == "tag":
        yield part
    for inner in (part.get("elements") or []) + (part.get("tags") or []):
        yield from _tags(inner)
    if part.get("type") in ("optional", "plus", "star", "repeat"):
        yield from _tags(part.get("content", {}))


def _from_format(part: dict[str, Any]) -> Content:
    kind = part.get("type")
    if kind == "any_text":
        return Content("any")
    if kind == "json_schema":
        return Content("json", schema=part.get("json_schema", True))
    if kind == "regex":
        return Content("pattern", pattern=part.get("pattern", ""))
    if kind == "const_string":
        return Content("choice", choices=(part.get("value", ""),))
    if kind == "or":
        ways = [_from_format(way) for way in part.get("elements", [])]
        if ways and all(way.kind == "choice" for way in ways):
            return Content("choice", choices=tuple(text for way in ways for text in way.choices))
        return ways[0] if ways else Content("unknown")
    if kind == "grammar":
        return _from_grammar(part.get("grammar", ""))
    return Content("unknown")
