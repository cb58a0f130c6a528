"""What may constrain an answer: JSON Schemas, regular expressions, choices.

An engine compiles a constraint against the whole vocabulary, and some that are short take minutes
of a core. The bounds come from what xgrammar 0.2.8 took with gpt-oss's vocabulary on 2 shared
cores: 500 properties 1.0 s (2,000: 23 s), ``.*a.{1000}`` 1.0 s, 300 times ``.a?`` 7 s,
``maxLength: 10000`` 3 s, 120,000 characters in an enum 1.7 s; a grammar of 2,000 rules 12 s.

Nothing is fetched: a reference must point into its own schema.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from cluster.errors import InvalidRequest, clipped

MAX_SCHEMA_DEPTH = 32
"""Levels of objects and lists; an object in an object takes two."""
MAX_PROPERTIES = 500
MAX_ENUM_VALUES = 1_000
MAX_ENUM_CHARS = 60_000
MAX_COUNT = 10_000
"""Of ``minLength``, ``maxItems`` and the like; also what those of text may be in sum."""
MAX_PATTERN_CHARS = 512
MAX_PATTERN_SIZE = 1_000
"""Characters that all patterns of one schema may match at most, an open end counted as one more."""
MAX_PATTERN_DEPTH = 32

_CONSTRAINTS = frozenset(
    {"json", "regex", "choice", "json_object", "disable_any_whitespace"}
    | {"disable_additional_properties", "whitespace_pattern"}
)
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_TEXT_COUNTS = frozenset({"minLength", "maxLength"})
_COUNTS = _TEXT_COUNTS | {"minItems", "maxItems", "minContains", "maxContains"}
_COUNTS |= {"minProperties", "maxProperties"}
_FORMATS = frozenset({"text", "json_object", "json_schema"})

_ATOM = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\((?:\?[:=!<][=!]?)?|.", re.DOTALL)
_REPEAT = re.compile(r"[*+?]|\{(\d*),?(\d*)\}")


def check_constraints(body: dict[str, Any]) -> None:
    """Raises ``InvalidRequest``, with ``param`` set, for the first that costs too much."""
    asked = body.get("structured_outputs")
    if isinstance(asked, dict):
        _check_structured_outputs(asked)
    for param, shape in _formats(body):
        kind = shape.get("type")
        if isinstance(kind, str) and kind not in _FORMATS:
            raise _wrong(f"{param}.type", f"'{clipped(kind, 40)}' is not supported")
    for param, schema in _schemas(body):
        _Walk(param).check(schema)


def _wrong(param: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid `{param}`: {problem}.", param=param, code="invalid_value")


def _check_structured_outputs(asked: dict[str, Any]) -> None:
    for name in asked:
        if name not in _CONSTRAINTS:
            raise _wrong(
                f"structured_outputs.{clipped(name, 40)}",
                f"it must be one of {', '.join(sorted(_CONSTRAINTS))}",
            )
    for name in ("regex", "whitespace_pattern"):
        if isinstance(asked.get(name), str):
            check_pattern(asked[name], f"structured_outputs.{name}")
    choices = asked.get("choice")
    if isinstance(choices, list):
        _Walk("structured_outputs.choice").count_values(choices)
    schema = asked.get("json")
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _wrong("structured_outputs.json", "it is not valid JSON") from error
    if isinstance(schema, dict):
        _Walk("structured_outputs.json").check(schema)


def _formats(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for outer, inner in (
        ("response_format", None),
        ("text", "format"),
        ("output_config", "format"),
    ):
        found = body.get(outer)
        if inner is not None:
            found = found.get(inner) if isinstance(found, dict) else None
        if isinstance(found, dict):
            yield (outer if inner is None else f"{outer}.{inner}"), found


def _schemas(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for param, shape in _formats(body):
        for holder in (shape, shape.get("json_schema")):
            if isinstance(holder, dict) and isinstance(holder.get("schema"), dict):
                yield param, holder["schema"]
    yield from _of_tools(body.get("tools"), "tools")


def _of_tools(tools: Any, param: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, dict):
            continue
        for holder in (tool, tool.get("function")):
            for field in ("parameters", "input_schema"):
                if isinstance(holder, dict) and isinstance(holder.get(field), dict):
                    yield f"{param}.[{index}]", holder[field]
        yield from _of_tools(tool.get("tools"), f"{param}.[{index}].tools")


class _Walk:
    """Through one schema, which may have come as text: its depth is not yet known."""

    def __init__(self, param: str) -> None:
        self._param = param
        self._properties = self._values = self._value_chars = 0
        self._text_count = self._pattern_size = 0

    def check(self, schema: Any) -> None:
        pending: list[tuple[Any, int]] = [(schema, 1)]
        while pending:
            value, depth = pending.pop()
            if depth > MAX_SCHEMA_DEPTH:
                raise self._over(f"a schema may be {MAX_SCHEMA_DEPTH} levels deep at most")
            if isinstance(value, dict):
                self._look_at(value)
                # What an enum holds are values, and no schemas.
                inner = [each for key, each in value.items() if key not in ("enum", "const")]
            else:
                inner = value
            pending += [(each, depth + 1) for each in inner if isinstance(each, dict | list)]

    def _look_at(self, schema: dict[str, Any]) -> None:
        for name in _REFERENCES & schema.keys():
            target = schema[name]
            if isinstance(target, str) and not target.startswith("#"):
                raise self._over(f"a `{name}` may only point into its own schema ('#/…')")
        for field in ("properties", "patternProperties", "$defs", "definitions"):
            if isinstance(schema.get(field), dict):
                self._properties += len(schema[field])
        if self._properties > MAX_PROPERTIES:
            raise self._over(f"a schema may have {MAX_PROPERTIES} properties at most")
        if isinstance(schema.get("enum"), list):
            self.count_values(schema["enum"])
        self._check_counts(schema)
        patterns = schema.get("patternProperties")
        names = list(patterns) if isinstance(patterns, dict) else []
        for pattern in (schema.get("pattern"), *names):
            if isinstance(pattern, str):
                self._pattern_size += check_pattern(pattern, self._param)
        if self._pattern_size > MAX_PATTERN_SIZE:
            raise self._over(f"its patterns may match {MAX_PATTERN_SIZE} characters in all")

    def _check_counts(self, schema: dict[str, Any]) -> None:
        for name in _COUNTS & schema.keys():
            count = schema[name]
            if isinstance(count, bool) or not isinstance(count, int | float):
                continue
            self._text_count += int(count) if name in _TEXT_COUNTS else 0
            if count > MAX_COUNT or self._text_count > MAX_COUNT:
                raise self._over(f"`{name}` may be {MAX_COUNT} at most, those of text together too")

    def count_values(self, values: list[Any]) -> None:
        """Of an enum, or choices. Raises ``InvalidRequest``."""
        self._values += len(values)
        self._value_chars += sum(len(each) for each in values if isinstance(each, str))
        if self._values > MAX_ENUM_VALUES or self._value_chars > MAX_ENUM_CHARS:
            raise self._over(
                f"there may be {MAX_ENUM_VALUES} values of {MAX_ENUM_CHARS} characters at most"
            )

    def _over(self, problem: str) -> InvalidRequest:
        return _wrong(self._param, problem)


def check_pattern(pattern: str, param: str) -> int:
    """How many characters ``pattern`` matches at most, repeats multiplied out (an open end is one
    more than its least). Raises ``InvalidRequest`` for a pattern that is over a limit."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise _wrong(param, f"a pattern may have {MAX_PATTERN_CHARS} characters at most")
    # The size of each open group so far, and of what stands last in it.
    sizes, last, at = [0], 0, 0
    while at < len(pattern):
        repeat = _REPEAT.match(pattern, at)
        if repeat is not None:
            sizes[-1] += last * (_most(repeat) - 1)
            at, last = repeat.end(), 0
        else:
            atom = _ATOM.match(pattern, at)
            assert atom is not None  # the last alternative takes any character
            at, last = atom.end(), 1
            if atom[0][0] == "(":
                sizes.append(0)
                last = 0
            elif atom[0] == ")" and len(sizes) > 1:
                last = sizes.pop()
                sizes[-1] += last
            else:
                sizes[-1] += 1
        if len(sizes) > MAX_PATTERN_DEPTH:
            raise _wrong(param, f"a pattern may be {MAX_PATTERN_DEPTH} groups deep at most")
        if sizes[-1] > MAX_PATTERN_SIZE:
            raise _wrong(param, f"a pattern may match {MAX_PATTERN_SIZE} characters at most")
    return sum(sizes)


def _most(repeat: re.Match[str]) -> int:
    """How often at most; an open end is one more than its least."""
    sign = repeat[0]
    if sign[0] != "{":
        return 1 if sign == "?" else 2
    least, most = repeat[1] or "0", repeat[2]
    if "," not in sign:
        most = least
    # More digits than any limit has are not worth converting.
    digits = most or least
    return MAX_PATTERN_SIZE + 1 if len(digits) > 9 else int(digits) + (0 if most else 1)
