"""Streams that can be taken up again: each event gets an id, and who comes back gets the rest.

A resumed stream is the whole one, written again from its first token, of which what the client has
is left out. So nothing of vLLM's state has to be kept or made anew.
"""

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import msgspec

from cluster.config import TIERS
from cluster.errors import NotResumable, StreamDiffers
from deployments.gateway.context import RequestContext
from deployments.gateway.contract.asgi import Message, Send
from deployments.gateway.contract.routes import Kind
from deployments.gateway.resume import (
    COUNTED,
    FINISHED,
    NOT_ENDED,
    Resume,
    Shown,
    first_request_id,
    new_resume,
    read_event_id,
)

ASKED = b"x-trireme-resumable"
LAST_EVENT_ID = b"last-event-id"

_EVENT = b"data: {"
_ERROR = b'data: {"error"'
_DATA = b"data: "
_BORDER = b"\n\n"
_TEXTS = ("content", "reasoning", "reasoning_content", "refusal")
# What a request may not ask for, as it does not follow from the tokens, or not from those alone.
_UNFIT = ("logprobs", "top_logprobs", "prompt_logprobs", "return_token_ids", "echo")


def asked_resume(
    headers: Mapping[bytes, bytes], request_id: str, keep_s: float
) -> tuple[Resume | None, str]:
    """What a request's headers ask for, and the id that it has; raises ``InvalidRequest``."""
    if LAST_EVENT_ID in headers:
        shown = read_event_id(headers[LAST_EVENT_ID])
        return Resume(shown.nonce, keep_s, shown, shown.form), first_request_id(shown, request_id)
    return (new_resume(request_id, keep_s) if headers.get(ASKED) == b"1" else None), request_id


def fit_to_resume(kind: Kind, body: Mapping[str, Any], resume: Resume) -> Resume | None:
    """None for a request whose stream cannot be taken up again; raises ``NotResumable`` if that is
    what its client has come for."""
    streams = kind == "chat" and body.get("stream") is True
    if streams and body.get("n") in (None, 1) and not any(body.get(each) for each in _UNFIT):
        return resume
    if resume.shown is not None:
        raise NotResumable
    return None


class ResumableSend:
    """The ``send`` below a ``Reply``: everything that it gets is meant for the client."""

    def __init__(self, send: Send, context: RequestContext, resume: Resume) -> None:
        self._send = send
        self._context = context
        self._resume = resume
        self._texts: dict[str, tuple[int, int]] = {}
        self._ended = NOT_ENDED
        self._to_skip = {} if resume.shown is None else dict(resume.shown.texts)

    async def __call__(self, message: Message) -> None:
        body = message.get("body", b"")
        if body.startswith(_EVENT):
            written = b"".join(map(self._event, body.split(_BORDER)))
            if not written and message.get("more_body"):
                return
            message = {**message, "body": written}
        await self._send(message)

    def _event(self, event: bytes) -> bytes:
        if not event:
            return b""
        if not event.startswith(_EVENT) or event.startswith(_ERROR):
            return event + _BORDER
        chunk = msgspec.json.decode(event[len(_DATA) :])
        shown = self._resume.shown
        if shown is None:
            self._read(chunk)
            return event + b"\nid: " + self._id(chunk["created"]) + _BORDER
        if isinstance(self._context.failure, StreamDiffers):
            return b""  # the next thing that comes here is the error
        try:
            if not self._cut(chunk, shown):
                return b""
        except StreamDiffers as error:
            self._context.fail(error)
            return b""
        chunk["created"] = shown.created
        return _DATA + msgspec.json.encode(chunk) + b"\nid: " + self._id(shown.created) + _BORDER

    def _id(self, created: int) -> bytes:
        tier = TIERS.index(self._context.tier)
        resume = self._resume
        shown = Shown(resume.nonce, resume.form, tier, created, self._ended, self._texts)
        return shown.event_id()

    # ------------------------------------------------------------------ what an event shows

    def _read(self, chunk: dict[str, Any]) -> None:
        """Count what the client gets for the first time."""
        self._note_end(chunk)
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for name in _TEXTS:
                if delta.get(name):
                    self._count(name, delta[name])
            for call in delta.get("tool_calls") or ():
                self._count(_call_name(call), _arguments(call))

    def _cut(self, chunk: dict[str, Any], shown: Shown) -> bool:
        """Take out of ``chunk`` what the client has. Whether anything is left."""
        ended = self._note_end(chunk)
        left = ended > shown.ended
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for name in _TEXTS:
                if delta.get(name):
                    delta[name] = self._rest(name, delta[name])
                    left = left or bool(delta[name])
            calls = [self._cut_call(call, shown) for call in delta.get("tool_calls") or ()]
            if calls:
                delta["tool_calls"] = [call for call in calls if call is not None]
                left = left or bool(delta["tool_calls"])
        if ended and self._to_skip:
            raise StreamDiffers  # it is shorter than what the client has
        return left

    def _cut_call(self, call: dict[str, Any], shown: Shown) -> dict[str, Any] | None:
        name = _call_name(call)
        rest = self._rest(name, _arguments(call))
        if name not in shown.texts:
            return call
        return {"index": call["index"], "function": {"arguments": rest}} if rest else None

    def _note_end(self, chunk: dict[str, Any]) -> int:
        """How far this chunk ends the stream."""
        choices = chunk["choices"]
        if not choices:
            self._ended = COUNTED
        elif choices[0].get("finish_reason") is not None:
            self._ended = FINISHED
        else:
            return NOT_ENDED
        return self._ended

    def _count(self, name: str, text: str) -> None:
        chars, sum_ = self._texts.get(name, (0, 0))
        self._texts[name] = chars + len(text), crc32(text.encode(), sum_)

    def _rest(self, name: str, text: str) -> str:
        """What of ``text`` is new to the client. Raises ``StreamDiffers`` if what it has is not
        what was written again."""
        skip = self._to_skip.get(name)
        if skip is None:
            self._count(name, text)
            return text
        chars, sum_ = skip
        at = max(0, chars - self._texts.get(name, (0, 0))[0])
        self._count(name, text[:at])
        if self._texts[name] == (chars, sum_):
            del self._to_skip[name]
        elif self._texts[name][0] == chars:
            raise StreamDiffers
        self._count(name, text[at:])
        return text[at:]


def _call_name(call: dict[str, Any]) -> str:
    return f"call{call['index']}"


def _arguments(call: dict[str, Any]) -> str:
    return (call.get("function") or {}).get("arguments") or ""
