"""A short text that matches a regular expression."""

import importlib
import random
import re
from collections.abc import Iterable
from typing import Any

# Python's own parser of regular expressions: the tree that `re` compiles.
_parser: Any = importlib.import_module("re._parser")
_PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ _-.,"
_CATEGORIES = {
    "CATEGORY_DIGIT": re.compile(r"\d"),
    "CATEGORY_NOT_DIGIT": re.compile(r"\D"),
    "CATEGORY_SPACE": re.compile(r"\s"),
    "CATEGORY_NOT_SPACE": re.compile(r"\S"),
    "CATEGORY_WORD": re.compile(r"\w"),
    "CATEGORY_NOT_WORD": re.compile(r"\W"),
}
_MAX_REPEATS = 256


def text_matching(pattern: str, chance: random.Random) -> str | None:
    """A text that the whole of `pattern` matches, or None if none was found.

    Python's syntax is read, which for everyday patterns is also that of JSON schemas.
    """
    try:
        text = "".join(_pieces(_parser.parse(pattern), chance, {}))
        return text if re.fullmatch(pattern, text) else None
    except (re.error, _Unreadable, RecursionError, OverflowError):
        return None


class _Unreadable(Exception):
    """The pattern holds something that this module does not write."""


def _pieces(tree: Any, chance: random.Random, groups: dict[int, str]) -> Iterable[str]:
    for operation, argument in tree:
        yield _piece(str(operation), argument, chance, groups)


def _piece(operation: str, argument: Any, chance: random.Random, groups: dict[int, str]) -> str:
    if operation == "LITERAL":
        return chr(argument)
    if operation in ("ANY", "NOT_LITERAL", "IN"):
        return _character(operation, argument, chance)
    if operation in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = argument
        if least > _MAX_REPEATS:
            raise _Unreadable
        times = min(int(most), max(least, 1 + chance.randrange(3)))
        return "".join("".join(_pieces(body, chance, groups)) for _ in range(times))
    if operation == "SUBPATTERN":
        text = "".join(_pieces(argument[3], chance, groups))
        if argument[0] is not None:
            groups[argument[0]] = text
        return text
    if operation == "ATOMIC_GROUP":
        return "".join(_pieces(argument, chance, groups))
    if operation == "BRANCH":
        return "".join(_pieces(chance.choice(argument[1]), chance, groups))
    if operation == "GROUPREF":
        return groups.get(argument, "")
    if operation in ("AT", "ASSERT", "ASSERT_NOT"):
        return ""  # Checked against the whole text at the end.
    raise _Unreadable


def _character(operation: str, argument: Any, chance: random.Random) -> str:
    """One character of a class: a plain one if any is in it, else the first of its first range."""
    if operation == "ANY":
        return chance.choice(_PLAIN[:26])
    if operation == "NOT_LITERAL":
        return "a" if argument != ord("a") else "b"
    allowed = [character for character in _PLAIN if _in_class(argument, ord(character))]
    if allowed:
        return chance.choice(allowed)
    for name, value in argument:
        if str(name) == "LITERAL":
            return chr(value)
        if str(name) == "RANGE":
            return chr(value[0])
    raise _Unreadable


def _in_class(members: Any, code: int) -> bool:
    negated = any(str(name) == "NEGATE" for name, _ in members)
    inside = any(_is_member(str(name), value, code) for name, value in members)
    return inside != negated


def _is_member(name: str, value: Any, code: int) -> bool:
    if name == "LITERAL":
        return bool(code == value)
    if name == "RANGE":
        return bool(value[0] <= code <= value[1])
    if name == "CATEGORY":
        return _CATEGORIES[str(value)].match(chr(code)) is not None
    return False
