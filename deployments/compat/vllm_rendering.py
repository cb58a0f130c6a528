"""Big prompts are rendered outside of the gateway's event loop.

vLLM 0.32 and 0.33 call Harmony's tokenizer on the loop, with the GIL held: 0.15 s for a megabyte of
prose, and far more where words are long (``contract/unbroken``). Here the render of a costly
request stops short of the tokenizer; the conversation goes to a worker process as JSON, and the
tokens that come back are put where the tokenizer's would have stood.
"""

import asyncio
import contextlib
import logging
import sys
from array import array
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from starlette.exceptions import HTTPException
from vllm.entrypoints.openai.parser import harmony_utils
from vllm.renderers import online_renderer

from deployments.compat import render_worker
from deployments.compat.render_cost import INLINE_S, render_cost_s

log = logging.getLogger("trireme.gateway")

MAX_WORKERS = 2
MAX_WAITING = 64
"""Costly requests that wait for a worker; more are told to come again."""

MAX_RENDER_S = 60.0
"""A worker that takes longer is ended. The costliest request that passes the door takes 1 s."""


class RenderWorkers:
    """The worker processes of this gateway, started when they are needed, at most ``workers``."""

    def __init__(self, workers: int = MAX_WORKERS) -> None:
        self._idle: list[asyncio.subprocess.Process] = []
        self._turn = asyncio.Semaphore(workers)
        self._waiting = 0

    async def render(self, conversation: str) -> list[int]:
        """The prompt's tokens. Raises ``HTTPException`` (503) if too many wait, and
        ``RuntimeError`` if the worker cannot render it."""
        if self._waiting >= MAX_WAITING:
            raise HTTPException(503, "Too many large prompts are being rendered.")
        self._waiting += 1
        work = asyncio.create_task(self._in_turn(conversation))
        work.add_done_callback(self._done)
        # A caller who leaves must not leave half an answer in the pipe.
        return await asyncio.shield(work)

    def _done(self, work: asyncio.Task[list[int]]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # nobody may be left to hear of it

    async def _in_turn(self, conversation: str) -> list[int]:
        async with self._turn:
            return await self._exchange(conversation)

    async def _exchange(self, conversation: str) -> list[int]:
        worker = await self._worker()
        try:
            async with asyncio.timeout(MAX_RENDER_S):
                answer = await _ask(worker, conversation.encode())
        except (TimeoutError, OSError, EOFError) as error:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            raise RuntimeError("a render worker was lost") from error
        self._idle.append(worker)
        if answer[:1] != render_worker.WELL:
            raise RuntimeError("Harmony could not render the conversation")
        tokens = array("I")
        tokens.frombytes(answer[1:])
        return tokens.tolist()

    async def _worker(self) -> asyncio.subprocess.Process:
        while self._idle:
            worker = self._idle.pop()
            if worker.returncode is None:
                return worker
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # beside the file lies our `vllm.py`
            render_worker.__file__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def start(self) -> None:
        """Have one worker warm, so that the first costly request does not wait for it."""
        hello = '{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}'
        await self.render(hello)

    def stop(self) -> None:
        """End the workers; they would end with this process anyway."""
        for worker in self._idle:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
        self._idle.clear()


async def _ask(worker: asyncio.subprocess.Process, data: bytes) -> bytes:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(render_worker.LENGTH.pack(len(data)) + data)
    await worker.stdin.drain()
    head = await worker.stdout.readexactly(render_worker.LENGTH.size)
    return await worker.stdout.readexactly(render_worker.LENGTH.unpack(head)[0])


_conversations: ContextVar[list[str] | None] = ContextVar("trireme_conversations", default=None)
_vllms_render = harmony_utils.render_for_completion


def _render_or_note(messages: list[Any]) -> list[int]:
    """In place of ``render_for_completion``: the tokens, or none and a note of what to render."""
    noted = _conversations.get()
    if noted is None:
        tokens: list[int] = _vllms_render(messages)
        return tokens
    kept = harmony_utils.auto_drop_analysis_messages(messages)
    noted.append(harmony_utils.Conversation.from_messages(kept).to_json())
    return []


def render_off_loop(renderer: Any, workers: RenderWorkers, max_model_len: int) -> None:
    """Have ``renderer``, vLLM's ``OnlineRenderer``, give its costly work to ``workers``."""
    online_renderer.render_for_completion = _render_or_note
    render_chat, render_responses = renderer.render_chat, renderer.render_responses

    async def noting(render: Callable[[], Awaitable[Any]]) -> tuple[Any, list[int] | None]:
        if render_cost_s.get() <= INLINE_S:
            return await render(), None
        noted: list[str] = []
        token = _conversations.set(noted)
        try:
            result = await render()
        finally:
            _conversations.reset(token)
        if not noted:
            return result, None
        tokens = await workers.render(noted[-1])
        if len(tokens) <= max_model_len:  # others are refused, whatever their headers
            tokens = harmony_utils._use_legacy_tool_call_headers(tokens)
        return result, tokens

    async def chat(request: Any, **options: Any) -> Any:
        result, tokens = await noting(lambda: render_chat(request, **options))
        if tokens is not None and isinstance(result, tuple):
            result[1][0]["prompt_token_ids"] = tokens
        return result

    async def responses(request: Any, **options: Any) -> Any:
        result, tokens = await noting(lambda: render_responses(request, **options))
        if tokens is not None and hasattr(result, "engine_input"):
            result.engine_input["prompt_token_ids"] = tokens
            limits = request.build_tok_params(renderer.model_config)
            limits.apply_post_tokenization(renderer.renderer.tokenizer, result.engine_input)
        return result

    renderer.render_chat, renderer.render_responses = chat, responses
