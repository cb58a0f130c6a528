"""A JSON value that obeys a JSON schema, with strings and numbers taken from somebody's words."""

import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from deployments.tiny_model.pattern_text import text_matching

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

# Members that a schema leaves open are filled down to here; deeper values are as small as allowed.
_ROOMY_DEPTH = 3
_MAX_DEPTH = 24
# A schema may ask for any size; a reply that obeys a larger one is refused rather than written.
_MAX_ITEMS = 256
_MAX_TRIES = 4000
_MAX_CHARACTERS = 4096

_FORMATS = {
    "date": "2026-11-21",
    "time": "12:30:00Z",
    "date-time": "2026-11-21T12:30:00Z",
    "duration": "P1D",
    "email": "rower@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "uri": "https://example.com/oar",
    "uri-reference": "/oar",
    "uri-template": "https://example.com/{oar}",
    "json-pointer": "/oar",
    "relative-json-pointer": "0",
}
_PADDING = " and on"


class Unsatisfiable(Exception):
    """No value was found that obeys the schema."""


@dataclass
class Hints:
    """What to fill a value with: phrases and whole numbers, each used in turn, and chance."""

    phrases: list[str] = field(default_factory=lambda: ["something"])
    numbers: list[int] = field(default_factory=list)
    text: str = ""
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    _used_phrases: int = 0

    def next_phrase(self) -> str:
        """The next phrase, from the start again after the last."""
        phrase = self.phrases[self._used_phrases % len(self.phrases)] if self.phrases else "it"
        self._used_phrases += 1
        return phrase


def value_for(schema: object, hints: Hints) -> Json:
    """A value that obeys `schema` (JSON Schema draft 7 or 2020-12, without `not` and conditions).

    Raises `Unsatisfiable` when none was found: a contradiction, an endless recursion, or sizes
    beyond 256 items or 4096 characters.
    """
    return _Builder(schema, hints).build(schema, 0)


@dataclass
class _Builder:
    root: object
    hints: Hints
    tried: int = 0

    def build(self, schema: object, depth: int) -> Json:
        self.tried += 1
        if depth > _MAX_DEPTH or self.tried > _MAX_TRIES or schema is False:
            raise Unsatisfiable
        rule = self._resolved(schema) if isinstance(schema, dict) else {}
        if "const" in rule:
            constant: Json = rule["const"]
            return constant
        if "enum" in rule:
            return self._one_of_enum(rule)
        for key in ("anyOf", "oneOf"):
            if key in rule:
                return self._alternative(rule, key, depth)
        kind = _kind(rule, roomy=depth < _ROOMY_DEPTH)
        if kind == "object":
            return self._object(rule, depth)
        if kind == "array":
            return self._array(rule, depth)
        if kind == "string":
            return self._string(rule)
        if kind in ("integer", "number"):
            return self._number(rule, whole=kind == "integer")
        return self.hints.chance.random() < 0.5 if kind == "boolean" else None

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with its references followed and its `allOf` merged in."""
        rule = schema
        for _ in range(_MAX_DEPTH):
            if "$ref" in rule:
                rest = {key: value for key, value in rule.items() if key != "$ref"}
                rule = _merged([self._target(rule["$ref"]), rest])
            elif "allOf" in rule:
                rest = {key: value for key, value in rule.items() if key != "allOf"}
                rule = _merged([rest, *rule["allOf"]])
            else:
                return rule
        raise Unsatisfiable

    def _target(self, reference: str) -> object:
        found: Any = self.root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step:
                try:
                    key = step.replace("~1", "/").replace("~0", "~")
                    found = found[int(key)] if isinstance(found, list) else found[key]
                except (KeyError, IndexError, TypeError, ValueError):
                    raise Unsatisfiable from None
        return found

    def _one_of_enum(self, rule: dict[str, Any]) -> Json:
        fitting: list[Json] = [value for value in rule["enum"] if _fits(rule, value)]
        if not fitting:
            raise Unsatisfiable
        text = self.hints.text.lower()
        for value in fitting:
            if isinstance(value, str) and re.search(rf"\b{re.escape(value.lower())}\b", text):
                return value
        return self.hints.chance.choice(fitting)

    def _alternative(self, rule: dict[str, Any], key: str, depth: int) -> Json:
        """The first alternative that works; the simplest first where the value should be small."""
        rest = {name: value for name, value in rule.items() if name != key}
        ways = [self._resolved(_merged([rest, way])) for way in rule[key] if way is not False]
        if depth >= _ROOMY_DEPTH:
            ways.sort(key=_size)
        return _first(ways, lambda way: self.build(way, depth + 1))

    def _object(self, rule: dict[str, Any], depth: int) -> Json:
        properties: dict[str, Any] = rule.get("properties", {})
        required = rule.get("required", [])
        made: dict[str, Json] = {}
        for name, schema in properties.items():
            if name in required:
                made[name] = self.build(schema, depth + 1)
            elif depth < _ROOMY_DEPTH:
                try:
                    made[name] = self.build(schema, depth + 1)
                except Unsatisfiable:
                    continue
        for name in required:
            if name not in made:
                made[name] = self.build(rule.get("additionalProperties", True), depth + 1)
        # xgrammar takes `properties` without `additionalProperties` as the whole list of names.
        closed = "properties" in rule or depth > 0
        wanted = max(rule.get("minProperties", 0), 0 if closed else 1)
        self._add_free_members(rule, made, wanted, depth)
        if len(made) < rule.get("minProperties", 0):
            raise Unsatisfiable
        for name in [name for name in reversed(made) if name not in required]:
            if len(made) > rule.get("maxProperties", len(made)):
                del made[name]
        return made

    def _add_free_members(
        self, rule: dict[str, Any], made: dict[str, Json], wanted: int, depth: int
    ) -> None:
        """Add members that no property names, where the schema lets them be."""
        others = rule.get("additionalProperties", True)
        patterns: dict[str, Any] = rule.get("patternProperties", {})
        names = ["answer", *(f"more_{count}" for count in range(2, min(wanted, _MAX_ITEMS) + 1))]
        for name in names:
            if len(made) >= wanted:
                return
            if patterns:
                pattern, schema = next(iter(patterns.items()))
                made[text_matching(pattern, self.hints.chance) or name] = self.build(
                    schema, depth + 1
                )
            elif others is not False and name not in made:
                made[name] = self.build(others, depth + 1)

    def _array(self, rule: dict[str, Any], depth: int) -> Json:
        fixed = rule.get("prefixItems", [])
        items = rule.get("items", True)
        if isinstance(items, list):  # Draft 7 writes tuples so.
            fixed, items = items, rule.get("additionalItems", True)
        least = rule.get("minItems", 0)
        roomy = max(least, len(fixed) or 1 + self.hints.chance.randrange(2))
        wanted = min(roomy if depth < _ROOMY_DEPTH else least, rule.get("maxItems", _MAX_ITEMS))
        if least > min(wanted, _MAX_ITEMS):
            raise Unsatisfiable
        made: list[Json] = []
        for place in range(wanted):
            schema = fixed[place] if place < len(fixed) else items
            try:
                made.append(self._item(schema, made, rule.get("uniqueItems") is True, depth))
            except Unsatisfiable:
                if len(made) < least:
                    raise
                break
        return made

    def _item(self, schema: object, before: list[Json], unique: bool, depth: int) -> Json:
        for _ in range(50 if unique else 1):
            item = self.build(schema, depth + 1)
            if not unique or item not in before:
                return item
        bound = schema if isinstance(schema, dict) else {}
        if isinstance(item, str) and not {"pattern", "format", "enum", "$ref"} & set(bound):
            numbered = f"{item} {len(before) + 1}"
            if len(numbered) <= bound.get("maxLength", _MAX_CHARACTERS):
                return numbered
        raise Unsatisfiable

    def _string(self, rule: dict[str, Any]) -> str:
        least, most = rule.get("minLength", 0), rule.get("maxLength", _MAX_CHARACTERS)
        if least > min(most, _MAX_CHARACTERS):
            raise Unsatisfiable
        if "pattern" in rule:
            text = text_matching(rule["pattern"], self.hints.chance)
            if text is None or not least <= len(text) <= most:
                raise Unsatisfiable
            return text
        if rule.get("format") in _FORMATS:
            return _FORMATS[rule["format"]]
        text = self.hints.next_phrase()[:most]
        while len(text) < least:
            text = (text + _PADDING)[:most] if len(text) + 1 <= most else text
        return text

    def _number(self, rule: dict[str, Any], whole: bool) -> int | float:
        step: float | None = rule.get("multipleOf", 1 if whole else None)
        fits = _range_check(rule, whole)
        numbers = self.hints.numbers
        for place, number in enumerate(numbers):
            if fits(number) and (not step or number % step == 0):
                numbers.append(numbers.pop(place))
                return number
        low, high = _bounds(rule)
        if step:
            multiple = _multiple(step, low, high, fits, self.hints.chance)
            return int(multiple) if whole else multiple
        return _between(low, high, fits, self.hints.chance)


def _kind(rule: dict[str, Any], roomy: bool) -> str:
    """The JSON type to write: the one named, or the one that the other keywords are about."""
    kind = rule.get("type")
    if isinstance(kind, list):
        by_choice = [name for name in kind if name != "null"]
        return str((by_choice or kind)[0]) if roomy or "null" not in kind else "null"
    if isinstance(kind, str):
        return kind
    about = {
        "object": ("properties", "required", "additionalProperties", "patternProperties"),
        "array": ("items", "prefixItems", "minItems", "maxItems"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
    for name, keys in about.items():
        if any(key in rule for key in keys):
            return name
    return "string"


def _size(rule: dict[str, Any]) -> int:
    """How large a value of this schema is at least, roughly: for choosing the smaller one."""
    if "const" in rule or "enum" in rule or rule.get("type") == "null":
        return 0
    if "anyOf" in rule or "oneOf" in rule:
        return 2
    return {"array": 3, "object": 4}.get(_kind(rule, roomy=False), 1)


def _fits(rule: dict[str, Any], value: object) -> bool:
    """Whether an enumerated value is of the type that stands beside the enumeration."""
    kinds = rule.get("type")
    if kinds is None:
        return True
    names = kinds if isinstance(kinds, list) else [kinds]
    if isinstance(value, bool):
        return "boolean" in names
    by_name: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "array": list,
        "object": dict,
        "null": type(None),
    }
    return any(isinstance(value, by_name[name]) for name in names if name in by_name)


def _merged(schemas: Iterable[object]) -> dict[str, Any]:
    """One schema for all: properties and required add up, bounds tighten, else the later wins."""
    whole: dict[str, Any] = {}
    for schema in schemas:
        if schema is False:
            raise Unsatisfiable
        if not isinstance(schema, dict):
            continue
        for key, value in schema.items():
            if key == "properties" and key in whole:
                whole[key] = {**whole[key], **value}
            elif key == "required" and key in whole:
                whole[key] = [*whole[key], *(name for name in value if name not in whole[key])]
            elif key == "allOf" and key in whole:
                whole[key] = [*whole[key], *value]
            elif key in ("minimum", "minLength", "minItems", "exclusiveMinimum") and key in whole:
                whole[key] = max(whole[key], value)
            elif key in ("maximum", "maxLength", "maxItems", "exclusiveMaximum") and key in whole:
                whole[key] = min(whole[key], value)
            else:
                whole[key] = value
    return whole


def _first(ways: Iterable[Any], attempt: Callable[[Any], Json]) -> Json:
    for way in ways:
        try:
            return attempt(way)
        except Unsatisfiable:
            continue
    raise Unsatisfiable


def _bounds(rule: dict[str, Any]) -> tuple[float, float]:
    """Lower and upper bound, inclusive or not; infinite where there is none."""
    lows = [rule[key] for key in ("minimum", "exclusiveMinimum") if _is_number(rule.get(key))]
    highs = [rule[key] for key in ("maximum", "exclusiveMaximum") if _is_number(rule.get(key))]
    return max(lows, default=-math.inf), min(highs, default=math.inf)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _range_check(rule: dict[str, Any], whole: bool) -> Callable[[float], bool]:
    below, above = rule.get("exclusiveMinimum"), rule.get("exclusiveMaximum")
    low, high = _bounds(rule)

    def fits(number: float) -> bool:
        if not low <= number <= high or (whole and number != int(number)):
            return False
        # Draft 4 writes `exclusiveMinimum: true` beside `minimum`.
        too_low = number == low and (below is True or below == low)
        too_high = number == high and (above is True or above == high)
        return not too_low and not too_high

    return fits


def _multiple(
    step: float,
    low: float,
    high: float,
    fits: Callable[[float], bool],
    chance: random.Random,
) -> float:
    """A multiple of `step` in range, near the bound that there is."""
    if math.isfinite(low):
        first, direction = math.ceil(low / step), 1
    elif math.isfinite(high):
        first, direction = math.floor(high / step), -1
    else:
        first, direction = 1, 1
    for count in (chance.randrange(10), *range(10)):
        number: float = (first + direction * count) * step
        if fits(number):
            return number
    raise Unsatisfiable


def _between(
    low: float, high: float, fits: Callable[[float], bool], chance: random.Random
) -> float:
    """A number in range with as few decimals as will do."""
    if math.isfinite(low) and math.isfinite(high):
        middle = low + (high - low) * chance.uniform(0.3, 0.7)
    elif math.isfinite(low):
        middle = low + 1.5 + chance.randrange(10)
    else:
        middle = (high - 1.5 if math.isfinite(high) else 1.5) - chance.randrange(10)
    for decimals in range(1, 16):
        if fits(round(middle, decimals)):
            return round(middle, decimals)
    if fits(middle):
        return middle
    raise Unsatisfiable
