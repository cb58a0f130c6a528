"""Takes secrets out of texts and of JSON, in bounded time."""

import time
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import regex  # type: ignore[import-untyped]

BUILT_IN: tuple[tuple[str, str], ...] = (
    ("private key", r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?s:.*?)(?:-----END|\Z)"),
    ("bearer token", r"(?i)\bbearer\s{1,8}[a-z0-9._~+/=-]{8,}"),
    ("token", r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    ("key", r"\b(?:sk|pk|rk)[-_][\w-]{12,}"),
    ("key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    ("e-mail", r"[\p{L}\p{N}._%+-]{1,64}@(?:[\p{L}\p{N}-]{1,63}\.){1,8}[\p{L}\p{N}-]{2,63}"),
    ("number", r"(?<![\d.])\d(?:[ -]?\d){12,18}(?!\d)"),
)
"""Name and pattern: what a log must never hold, whoever configures it. A payment card has 13 to 19
digits; other numbers of that length go with them."""

# As a whole or not at all (possessive): a text of JSON never makes these go back. A string that the
# text's end cuts off is one, too.
_LITERAL = regex.compile(r'"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z)', regex.DOTALL)
_NUMBER = regex.compile(r"-?\d[\d.eE+-]*+")
_LINE_BREAKS = {10: " ", 13: " "}


class TooSlow(Exception):
    """The patterns took longer than they may: nothing of the text is safe to keep."""


class Redactor:
    """``patterns`` come on top of the built-in ones. ``limit_s`` is for each call.

    Raises ``TooSlow`` from its methods. The interpreter's lock is free while a pattern runs.
    """

    def __init__(self, patterns: Sequence[str], *, limit_s: float) -> None:
        named = [*BUILT_IN, *(("", pattern) for pattern in patterns)]
        self._patterns = [
            (regex.compile(pattern), f"[redacted: {name}]" if name else "[redacted]")
            for name, pattern in named
        ]
        self._limit_s = limit_s

    def text(self, text: str) -> str:
        """``text`` without what a pattern matches."""
        return self._clean(text, time.monotonic() + self._limit_s)

    def json(self, data: bytes) -> str:
        """A JSON text in one line, its strings and numbers redacted each by itself.

        Strings are read before they are looked at, so an escape hides nothing. An unfinished
        string (``data`` was cut there) is left out.
        """
        until = time.monotonic() + self._limit_s
        text = data.decode("utf-8", "replace")
        spans = [match.span() for match in _LITERAL.finditer(text)]
        borders = [(0, 0), *spans, (len(text), len(text))]
        parts: list[str] = []
        for (_, end), (start, stop) in pairwise(borders):
            parts += (self._between(text[end:start], until), self._literal(text[start:stop], until))
        return "".join(parts)

    def _clean(self, text: str, until: float) -> str:
        for pattern, mark in self._patterns:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TooSlow
            try:
                text = pattern.sub(mark, text, timeout=left_s, concurrent=True)
            except TimeoutError as error:
                raise TooSlow from error
        return text

    def _literal(self, literal: str, until: float) -> str:
        if not literal:
            return ""
        try:
            text = msgspec.json.decode(literal, type=str)
        except msgspec.DecodeError:
            return ""
        clean = self._clean(text, until)
        return literal if clean == text else msgspec.json.encode(clean).decode()

    def _between(self, text: str, until: float) -> str:
        if _NUMBER.search(text) and self._clean(text, until) != text:
            text = _NUMBER.sub(lambda match: self._number(match.group(), until), text)
        return text.translate(_LINE_BREAKS)

    def _number(self, number: str, until: float) -> str:
        clean = self._clean(number, until)
        return number if clean == number else msgspec.json.encode(clean).decode()
