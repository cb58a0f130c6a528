"""The text of an answer, put together from what was sent."""

from collections.abc import Iterator
from typing import Any

import msgspec

SLACK_CHARS = 1_000
"""Kept of a text beyond its limit until secrets are taken out: so long a one may be cut in two."""

MAX_EVENT_BYTES = 4 << 20
"""Longer ones repeat what came before in parts."""

_END = b"\n\n"
_DATA = b"data: "
_decoder = msgspec.json.Decoder()

RESPONSES = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "calls",
    "response.custom_tool_call_input.delta": "calls",
}
MESSAGES = {"text": "text", "thinking": "reasoning", "partial_json": "calls"}

Part = tuple[int, str, str]
"""Index of the choice or output item; ``text``, ``reasoning`` or ``calls``; some more of it."""


class StreamedAnswer:
    """Joins an event stream's deltas: a secret may stand in several of them.

    At most ``limit_chars`` are kept (and a little more, see ``SLACK_CHARS``); then ``cut`` is true.
    """

    def __init__(self, limit_chars: int) -> None:
        self._left = limit_chars + SLACK_CHARS
        self._rest = b""
        self._texts: dict[tuple[int, str], list[str]] = {}
        self.cut = False

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        *events, self._rest = (self._rest + data).split(_END)
        for event in events:
            at = event.find(_DATA)
            if at < 0 or len(event) > MAX_EVENT_BYTES:
                continue
            try:
                found = _decoder.decode(event[at + len(_DATA) :])
            except msgspec.DecodeError:
                continue  # `[DONE]`
            if isinstance(found, dict):
                for part in _parts(found):
                    self._keep(*part)
        if len(self._rest) > MAX_EVENT_BYTES:
            self._rest, self.cut = b"", True

    def texts(self) -> list[tuple[int, str, str]]:
        """All that was kept, joined: index, kind, text."""
        return [(index, kind, "".join(texts)) for (index, kind), texts in self._texts.items()]

    def _keep(self, index: int, kind: str, text: str) -> None:
        if len(text) > self._left:
            text, self.cut = text[: self._left], True
        self._left -= len(text)
        if text:
            self._texts.setdefault((index, kind), []).append(text)


def _parts(event: dict[str, Any]) -> Iterator[Part]:
    """What an event adds to the answer, in any API's form."""
    for choice in event.get("choices") or ():
        index = choice.get("index", 0)
        if choice.get("text"):
            yield index, "text", choice["text"]
        delta = choice.get("delta") or {}
        if delta.get("content"):
            yield index, "text", delta["content"]
        reasoning = delta.get("reasoning") or delta.get("reasoning_content")
        if reasoning:
            yield index, "reasoning", reasoning
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            yield index, "calls", f"{function.get('name') or ''}{function.get('arguments') or ''}"
    kind, delta = event.get("type"), event.get("delta")
    if isinstance(delta, str) and kind in RESPONSES:
        yield event.get("output_index", 0), RESPONSES[kind], delta
    elif isinstance(delta, dict):
        for field, named in MESSAGES.items():
            if isinstance(delta.get(field), str):
                yield event.get("index", 0), named, delta[field]
