"""A replica without a model: seeded Harmony tokens, paced by a step-time model.

It has the interface of a real engine, so that gateways, router and channel run unchanged over
dozens of replicas on a laptop. Its scheduler is the outline of vLLM's: priority order, a running
batch of at most ``max_num_seqs``, prefill within a token budget per step, one token a request and
step. What it writes depends on the prompt and the seed alone, position by position.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from zlib import crc32

from cluster.config import SimulatedEngineConfig, Tier
from deployments.engine.channel.frames import LENGTH, STOP, Output, Submit
from deployments.engine.engine import (
    CoreOutput,
    EngineDead,
    EngineInfo,
    EngineStats,
    EngineStep,
    RequestRefused,
)

CHANNEL, MESSAGE, START, END, RETURN = 200005, 200008, 200006, 200007, 200002
ANALYSIS, FINAL, ASSISTANT = 35644, 17196, 173781
"""o200k_harmony token ids (OpenAI's harmony format; the vLLM research notes verified them)."""

WORDS = (290, 328, 483, 1299, 395, 553, 480, 382, 261, 316)
"""Common words with a leading blank, so that the text reads as text."""

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


@dataclass(slots=True)
class _Running:
    request_id: str
    submit: Submit
    script: list[int]
    position: int = 0
    prefilled: int = 0

    @property
    def prompt_left(self) -> int:
        return len(self.submit.prompt_token_ids) - self.prefilled

    @property
    def kv_tokens(self) -> int:
        return self.prefilled + self.position


@dataclass(slots=True)
class _Output:
    request_id: str
    new_token_ids: list[int]
    finish: int | None
    first: bool

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
    _waiting: list[_Running] = field(default_factory=list)
    _running: dict[str, _Running] = field(default_factory=dict)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _done: deque[_Output] = field(default_factory=deque)
    _next_s: float = 0.0
    _stopped: bool = False

    async def start(self) -> EngineInfo:
        return EngineInfo(self.max_num_seqs, self.max_model_len, self.config.kv_tokens)

    async def submit(self, request_id: str, submit: Submit) -> None:
        if len(submit.prompt_token_ids) >= self.max_model_len:
            raise RequestRefused("prompt is longer than the context", retryable=False)
        if len(self._waiting) >= self.config.max_waiting:
            raise RequestRefused("replica is full", retryable=True)
        script = reply(
            submit.prompt_token_ids, _tier(submit), submit.sampling.seed or 0, self.config
        )
        self._waiting.append(_Running(request_id, submit, script))
        self._waiting.sort(key=lambda request: request.submit.priority)
        self._work.set()

    async def abort(self, request_ids: list[str]) -> None:
        gone = set(request_ids)
        self._waiting = [each for each in self._waiting if each.request_id not in gone]
        for request_id in gone:
            self._running.pop(request_id, None)

    async def next_step(self) -> EngineStep:
        loop = asyncio.get_running_loop()
        while not (self._running or self._waiting):
            self._work.clear()
            await self._work.wait()
            self._next_s = loop.time()
        if self._stopped:
            raise EngineDead("stopped")
        prefill = self._schedule()
        # Pace against a moving target: a late wake-up does not add up over the steps.
        self._next_s = max(self._next_s, loop.time() - 0.1) + self._duration_s(prefill)
        await asyncio.sleep(max(0.0, self._next_s - loop.time()))
        if self._stopped:
            raise EngineDead("stopped")
        return EngineStep(self._decode(), self._stats())

    def _schedule(self) -> int:
        """Fill the batch, advance prefills within the step's budget; returns prefilled tokens."""
        free_kv = self.config.kv_tokens - sum(each.kv_tokens for each in self._running.values())
        while self._waiting and len(self._running) < self.max_num_seqs:
            if len(self._waiting[0].submit.prompt_token_ids) > free_kv and self._running:
                break
            request = self._waiting.pop(0)
            free_kv -= len(request.submit.prompt_token_ids)
            self._running[request.request_id] = request
        budget = self.max_num_batched_tokens - len(self._running)
        prefilled = 0
        for request in self._running.values():
            if request.prompt_left and budget > prefilled:
                chunk = min(request.prompt_left, budget - prefilled)
                request.prefilled += chunk
                prefilled += chunk
        return prefilled

    def _duration_s(self, prefill_tokens: int) -> float:
        config = self.config
        step_s = (
            config.base_step_s
            + config.step_s_per_seq * len(self._running)
            + config.prefill_s_per_token * prefill_tokens
        )
        return step_s / config.speed_factor

    def _decode(self) -> list[CoreOutput]:
        outputs: list[CoreOutput] = []
        for request in list(self._running.values()):
            if request.prompt_left:
                continue
            sampling, first = request.submit.sampling, request.position == 0
            token = request.script[request.position % len(request.script)]
            stops = token == RETURN and not sampling.ignore_eos
            if stops and request.position + 1 < sampling.min_tokens:
                token, stops = WORDS[0], False
            request.position += 1
            finish = STOP if stops else None
            if finish is None and request.position >= sampling.max_tokens:
                finish = LENGTH
            if finish is not None:
                del self._running[request.request_id]
            outputs.append(_Output(request.request_id, [token], finish, first))
        return outputs

    def _stats(self) -> EngineStats:
        used = sum(each.kv_tokens for each in self._running.values()) / self.config.kv_tokens
        return EngineStats(len(self._running), len(self._waiting), min(1.0, used))

    def pack(self, output: CoreOutput, stream: int) -> Output:
        assert isinstance(output, _Output)
        cached = 0 if output.first else None
        return Output(stream, output.new_token_ids, output.finish, None, cached)

    def check(self) -> None:
        if self._stopped:
            raise EngineDead("stopped")

    def stop(self) -> None:
        self._stopped = True
        self._work.set()


def _tier(submit: Submit) -> Tier:
    match submit.tier:
        case "low" | "medium" | "high":
            return submit.tier
        case _:
            raise RequestRefused(f"unknown tier {submit.tier!r}", retryable=False)
