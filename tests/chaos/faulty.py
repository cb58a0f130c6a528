"""A simulated engine that hangs, slows down and dies when it is told to, or by what it is asked."""

import asyncio
from dataclasses import dataclass, field

from deployments.engine.channel.frames import Submit
from deployments.engine.engine import EngineDead, EngineStep
from deployments.engine.simulated import SimulatedEngine

POISON = 199_000
"""A prompt that begins with this token kills the engine: in the step that computes it, or, if a
number follows, when that many tokens of the answer are written."""


def poison(name: str, at_token: int = 0) -> list[int]:
    """A prompt that kills engines at its output token ``at_token``."""
    return [POISON, at_token, *name.encode()]


@dataclass
class FaultyEngine(SimulatedEngine):
    """``deaths`` of engines are counted by who made them."""

    poisoned: bool = False
    _killed: bool = False
    _gate: asyncio.Event = field(default_factory=asyncio.Event)
    _deadly: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._gate.set()

    def hang(self) -> None:
        """No more steps, with the process alive, until ``resume``."""
        self._gate.clear()

    def resume(self) -> None:
        self._gate.set()

    def die(self) -> None:
        """Its process is killed from outside."""
        self._killed = True
        self.stop()

    def check(self) -> None:
        try:
            super().check()
        except EngineDead as dead:
            raise EngineDead(str(dead), blameless=self._killed) from dead

    def slow_down(self, factor: float) -> None:
        """Steps take ``factor`` times as long as the step model says."""
        self._model.set_slowdown(factor, self._now())

    async def submit(self, request_id: str, submit: Submit) -> None:
        await super().submit(request_id, submit)
        prompt = submit.prompt_token_ids
        if prompt[0] == POISON:
            self._deadly[request_id] = prompt[1]

    async def abort(self, request_ids: list[str]) -> None:
        await super().abort(request_ids)
        for request_id in request_ids:
            self._deadly.pop(request_id, None)

    async def next_step(self) -> EngineStep:
        await self._gate.wait()
        try:
            step = await super().next_step()
        except EngineDead as dead:
            raise EngineDead(str(dead), blameless=self._killed) from dead
        await self._gate.wait()
        for output in step.outputs:
            at_token = self._deadly.get(output.request_id)
            running = self._running.get(output.request_id)
            if at_token is not None and (running is None or running.sent >= at_token):
                self.poisoned = True
                raise EngineDead("an illegal memory access was encountered")
        return step

    def stop(self) -> None:
        super().stop()
        self._gate.set()
