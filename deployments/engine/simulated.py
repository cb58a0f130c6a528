"""A replica without a model: seeded Harmony tokens, at the pace of the engine model.

It has the interface of a real engine, so that gateways, router and channel run unchanged over
dozens of replicas on a laptop. Scheduler, KV cache and step times are those of the simulator
(``deployments.engine.model``), one step at a time on the event loop's clock. What it writes depends
on the prompt and the seed alone, position by position.
"""

import asyncio
import math
import random
from dataclasses import dataclass, field
from zlib import crc32

from cluster.config import SimulatedEngineConfig, Tier
from cluster.facts import KV_BLOCK_TOKENS
from cluster.pool_steps import step_times
from deployments.engine.channel.frames import LENGTH, STOP, Output, Sampling, Submit
from deployments.engine.engine import (
    CoreOutput,
    EngineDead,
    EngineInfo,
    EngineStats,
    EngineStep,
    RequestRefused,
)
from deployments.engine.model import (
    EngineFull,
    EngineLimits,
    EngineModel,
    EventKind,
    PromptText,
    TooLarge,
    Work,
)

CHANNEL, MESSAGE, START, END, RETURN = 200005, 200008, 200006, 200007, 200002
ANALYSIS, FINAL, ASSISTANT = 35644, 17196, 173781
"""o200k_harmony token ids (OpenAI's harmony format; the vLLM research notes verified them)."""

WORDS = (290, 328, 483, 1299, 395, 553, 480, 382, 261, 316)
"""Common words with a leading blank, so that the text reads as text."""

MOST_BEHIND_S = 0.1
"""An engine that the event loop woke late makes up for so much, and slips by the rest."""

ANSWER_TOKENS = 12
"""Tokens of the answer, markup not counted; the rest of a reply is analysis."""


def reply(
    prompt_token_ids: list[int], tier: Tier, seed: int, config: SimulatedEngineConfig
) -> list[int]:
    """The whole reply to a prompt: deterministic for (prompt, tier, seed, config.seed)."""
    digest = crc32(b"".join(token.to_bytes(4, "big") for token in prompt_token_ids))
    rng = random.Random(f"{config.seed}/{seed}/{digest}/{tier}")
    mean, sigma = config.output_tokens_mean.of(tier), config.output_sigma
    length = mean * rng.lognormvariate(-sigma * sigma / 2.0, sigma)
    markup = [CHANNEL, ANALYSIS, MESSAGE], [END, START, ASSISTANT, CHANNEL, FINAL, MESSAGE]
    thinking = max(1, round(length) - ANSWER_TOKENS - sum(map(len, markup)) - 1)
    return [
        *markup[0],
        *rng.choices(WORDS, k=thinking),
        *markup[1],
        *rng.choices(WORDS, k=ANSWER_TOKENS),
        RETURN,
    ]


def block_hashes(prompt_token_ids: list[int], salt: str = "") -> PromptText:
    """The prompt's whole KV blocks, each known by its tokens and all before them, and the salt."""
    parts: list[tuple[int, int]] = []
    before = hash(salt) if salt else 0
    for start in range(0, len(prompt_token_ids) - KV_BLOCK_TOKENS + 1, KV_BLOCK_TOKENS):
        before = hash((before, *prompt_token_ids[start : start + KV_BLOCK_TOKENS]))
        parts.append((before, 1))
    return tuple(parts)


@dataclass(slots=True)
class _Running:
    """A request in the engine. ``earlier`` tokens of its ``total`` come from another replica."""

    request_id: str
    script: list[int]
    returns: bool
    finish: int
    work: Work
    earlier: int
    sent: int

    @property
    def total(self) -> int:
        return self.earlier + self.work.output_tokens

    def tokens(self, upto: int) -> list[int]:
        """What it writes from where it was up to the token number ``upto``."""
        script, size = self.script, len(self.script)
        start, self.sent = self.sent, upto
        if upto < size:
            return script[start:upto]  # before its last one, which alone may be another
        written = []
        for position in range(start, upto):
            token = script[position % size]
            if token == RETURN and not self.returns and position + 1 < self.total:
                token = WORDS[0]
            written.append(token)
        return written


@dataclass(slots=True)
class _Output:
    request_id: str
    new_token_ids: list[int]
    finish: int | None
    cached_tokens: int | None

    @property
    def finished(self) -> bool:
        return self.finish is not None


@dataclass
class SimulatedEngine:
    """See the module's text. ``max_num_batched_tokens`` is the token budget of a step."""

    config: SimulatedEngineConfig
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    tensor_parallel_size: int = 1
    _running: dict[str, _Running] = field(default_factory=dict)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _origin_s: float = 0.0
    _stopped: bool = False

    def __post_init__(self) -> None:
        limits = EngineLimits(
            self.max_num_seqs,
            self.max_num_batched_tokens,
            kv_blocks=self.config.kv_tokens // KV_BLOCK_TOKENS,
            max_waiting=self.config.max_waiting,
        )
        steps = step_times(self.config, self.tensor_parallel_size)
        self._model = EngineModel(steps, limits, max_leap=1)

    async def start(self) -> EngineInfo:
        self._origin_s = asyncio.get_running_loop().time()
        return EngineInfo(self.max_num_seqs, self.max_model_len, self.config.kv_tokens)

    async def submit(self, request_id: str, submit: Submit) -> None:
        prompt, sampling = submit.prompt_token_ids, submit.sampling
        earlier = len(submit.emitted)
        if len(prompt) >= self.max_model_len:
            raise RequestRefused("prompt is longer than the context", retryable=False)
        script = reply(prompt, _tier(submit), sampling.seed or 0, self.config)
        tokens, finish = _end(script, sampling, self.max_model_len - len(prompt))
        left = tokens - earlier
        if left < 1:
            raise RequestRefused("the answer is complete", retryable=False)
        now = self._now()
        # To the scheduler, what another replica wrote is more prompt.
        text = block_hashes([*prompt, *submit.emitted], submit.cache_salt)
        work = Work(request_id, len(prompt) + earlier, left, submit.priority, now, text)
        try:
            self._model.submit(work, now)
        except EngineFull:
            raise RequestRefused("replica is full", retryable=True) from None
        except TooLarge:
            raise RequestRefused("request is larger than the KV cache", retryable=False) from None
        self._running[request_id] = _Running(
            request_id, script, sampling.ignore_eos, finish, work, earlier, earlier
        )
        self._work.set()

    async def abort(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            if self._running.pop(request_id, None) is not None:
                self._model.abort(request_id, self._now())

    async def next_step(self) -> EngineStep:
        while not self._running and not self._stopped:
            self._work.clear()
            await self._work.wait()
        if self._stopped:
            raise EngineDead("stopped")
        # What is due stays due: a late wake-up does not add up over the steps.
        due_s = self._model.next_event_s()
        if due_s == math.inf:
            # Everything here ended while another request came or left, and is still to be told.
            due_s = self._now()
        behind_s = (self._now() - due_s) / self.config.speed_factor
        if behind_s > MOST_BEHIND_S:
            self._origin_s += behind_s - MOST_BEHIND_S
        await asyncio.sleep(max(0.0, -behind_s))
        if self._stopped:
            raise EngineDead("stopped")
        return EngineStep(self._outputs(due_s), self._stats(due_s))

    def _now(self) -> float:
        """The engine model's time: that of the event loop since the start, sped up."""
        passed_s = asyncio.get_running_loop().time() - self._origin_s
        return passed_s * self.config.speed_factor

    def _outputs(self, now: float) -> list[CoreOutput]:
        model = self._model
        outputs: list[CoreOutput] = []
        for event in model.advance(now):
            if event.kind is EventKind.FINISHED:
                request = self._running.pop(str(event.work.work_id), None)
                if request is not None:
                    outputs.append(self._output(request, request.total, request.finish))
        running = self._running.values()
        written = model.emitted_by_each([request.work for request in running], now)
        for request, tokens in zip(running, written, strict=True):
            upto = request.earlier + tokens
            if upto > request.sent:
                outputs.append(self._output(request, upto, None))
        return outputs

    @staticmethod
    def _output(request: _Running, written: int, finish: int | None) -> _Output:
        cached = None
        if request.sent == request.earlier:
            cached = min(request.work.cached_tokens, request.work.prompt_tokens - request.earlier)
        return _Output(request.request_id, request.tokens(written), finish, cached)

    def _stats(self, now: float) -> EngineStats:
        load = self._model.load(now)
        return EngineStats(load.running, load.waiting, load.kv_use, self._model.preemptions)

    def pack(self, output: CoreOutput, stream: int) -> Output:
        assert isinstance(output, _Output)
        return Output(stream, output.new_token_ids, output.finish, None, output.cached_tokens)

    def check(self) -> None:
        if self._stopped:
            raise EngineDead("stopped")

    def stop(self) -> None:
        self._stopped = True
        self._work.set()


def _end(script: list[int], sampling: Sampling, room: int) -> tuple[int, int]:
    """(tokens, finish code): after a whole script, repeated until ``min_tokens`` are written, or at
    a limit, whichever comes first."""
    limit = max(1, min(sampling.max_tokens, room))
    if sampling.ignore_eos:
        return limit, LENGTH
    whole = math.ceil(max(1, sampling.min_tokens) / len(script)) * len(script)
    return (whole, STOP) if whole <= limit else (limit, LENGTH)


def _tier(submit: Submit) -> Tier:
    match submit.tier:
        case "low" | "medium" | "high":
            return submit.tier
        case _:
            raise RequestRefused(f"unknown tier {submit.tier!r}", retryable=False)
