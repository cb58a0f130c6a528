"""The function tools that a Harmony prompt offers, read from their TypeScript-like rendering.

Harmony renders a tool's JSON schema as a type. That loses bounds, patterns, references and the
difference between integer and number, and an unreadable schema becomes `any`. So the schemas given
here are narrower than the tool's own: what obeys one of these obeys the tool's, wherever the
rendering lets one know it.
"""

import functools
import json
import re
from dataclasses import dataclass, field
from typing import Any

_TYPE = re.compile(r"^type (\S+) = ", re.MULTILINE)
_KEY = re.compile(r"[ \t]*([^\n:?]+?)(\??):(?=\s)")
_COMMENT = re.compile(r"[ \t]*//[^\n]*\n?")
_BLANK = re.compile(r"\s+")
_WORD = re.compile(r"string|number|boolean|null|any|Array<any>")
# Quotes in an enumerated text are not escaped: it ends at the one that syntax follows.
_TEXT = re.compile(r'"(.*?)"(?=\s*(?:,|\||\[\]|//|\n|$))', re.DOTALL)
_LINE_END = re.compile(r"[ \t]*(?:\n|$)")
_DEFAULT = re.compile(r"[ \t]*// default: ([^\n]*)")
_WORD_SCHEMAS: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "number": {"type": "integer"},  # The rendering of both; an integer is right for both.
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "any": {},
    "Array<any>": {"type": "array", "maxItems": 0},
}
_NOTHING: dict[str, Any] = {"type": "object", "maxProperties": 0}


@dataclass(frozen=True)
class Tool:
    """A function tool: its name, what it is said to do, and a schema for its arguments."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: dict(_NOTHING))


@functools.lru_cache(maxsize=16)
def read_tools(text: str) -> tuple[Tool, ...]:
    """The tools in the text between `namespace functions {` and its end."""
    end = text.rfind("} // namespace functions")
    text = text if end < 0 else text[:end]
    tools = []
    previous_end = 0
    for match in _TYPE.finditer(text):
        if match.start() < previous_end:
            continue  # A line of a description that looks like a type.
        reader = _Reader(text, match.end())
        parameters = reader.parameters()
        lines = text[previous_end : match.start()].splitlines()
        description = " ".join(line.removeprefix("//").strip() for line in lines).strip(" ;")
        tools.append(Tool(match.group(1), description, parameters))
        arrow = text.find("=> any;", reader.place)
        previous_end = reader.place if arrow < 0 else arrow + len("=> any;")
    return tuple(tools)


@dataclass
class _Reader:
    """A reader of types at a place in a text; where it understands nothing it says `any`."""

    text: str
    place: int

    def parameters(self) -> dict[str, Any]:
        """The arguments of a tool, from right after `type name = `."""
        if self._takes("(_: ") and self._sees("{"):
            return self._type()
        return dict(_NOTHING)

    def _sees(self, mark: str) -> bool:
        return self.text.startswith(mark, self.place)

    def _takes(self, mark: str) -> bool:
        if not self._sees(mark):
            return False
        self.place += len(mark)
        return True

    def _skip(self, *patterns: re.Pattern[str]) -> None:
        while any(self._skips(pattern) for pattern in patterns):
            pass

    def _skips(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self.text, self.place)
        if match is None:
            return False
        self.place = match.end()
        return True

    def _type(self) -> dict[str, Any]:
        """A type with its alternatives, `{}` if it cannot be read."""
        self._skip(_BLANK, _COMMENT)
        self._takes("|")
        ways = [self._single()]
        while True:
            before = self.place
            self._skip(_BLANK, _COMMENT)
            if not self._takes("|"):
                self.place = before
                break
            ways.append(self._single())
        if len(ways) == 1:
            return ways[0]
        texts = [way["items"] if _is_enum_array(way) else way for way in ways]
        if all("enum" in way for way in texts):
            merged = {"type": "string", "enum": [text for way in texts for text in way["enum"]]}
            # `"a" | "b"[]` is a list of either: the rendering has no brackets for it.
            return {"type": "array", "items": merged} if _is_enum_array(ways[-1]) else merged
        return ways[-1] if ways[-1].get("type") == "array" else {"anyOf": ways}

    def _single(self) -> dict[str, Any]:
        self._skip(_BLANK, _COMMENT)
        if self._sees("{"):
            schema = self._object()
        elif match := _TEXT.match(self.text, self.place):
            schema = {"type": "string", "enum": [match.group(1)]}
            self.place = match.end()
        elif match := _WORD.match(self.text, self.place):
            schema = _WORD_SCHEMAS[match.group()]
            self.place = match.end()
        else:
            return {}
        while self._takes("[]"):
            schema = {"type": "array", "items": schema}
        return schema

    def _object(self) -> dict[str, Any]:
        self._takes("{")
        members: dict[str, tuple[bool, dict[str, Any]]] = {}
        while True:
            self._skip(_BLANK, _COMMENT)
            if self.place >= len(self.text) or self._takes("}"):
                break
            match = _KEY.match(self.text, self.place)
            if match is None:
                self._next_line()  # The second line of a description stands there without `//`.
                continue
            self.place = match.end()
            if _COMMENT.match(self.text, self.place):
                # An object's description stands once more before its brace.
                brace = self.text.find("\n{", self.place)
                self.place = len(self.text) if brace < 0 else brace + 1
            begin = self.place
            schema = self._type()
            if self.place == begin:
                self._next_line()
                continue
            self._takes(",")
            schema = self._with_default(schema)
            if self._skips(_LINE_END):
                members[match.group(1).strip()] = (match.group(2) == "", schema)
            else:
                self._next_line()  # A line of a description that began like a member.
        return _object_schema(members)

    def _with_default(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema, a number narrowed to its default: its bounds are not in the rendering."""
        match = _DEFAULT.match(self.text, self.place)
        if match is None:
            return schema
        self.place = match.end()
        if schema.get("type") in ("integer", "boolean"):
            try:
                return {"enum": [json.loads(match.group(1))]}
            except ValueError:
                return schema
        return schema

    def _next_line(self) -> None:
        end = self.text.find("\n", self.place)
        self.place = len(self.text) if end < 0 else end + 1


def _is_enum_array(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "array" and "enum" in schema.get("items", {})


def _object_schema(members: dict[str, tuple[bool, dict[str, Any]]]) -> dict[str, Any]:
    """The schema of an object: all required members, and the optional ones that are safe to fill.

    Bounds and patterns are not in the rendering, so an optional number stays out, and so does an
    optional text beside required members; enumerations, booleans and defaults cannot be wrong.
    """
    required = [name for name, (needed, _) in members.items() if needed]
    properties = {
        name: schema
        for name, (needed, schema) in members.items()
        if needed
        or "enum" in schema
        or schema.get("type") == "boolean"
        or (not required and schema.get("type") == "string")
    }
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
