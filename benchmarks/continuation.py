"""Is an answer that is cut and continued the answer that was never cut?

``python -m benchmarks.continuation`` asks a real vLLM engine with the tiny model for an answer to
every prompt of every case, then for the rest of it after each of its tokens, as a gateway does when
the replica before is gone. Tokens, finish reason, stop reason and log-probabilities have to be the
same. Requests are made by vLLM's own front-end from OpenAI's API.

Where a case is about sampling, ``allowed_token_ids`` keeps the tiny model from its script: it then
samples for real, among 128 tokens. The engine computes in float32, since the rounding of bfloat16
depends on the batch, and the tiny model's random weights make near-ties that it would decide.
Half of the continuations find nothing in the prefix cache, as on another engine, and prompts are
cut into chunks. How often requests were preempted is told.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np

from benchmarks.measure import arguments, report
from cluster.config import GatewayConfig, ModelConfig, PoolConfig, TriremeConfig
from deployments.compat import vllm as compat
from deployments.engine.arguments import CPU_ENV, PARSERS, engine_args, front_end_args
from deployments.engine.channel.frames import Sampling, Submit
from deployments.engine.vllm_engine import VllmEngine
from deployments.sources import local_source
from deployments.tiny_model import harmony

MODEL = "gpt-oss-tiny"
MAX_MODEL_LEN = 2048
MAX_NUM_SEQS = 24
BATCHED_TOKENS = 384
"""Less than what a few prompts have together, so that they are computed in chunks."""

AT_ONCE = 240
"""Requests in the engine, running and waiting."""

FEW_KV_BLOCKS = 160
"""Of 32 tokens: not enough for all that could run at once."""

LOGPROB_TOLERANCE = 1e-3

POOL = tuple(range(100_000, 164_000, 500))
"""128 tokens that no script speaks."""

WORDS = [
    "sea",
    "salt",
    "harbour",
    "oar",
    "wind",
    "island",
    "tide",
    "mast",
    "anchor",
    "shore",
    "reef",
    "current",
    "keel",
    "lantern",
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

Body = dict[str, Any]


# ------------------------------------------------------------------------ what is asked


def question(number: int) -> str:
    first, second = WORDS[number % len(WORDS)], WORDS[(number * 5 + 3) % len(WORDS)]
    return f"Question {number}: what has the {first} to do with the {second}?"


def chat(number: int, **more: Any) -> Body:
    messages = [{"role": "user", "content": more.pop("ask", question(number))}]
    effort = {"model": MODEL, "reasoning_effort": "low", "max_tokens": 400, "seed": 1000 + number}
    return {"messages": messages, **effort, **more}


def sampled(number: int, **more: Any) -> Body:
    """Real sampling: no token of the script is allowed."""
    return chat(number, **{"allowed_token_ids": POOL, "max_tokens": 32, "temperature": 1.0, **more})


def greedy(number: int) -> tuple[str, Body]:
    return CHAT, chat(number, temperature=0.0)


def seeded(number: int) -> tuple[str, Body]:
    narrower = ({}, {"top_p": 0.9}, {"top_k": 40}, {"temperature": 0.7, "min_p": 0.02})[number % 4]
    return CHAT, sampled(number, **narrower)


def stop_tokens(number: int) -> tuple[str, Body]:
    return CHAT, sampled(number, stop_token_ids=POOL[number % 8 :: 32], max_tokens=48)


def penalties(number: int) -> tuple[str, Body]:
    """Every second one greedy. Its stop token is the likeliest, and has to wait for token 14."""
    favoured = {str(token): 2.0 + 0.25 * place for place, token in enumerate(POOL[1:13])}
    return CHAT, sampled(
        number,
        temperature=float(number % 2),
        presence_penalty=1.3,
        frequency_penalty=0.9,
        repetition_penalty=1.2,
        logit_bias={**favoured, str(POOL[0]): 9.0},
        stop_token_ids=[POOL[0]],
        min_tokens=14,
    )


def bad_words(number: int) -> tuple[str, Body]:
    """Of four likely tokens, many must not follow each other."""
    likely = (100_500, 101_000, 102_500, 103_500)
    pairs = [(one, other) for one in likely for other in likely if (one + other) % 3]
    words = [harmony.decode(pair) for pair in pairs]
    favoured = {str(token): 8.0 for token in likely}
    return CHAT, sampled(number, logit_bias=favoured, bad_words=words)


def logprobs(number: int) -> tuple[str, Body]:
    return CHAT, sampled(number, logprobs=True, top_logprobs=5)


def tools(number: int) -> tuple[str, Body]:
    ask = f"What is the weather in {WORDS[number % len(WORDS)].title()} {number}? Use the tool."
    choice = ("auto", "required")[number % 2]
    return CHAT, chat(number, ask=ask, tools=[WEATHER], tool_choice=choice)


def json_schema(number: int) -> tuple[str, Body]:
    schema = {"name": "person", "strict": True, "schema": PERSON}
    wanted = {"type": "json_schema", "json_schema": schema}
    ask = f"Who is number {number}?"
    return CHAT, chat(number, ask=ask, response_format=wanted, max_tokens=120)


def responses(number: int) -> tuple[str, Body]:
    effort = {"effort": "low"}
    more = {"max_output_tokens": 400, "temperature": 0.5, "store": False}
    return RESPONSES, {"model": MODEL, "input": question(number), "reasoning": effort, **more}


CASES = {
    "greedy": greedy,
    "seeded": seeded,
    "stop tokens": stop_tokens,
    "penalties": penalties,
    "bad words": bad_words,
    "log-probabilities": logprobs,
    "tools": tools,
    "JSON schema": json_schema,
    "Responses API": responses,
}


# ------------------------------------------------------------------------ a front-end that asks


class Recorder:
    """The core of a front-end: keeps every request, and ends it with its first token."""

    def __init__(self) -> None:
        self.engine_ranks_managed = [0]
        self.resources: Any = SimpleNamespace(engine_dead=False)
        self.requests: list[Any] = []
        self._steps: asyncio.Queue[Any] = asyncio.Queue()

    async def add_request_async(self, request: Any) -> None:
        self.requests.append(request)
        end = compat.EngineCoreOutput(
            request.request_id, [200002], finish_reason=compat.FinishReason.ABORT
        )
        await self._steps.put(compat.EngineCoreOutputs(outputs=[end]))

    async def get_output_async(self) -> Any:
        return await self._steps.get()

    async def abort_requests_async(self, request_ids: list[str]) -> None: ...

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self, timeout: float | None = None) -> None: ...


class FrontEnd:
    """vLLM's own application, which turns a body of OpenAI's API into an engine's request."""

    def __init__(self, app: Any, recorder: Recorder) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://front-end")
        self._recorder = recorder

    @classmethod
    async def make(cls, model: ModelConfig) -> "FrontEnd":
        recorder = Recorder()
        args = front_end_args(model, GatewayConfig())
        namespace = compat.parse_args(local_source(model), args, *PARSERS)
        client = await asyncio.to_thread(compat.make_front_end, namespace, recorder)
        return cls(await compat.front_end_app(namespace, client), recorder)

    async def request(self, path: str, body: Body) -> Any:
        """The engine's request that this body becomes. What the front-end answers is of no use:
        its engine said nothing."""
        self._recorder.requests.clear()
        answer = await self._http.post(path, json=body)
        if len(self._recorder.requests) != 1:
            raise ValueError(f"{path} did not ask the engine once: {answer.text[:500]}")
        request = self._recorder.requests[0]
        if request.sampling_params.seed is None:
            request.sampling_params.seed = 77  # as gateways do
        return request


# ------------------------------------------------------------------------ an engine that answers


@dataclass
class Answer:
    """What an engine wrote for one submission; ``logprobs`` a row for each token."""

    tokens: list[int] = field(default_factory=list)
    finish: int | None = None
    stop_reason: int | str | None = None
    logprobs: list[Any] = field(default_factory=list)

    def is_rest_of(self, whole: "Answer", cut: int) -> bool:
        return (
            self.tokens == whole.tokens[cut:]
            and (self.finish, self.stop_reason) == (whole.finish, whole.stop_reason)
            and len(self.logprobs) == len(whole.logprobs[cut:])
            and all(map(_close, self.logprobs, whole.logprobs[cut:]))
        )


def _close(one: Any, other: Any) -> bool:
    # The token's own comes first, the others by rank.
    return bool(np.allclose(one, other, atol=LOGPROB_TOLERANCE))


def submission(request: Any, emitted: Sequence[int] = (), salt: str | None = None) -> Submit:
    """As a gateway would send it. Another ``salt`` finds nothing in the prefix cache."""
    params = request.sampling_params
    request.cache_salt = salt
    sampling = Sampling(params.max_tokens, params.min_tokens, params.seed, params.ignore_eos)
    encoded = compat.encode_request(request)
    prompt = list(request.prompt_token_ids)
    return Submit(0, prompt, sampling, 0, "low", encoded, list(emitted))


async def answers(engine: VllmEngine, submits: Sequence[Submit]) -> list[Answer]:
    """The engine's answers, in order, with ``AT_ONCE`` of them under way."""
    done = [Answer() for _ in submits]
    left, running = iter(enumerate(submits)), 0
    while True:
        while running < AT_ONCE and (following := next(left, None)) is not None:
            await engine.submit(str(following[0]), following[1])
            running += 1
        if not running:
            return done
        for output in (await engine.next_step()).outputs:
            packed = engine.pack(output, 0)
            answer = done[int(output.request_id)]
            answer.tokens += packed.tokens
            if packed.details is not None:
                rows = compat.decode_output(packed.details).new_logprobs
                answer.logprobs += [] if rows is None else list(rows.logprobs)
            if packed.finish is not None:
                answer.finish, answer.stop_reason = packed.finish, packed.stop_reason
                running -= 1


def tiny_model() -> ModelConfig:
    values = {"name": MODEL, "source": "tiny", "max_model_len": MAX_MODEL_LEN, "pools": [{}]}
    return TriremeConfig.model_validate({"models": [values]}).models[0]


def make_engine(model: ModelConfig, **more: Any) -> VllmEngine:
    """An engine with the product's own arguments, and ``more`` of vLLM's."""
    pool = PoolConfig.model_validate(
        {
            "name": "main",
            "max_num_seqs": MAX_NUM_SEQS,
            "max_num_batched_tokens": BATCHED_TOKENS,
            "tensor_parallel_size": more.pop("tensor_parallel_size", 1),
            "engine_args": {"enforce_eager": True, "dtype": "float32", "block_size": 32, **more},
        }
    )
    return VllmEngine(local_source(model), engine_args(model, pool))


@contextmanager
def cpu_environment() -> Iterator[None]:
    """What Trireme sets for an engine on CPUs, and imports for its processes, for a while."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    wanted = {**CPU_ENV, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ------------------------------------------------------------------------ cut and continued


@dataclass
class Tally:
    """``wrong`` are the (prompt, cut) whose continuation differs; ``preempted`` counts how often
    any request lost its KV cache."""

    prompts: int = 0
    cuts: int = 0
    tokens: int = 0
    preempted: int = 0
    wrong: list[tuple[int, int]] = field(default_factory=list)


def cut_everywhere(request: Any, whole: Answer) -> Iterator[Submit]:
    """The rest of the answer after each of its tokens but the last, which ends it."""
    for cut in range(1, len(whole.tokens)):
        yield submission(request, whole.tokens[:cut], f"cut {cut}" if cut % 2 else None)


async def tally(engine: VllmEngine, requests: Sequence[Any]) -> Tally:
    """Ask for every answer, then for all its rests."""
    counts = Tally(prompts=len(requests), preempted=-engine._core.preemptions)
    wholes = await answers(engine, [submission(request) for request in requests])
    cuts = [
        (number, cut) for number, each in enumerate(wholes) for cut in range(1, len(each.tokens))
    ]
    submits = [
        submit
        for request, whole in zip(requests, wholes, strict=True)
        for submit in cut_everywhere(request, whole)
    ]
    for (number, cut), rest in zip(cuts, await answers(engine, submits), strict=True):
        counts.cuts += 1
        counts.tokens += len(rest.tokens)
        if not rest.is_rest_of(wholes[number], cut):
            counts.wrong.append((number, cut))
    counts.preempted += engine._core.preemptions
    return counts


async def measure(
    prompts: int, cases: Iterable[str], engine_options: dict[str, Any]
) -> dict[str, Tally]:
    model = tiny_model()
    with cpu_environment():
        front_end = await FrontEnd.make(model)
        engine = make_engine(model, **engine_options)
        info = await engine.start()
        print(f"exact sampling: {info.exact_sampling}, KV cache: {info.kv_tokens} tokens")
        try:
            tallies = {}
            for case in cases:
                started = time.monotonic()
                asked = [await front_end.request(*CASES[case](each)) for each in range(prompts)]
                tallies[case] = await tally(engine, asked)
                found = tallies[case]
                print(
                    f"{case}: {found.cuts} cuts, {found.tokens} tokens, "
                    f"{found.preempted} preempted, {len(found.wrong)} wrong "
                    f"{found.wrong[:5]}, {time.monotonic() - started:.0f} s",
                    flush=True,
                )
            return tallies
        finally:
            engine.stop()


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--prompts", type=int, default=50, help="prompts of each case")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one (repeatable)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--kv-blocks", type=int, default=FEW_KV_BLOCKS, help="0: a GB of them")
    options = parser.parse_args()
    prompts = min(options.prompts, 4) if options.quick else options.prompts
    engine_options = {
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel_size,
    }
    if options.kv_blocks:
        engine_options["num_gpu_blocks_override"] = options.kv_blocks
    found = asyncio.run(measure(prompts, options.case or CASES, engine_options))
    rows = [
        (case, *map(str, (each.prompts, each.cuts, each.tokens, each.preempted, len(each.wrong))))
        for case, each in found.items()
    ]
    figures = {
        f"{case}/{name}": float(value)
        for case, each in found.items()
        for name, value in (("cuts", each.cuts), ("wrong", len(each.wrong)))
    }
    columns = ("case", "prompts", "cuts", "tokens after cuts", "preempted", "wrong")
    report("Answers cut at every token and continued", columns, rows, figures, options.json)


if __name__ == "__main__":
    main()
