"""The suite over vLLM: engines with the tiny model, and requests of OpenAI's API.

Every engine is a real engine core in a process of its own, on the CPU. Requests are those of
``benchmarks.continuation``, by vLLM's own front-end; what they must give is what the first engine
wrote before there was any fault. So values, order and ends are checked through vLLM's sampler, its
grammars and its KV cache, with the engine's memory too small for all that runs.
"""

import asyncio
import os
import random
import signal
from collections.abc import Callable
from typing import Any

from benchmarks.continuation import (
    CASES,
    CHAT,
    FEW_KV_BLOCKS,
    Answer,
    FrontEnd,
    answers,
    chat,
    cpu_environment,
    make_engine,
    submission,
    tiny_model,
)
from deployments.engine.channel.frames import Submit
from deployments.engine.engine import EngineDead, EngineInfo, EngineStep
from deployments.engine.vllm_engine import VllmEngine
from deployments.tiny_model.processor import HarmonyScript
from tests.chaos.deadly import Deadly, marks
from tests.chaos.harness import Report, run
from tests.chaos.plan import Fault
from tests.chaos.world import FAILOVER, Asked, Node

KINDS = (
    "kill", "drain", "hang", "cut", "blackhole", "deaf", "mute", "delay", "slow", "hang", "cut",
    "slow", "poison",
)  # fmt: skip
"""Those that need a new engine are few, as that takes half a minute. ``kill`` ends the engine core
by SIGKILL; ``poison`` by an exception in it, a segmentation fault or an abort (``deadly.py``)."""

PROMPTS = 4
"""Of each case of ``benchmarks.continuation``."""

DEADLY = 16
"""Requests that kill engines, at most."""

PROCESSORS = [f"{HarmonyScript.__module__}:HarmonyScript", f"{Deadly.__module__}:Deadly"]

STEP_S = 0.02
"""About what a step takes; one that is slowed down waits for so many of them."""


class RealEngine:
    """vLLM's, that hangs and slows down between its steps when it is told to."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self._info: EngineInfo | None = None
        self._gate = asyncio.Event()
        self._gate.set()
        self._factor = 1.0
        self.poisoned = False
        self.submit, self.abort = engine.submit, engine.abort
        self.pack = engine.pack

    async def start(self) -> EngineInfo:
        """Once: the first one has answered before a host takes it."""
        if self._info is None:
            self._info = await self._engine.start()
        return self._info

    async def next_step(self) -> EngineStep:
        await self._gate.wait()
        try:
            step = await self._engine.next_step()
        except EngineDead as dead:
            self.poisoned = not dead.blameless
            raise
        if self._factor > 1.0:
            await asyncio.sleep(STEP_S * self._factor)
        await self._gate.wait()
        return step

    def check(self) -> None:
        try:
            self._engine.check()
        except EngineDead as dead:
            self.poisoned = not dead.blameless
            raise

    def hang(self) -> None:
        self._gate.clear()

    def resume(self) -> None:
        self._gate.set()

    def slow_down(self, factor: float) -> None:
        self._factor = factor

    def kill(self) -> None:
        """The engine core's process is gone at once."""
        for process in self._engine._core._client.resources.engine_manager.processes:
            os.kill(process.pid, signal.SIGKILL)

    def stop(self) -> None:
        # It takes up to five seconds, in which gateways would stand still here.
        asyncio.get_running_loop().run_in_executor(None, self._engine.stop)
        self._gate.set()


def make() -> VllmEngine:
    return make_engine(
        tiny_model(), num_gpu_blocks_override=FEW_KV_BLOCKS, logits_processors=PROCESSORS
    )


def asked_of(submit: Submit, answer: Answer) -> Asked:
    finish = -1 if answer.finish is None else answer.finish
    return Asked(
        "low", submit.prompt_token_ids, submit.sampling, answer.tokens, finish, submit.request
    )


async def deadly_one(front_end: FrontEnd, engine: VllmEngine, number: int) -> Asked:
    """Its answer is that of the same request without the marks."""
    at_token, way = (0, 0, 1, 7, 30)[number % 5], number % 3
    asked = 1000 + number  # a question that nobody else asks
    plain = submission(await front_end.request(CHAT, chat(asked, temperature=0.0)))
    stops = marks(at_token, way)
    marked = await front_end.request(CHAT, chat(asked, temperature=0.0, stop_token_ids=stops))
    (answer,) = await answers(engine, [plain])
    return asked_of(submission(marked), answer)


class RealPlant:
    """Made by ``make``; ``asked`` are its requests with their answers, ``deadly`` those that kill
    engines, with what they would be answered."""

    # A trial of eight tokens takes seconds where three engines share two cores.
    failover = FAILOVER.model_copy(update={"isolation_s": 60.0})

    def __init__(self, first: RealEngine, asked: list[Asked], deadly: list[Asked]) -> None:
        self._first: RealEngine | None = first
        self._asked = asked
        self._deadly = deadly

    @classmethod
    async def make(cls) -> "RealPlant":
        model = tiny_model()
        engine = make()
        first = RealEngine(engine)
        starting = asyncio.create_task(first.start())
        front_end = await FrontEnd.make(model)
        await starting
        requests: list[Any] = [
            await front_end.request(*case(number))
            for case in CASES.values()
            for number in range(PROMPTS)
        ]
        submits = [submission(each) for each in requests]
        whole = await answers(engine, submits)
        asked = [asked_of(*each) for each in zip(submits, whole, strict=True)]
        deadly = [await deadly_one(front_end, engine, number) for number in range(DEADLY)]
        return cls(first, asked, deadly)

    def engine(self) -> RealEngine:
        first, self._first = self._first, None
        return first or RealEngine(make())

    def draw(self, rng: random.Random) -> Asked:
        return rng.choice(self._asked)

    def deadly(self, rng: random.Random, name: str) -> Asked:
        return self._deadly.pop()

    async def kill(self, node: Node) -> None:
        assert isinstance(node.engine, RealEngine)
        node.engine.kill()


async def run_with_vllm(
    faults: int,
    seed: int,
    *,
    kinds: tuple[str, ...] | None,
    clients: int,
    on_fault: Callable[[Fault, int], None],
) -> Report:
    """As ``run``: a third replica takes over from the two that a poisonous request may cost."""
    with cpu_environment():
        plant = await RealPlant.make()
        return await run(
            faults,
            seed,
            kinds=kinds or KINDS,
            clients=clients,
            on_fault=on_fault,
            nodes=3,
            plant=plant,
        )
