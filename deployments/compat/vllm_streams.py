"""Streamed chunks go to the gateway without a detour through the middleware of vLLM's application.

Starlette passes each chunk through a function of every middleware (errors, metrics, CORS) and of
every place that catches errors, six in vLLM's application, each of which looks whether it is the
head. Here the head and the end of a stream go that way, and what is between them does not.
"""

import contextlib
import importlib
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

CHUNKS_TO = "trireme.chunks_to"
"""Key of a scope: the ``send`` for the chunks of its stream. A scope without it changes nothing."""

ROUTERS = tuple(
    f"vllm.entrypoints.{name}.api_router"
    for name in ("openai.chat_completion", "openai.completion", "openai.responses", "anthropic")
)


def send_chunks_straight() -> None:
    """Have vLLM's routes answer with ``StraightStream``. It may be called again."""
    _answer_with(StraightStream)


def send_chunks_as_vllm_does() -> None:
    """Undo ``send_chunks_straight``, to compare."""
    _answer_with(StreamingResponse)


def _answer_with(response: type[StreamingResponse]) -> None:
    for name in ROUTERS:
        with contextlib.suppress(ImportError):
            vars(importlib.import_module(name))["StreamingResponse"] = response


class StraightStream(StreamingResponse):
    """Stands for Starlette's ``StreamingResponse``."""

    _chunks_to: Send | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._chunks_to = scope.get(CHUNKS_TO)
        await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        chunks_to = self._chunks_to
        if chunks_to is None:
            await super().stream_response(send)
            return
        head: dict[str, Any] = {"type": "http.response.start", "status": self.status_code}
        await send({**head, "headers": self.raw_headers})
        async for chunk in self.body_iterator:
            body = chunk.encode(self.charset) if isinstance(chunk, str) else chunk
            await chunks_to({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
