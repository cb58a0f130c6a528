"""Harmony's tokenizer is quadratic in the length of one piece; this keeps pieces short.

The tokenizer cuts text into pieces by a pattern (o200k's) and merges bytes within each piece in
time quadratic in its length, with the GIL held: 100,000 times "漢" stops the process for 28 s. A
piece is at most a run of letters and marks, or of other signs, or of white space, or of line ends
and slashes, so bounding these four kinds of run bounds the pieces.

Only long runs matter, and a run of ``2·_BLOCK - 1`` characters or more covers a whole aligned block
of ``_BLOCK``. One match at each block finds them all: ordinary text fails after a few characters.
Measured on 2 shared cores: 5 ms for a million characters of English prose, 6 ms of Chinese.
"""

from collections.abc import Iterable

import regex  # type: ignore[import-untyped]

from cluster.errors import InvalidRequest

_BLOCK = 128

# Characters that this machine's Unicode tables do not know (Cn) may be letters to the tokenizer's.
_KINDS = (r"[\p{L}\p{M}\p{Cn}]", r"[^\s\p{L}\p{N}]", r"\s", r"[\r\n/]")
_BLOCKS = regex.compile("|".join(f"({kind}){{{_BLOCK}}}" for kind in _KINDS))
_RUNS = tuple(regex.compile(f"{kind}+") for kind in _KINDS)
_RUNS_BACK = tuple(regex.compile(f"(?r){kind}+") for kind in _KINDS)

_LONGEST_RUNS_WORTH = 4
"""All long runs of a request together may cost as much as this many of the longest allowed.

Without it, 4 MB of runs that are each just allowed would take 15 s. Encoding a run costs
3.5e-10 s per square byte (measured on 2 shared cores); with runs of 4,000 characters of four bytes
this allows 0.4 s.
"""
_MAX_UTF8_BYTES = 4

_PER_SQUARE_BYTE_S = 3.5e-10
_PER_BYTE_S = 3.6e-7
"""Seconds of the tokenizer for a byte of ordinary text. English prose takes 1.5e-7; this is the
most that runs too short to be looked at can cost (255 characters of four bytes)."""


class UnbrokenRuns:
    """Looks through the texts of one request. ``max_run_chars`` is the longest run allowed."""

    def __init__(self, max_run_chars: int, param: str | None) -> None:
        self._max_run_chars = max_run_chars
        self._param = param
        longest_bytes = max_run_chars * _MAX_UTF8_BYTES
        self._budget = self._left = _LONGEST_RUNS_WORTH * longest_bytes * longest_bytes

    def cost_s(self, text_bytes: int) -> float:
        """What the tokenizer will take at most for what was checked, of ``text_bytes`` in all."""
        return _PER_BYTE_S * text_bytes + _PER_SQUARE_BYTE_S * (self._budget - self._left)

    def check(self, texts: Iterable[str]) -> None:
        """Raises ``InvalidRequest`` for a run that is too long, or for too many long ones."""
        for text in texts:
            if len(text) >= 2 * _BLOCK - 1:
                self._check_long(text)

    def _check_long(self, text: str) -> None:
        match = _BLOCKS.match
        # Matches overlap between kinds (marks are in two), so each kind remembers how far it saw.
        seen = [0] * len(_KINDS)
        for start in range(0, len(text) - _BLOCK + 1, _BLOCK):
            if match(text, start) is None:
                continue
            for kind, run in enumerate(_RUNS):
                if start < seen[kind]:
                    continue
                found = run.match(text, start)
                if found is not None and found.end() - start >= _BLOCK:
                    seen[kind] = found.end()
                    self._count(text, kind, start, found.end())

    def _count(self, text: str, kind: int, inside: int, end: int) -> None:
        before = _RUNS_BACK[kind].match(text, pos=0, endpos=inside) if inside else None
        start = before.start() if before is not None else inside
        if end - start > self._max_run_chars:
            raise InvalidRequest(
                f"The text has a run of {end - start} characters without a break between words; "
                f"{self._max_run_chars} is the most. Put spaces or line breaks into it.",
                param=self._param,
                code="unbroken_run_too_long",
            )
        size = len(text[start:end].encode())
        self._left -= size * size
        if self._left < 0:
            raise InvalidRequest(
                "The text has too many long runs of characters without a break between words. "
                "Put spaces or line breaks into them.",
                param=self._param,
                code="unbroken_run_too_long",
            )
