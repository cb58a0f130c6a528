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
    FEW_KV_BLOCKS,
    FrontEnd,
    answers,
    cpu_environment,
    make_engine,
    submission,
    tiny_model,
)
from deployments.engine.engine import EngineInfo, EngineStep
from deployments.engine.vllm_engine import VllmEngine
from tests.chaos.harness import Report, run
from tests.chaos.plan import Fault
from tests.chaos.world import Asked, Node

KINDS = (
    "kill", "drain", "hang", "cut", "blackhole", "deaf", "mute", "delay", "slow", "hang", "cut",
    "slow",
)  # fmt: skip
"""Those that need a new engine are few, as that takes half a minute. ``kill`` ends the engine core
by SIGKILL; no request is poison, as none kills a real engine that we would not have to mend."""

PROMPTS = 4
"""Of each case of ``benchmarks.continuation``."""

STEP_S = 0.02
"""About what a step takes; one that is slowed down waits for so many of them."""


class RealEngine:
    """vLLM's, that hangs and slows down between its steps when it is told to."""

    poisoned = False

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self._info: EngineInfo | None = None
        self._gate = asyncio.Event()
        self._gate.set()
        self._factor = 1.0
        self.submit, self.abort = engine.submit, engine.abort
        self.pack, self.check = engine.pack, engine.check

    async def start(self) -> EngineInfo:
        """Once: the first one has answered before a host takes it."""
        if self._info is None:
            self._info = await self._engine.start()
        return self._info

    async def next_step(self) -> EngineStep:
        await self._gate.wait()
        step = await self._engine.next_step()
        if self._factor > 1.0:
            await asyncio.sleep(STEP_S * self._factor)
        await self._gate.wait()
        return step

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


class RealPlant:
    """Made by ``make``; ``asked`` are its requests with their answers."""

    def __init__(self, first: RealEngine, asked: list[Asked]) -> None:
        self._first: RealEngine | None = first
        self._asked = asked
        self._model = tiny_model()

    @classmethod
    async def make(cls) -> "RealPlant":
        model = tiny_model()
        engine = make_engine(model, num_gpu_blocks_override=FEW_KV_BLOCKS)
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
        asked = [
            Asked(
                "low", submit.prompt_token_ids, submit.sampling, answer.tokens,
                -1 if answer.finish is None else answer.finish, submit.request,
            )
            for submit, answer in zip(submits, whole, strict=True)
        ]  # fmt: skip
        return cls(first, asked)

    def engine(self) -> RealEngine:
        first, self._first = self._first, None
        return first or RealEngine(make_engine(self._model, num_gpu_blocks_override=FEW_KV_BLOCKS))

    def draw(self, rng: random.Random) -> Asked:
        return rng.choice(self._asked)

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
    """As ``run``, with two replicas: more do not fit into a small machine's time."""
    with cpu_environment():
        plant = await RealPlant.make()
        return await run(
            faults,
            seed,
            kinds=kinds or KINDS,
            clients=clients,
            on_fault=on_fault,
            nodes=2,
            plant=plant,
        )
