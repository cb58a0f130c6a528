"""vLLM's own OpenAI application over a scripted engine core, behind our door."""

import asyncio
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")

import httpx
import numpy
from vllm.v1.outputs import LogprobsLists

from cluster.config import Tier
from cluster.errors import TriremeError
from deployments.compat import vllm as compat
from deployments.gateway.context import RequestContext, current_request
from deployments.gateway.contract.asgi import ASGIApp
from deployments.gateway.contract.door import Door
from deployments.gateway.contract.limits import Limits
from deployments.router.tiers import served_names

MODEL = "org/tiny"
MAX_MODEL_LEN = 8192
EFFORT_TOKENS = {4465: "low", 14093: "medium", 1932: "high"}

# <|channel|>analysis<|message|>The user<|end|><|start|>assistant<|channel|>final<|message|>Hello
# there<|return|>
HELLO = [200005, 35644, 200008, 976, 1825, 200007, 200006, 173781]
HELLO += [200005, 17196, 200008, 13225, 1354, 200002]

Script = Callable[["ScriptedCore", Any, RequestContext], Any]


def likely(token: int, others: int) -> LogprobsLists:
    """The token was almost certain, and these are what else it might have been."""
    tokens = [token, *(each for each in range(others + 1) if each != token)][: others + 1]
    chances = [-0.01, *(-5.0 - place for place in range(others))]
    return LogprobsLists(numpy.array([tokens]), numpy.array([chances]), numpy.array([1]))


class ScriptedCore:
    """What ``AsyncLLM`` believes to be its engine. ``script`` says what becomes of a request."""

    def __init__(self) -> None:
        self.engine_ranks_managed = [0]
        # One queue for good: vLLM waits on it all the time.
        self.steps: asyncio.Queue[compat.EngineCoreOutputs] = asyncio.Queue()
        self.resources = types.SimpleNamespace(engine_dead=False)
        self.client: Any = None
        self.reset()

    def reset(self) -> None:
        self.script: Script = say_hello
        self.requests: list[compat.EngineCoreRequest] = []
        self.contexts: list[RequestContext] = []
        self.aborted: list[str] = []
        self.arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def add_request_async(self, request: compat.EngineCoreRequest) -> None:
        context = current_request.get()
        self.requests.append(request)
        self.contexts.append(context)
        self.arrived.set()
        task = asyncio.create_task(self.script(self, request, context))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def get_output_async(self) -> compat.EngineCoreOutputs:
        return await self.steps.get()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        self.aborted += request_ids

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self, timeout: float | None = None) -> None:
        for task in self._tasks:
            task.cancel()

    async def say(self, request: compat.EngineCoreRequest, token: int, last: bool = False) -> None:
        await self.write(request, token, compat.FinishReason.STOP if last else None)

    async def write(
        self, request: compat.EngineCoreRequest, token: int, finish: compat.FinishReason | None
    ) -> None:
        """One token, with as many alternatives as the request asks for."""
        output = compat.EngineCoreOutput(request.request_id, [token], finish_reason=finish)
        params = request.sampling_params
        if params is not None and params.logprobs is not None:
            output.new_logprobs = likely(token, params.logprobs)
        await self.steps.put(compat.EngineCoreOutputs(outputs=[output]))
        await asyncio.sleep(0.001)

    def rendered_effort(self) -> str:
        """The effort word in the newest request's prompt."""
        prompt = self.requests[-1].prompt_token_ids
        assert prompt is not None
        return next(EFFORT_TOKENS[token] for token in prompt[:60] if token in EFFORT_TOKENS)


async def say_hello(core: ScriptedCore, request: Any, context: RequestContext) -> None:
    context.replica_id = "replica-7"
    context.settled = True
    for token in HELLO:
        await core.say(request, token, last=token == HELLO[-1])


async def never_answer(core: ScriptedCore, request: Any, context: RequestContext) -> None:
    """The request waits in a queue for ever."""


async def never_end(core: ScriptedCore, request: Any, context: RequestContext) -> None:
    context.settled = True
    for token in HELLO[:-1]:
        await core.say(request, token)
    while True:
        await core.say(request, 1354)


def fail_after(tokens: int, error: TriremeError) -> Script:
    async def script(core: ScriptedCore, request: Any, context: RequestContext) -> None:
        context.settled = tokens > 0
        for token in HELLO[:tokens]:
            await core.say(request, token)
        await asyncio.sleep(0.05 if tokens else 0)
        context.fail(error)
        compat.fail_request(core.client, request.request_id, error)

    return script


class World:
    """A door over one real front-end; ``http`` talks to it without a socket."""

    def __init__(
        self, core: ScriptedCore, app: ASGIApp, max_model_len: int, max_body_bytes: int
    ) -> None:
        self.core = core
        self.app = app
        self.done: list[tuple[RequestContext, int]] = []
        self.is_ready = True
        self.served_instead: dict[Tier, Tier] = {}
        self._max_model_len = max_model_len
        self._max_body_bytes = max_body_bytes
        self.door = self.make_door(
            ready=lambda: self.is_ready,
            on_done=lambda context, status: self.done.append((context, status)),
        )
        transport = httpx.ASGITransport(self.door, raise_app_exceptions=True)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    def make_door(self, **changes: Any) -> Door:
        """A door over the same front-end, always ready unless told otherwise."""
        plain: dict[str, Any] = {
            "default_tier": "medium",
            "limits": Limits(self._max_body_bytes, max_unbroken_run_chars=4000),
            "max_model_len": {MODEL: self._max_model_len},
            "ready": lambda: True,
            "metrics": self._metrics,
            "clock": asyncio.get_running_loop().time,
            "on_done": lambda context, status: None,
            "tier_to_serve": lambda model, tier: self.served_instead.get(tier, tier),
        }
        return Door({MODEL: self.app}, served_names({MODEL: ("tiny",)}), **{**plain, **changes})

    async def _metrics(self) -> tuple[bytes, str]:
        return b"trireme_up 1\n", "text/plain; version=0.0.4"

    def reset(self) -> None:
        self.core.reset()
        self.done.clear()
        self.is_ready = True
        self.served_instead = {}

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, json=body, headers=named)


async def make_world(
    directory: Path, max_model_len: int = MAX_MODEL_LEN, max_body_bytes: int = 1_000_000
) -> World:
    """``directory`` holds the tiny model, of which only configuration and tokenizer are read."""
    namespace = compat.parse_args(
        str(directory),
        {
            "served_model_name": MODEL,
            "max_model_len": max_model_len,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 2048,
            "enforce_eager": True,
            "tool_call_parser": "openai",
            "enable_auto_tool_choice": True,
            "scheduling_policy": "priority",
        },
    )
    core = ScriptedCore()
    core.client = await asyncio.to_thread(compat.make_front_end, namespace, core)
    app = await compat.front_end_app(namespace, core.client)
    return World(core, app, max_model_len, max_body_bytes)


CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
RESPONSES: dict[str, Any] = {"model": MODEL, "input": "hi"}
MESSAGES: dict[str, Any] = {**CHAT, "max_tokens": 100}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": "hi"}

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/completions": COMPLETION,
}
