"""A channel over real sockets for tests: an engine host on loopback, and gateways that connect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cluster.config import OutputTokens, SimulatedEngineConfig
from deployments.engine.channel.client import Endpoint, EngineLink, LinkSettings
from deployments.engine.channel.frames import (
    Output,
    Poison,
    Refused,
    Sampling,
    Step,
    Submit,
    Welcome,
)
from deployments.engine.channel.server import ServerSettings
from deployments.engine.engine import Engine
from deployments.engine.host import EngineHost
from deployments.engine.simulated import SimulatedEngine

SECRET = "a secret of this test"


def server_settings(**changes: object) -> ServerSettings:
    values: dict[str, object] = {
        "secret": SECRET,
        "heartbeat_s": 0.1,
        "dead_after_s": 1.0,
        "max_frame_bytes": 1 << 20,
        "max_buffered_bytes": 1 << 20,
        "max_streams": 1000,
    }
    return ServerSettings(**{**values, **changes})  # type: ignore[arg-type]


def link_settings(**changes: object) -> LinkSettings:
    values: dict[str, object] = {
        "secret": SECRET,
        "gateway_id": "gateway-1",
        "heartbeat_s": 0.1,
        "dead_after_s": 1.0,
        "connect_timeout_s": 1.0,
        "max_frame_bytes": 1 << 20,
    }
    return LinkSettings(**{**values, **changes})  # type: ignore[arg-type]


def quick_engine(max_num_seqs: int = 16, **changes: object) -> SimulatedEngine:
    values: dict[str, object] = {
        "step_ms": {"base": 1, "request": 0.27, "prompt_1k": 28.5},
        "output_tokens_mean": OutputTokens(low=40, medium=60, high=90),
        "output_sigma": 0.3,
        "speed_factor": 1.0,
    }
    config = SimulatedEngineConfig.model_validate({**values, **changes})
    return SimulatedEngine(config, max_num_seqs, 2048, 8192)


def submission(stream: int, tier: str = "low", max_tokens: int = 10_000) -> Submit:
    return Submit(stream, [1, 2, 3, stream], Sampling(max_tokens), 0, tier)


@dataclass
class Recorder:
    """Records what a link tells its gateway."""

    welcomes: list[Welcome] = field(default_factory=list)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    finished: dict[int, int] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    downs: list[Exception | None] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    poisons: list[Poison] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_up(self, link: EngineLink, welcome: Welcome) -> None:
        self.welcomes.append(welcome)
        self.changed.set()

    def on_step(self, link: EngineLink, step: Step) -> None:
        self.steps.append(step)
        for output in step.outputs:
            self._book(output)
        self.changed.set()

    def _book(self, output: Output) -> None:
        self.tokens.setdefault(output.stream, []).extend(output.tokens)
        if output.finish is not None:
            self.finished[output.stream] = output.finish

    def on_refused(self, link: EngineLink, refused: Refused) -> None:
        self.refused.append(refused)
        self.changed.set()

    def on_poison(self, poison: Poison) -> None:
        self.poisons.append(poison)
        self.changed.set()

    def on_down(self, link: EngineLink, error: Exception | None) -> None:
        self.downs.append(error)
        self.changed.set()

    async def until(self, condition: object, timeout_s: float = 10.0) -> None:
        assert callable(condition)
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def running_host(
    engine: Engine, progress_timeout_s: float = 60.0, **changes: object
) -> AsyncIterator[EngineHost]:
    host = EngineHost(engine, "replica-1", server_settings(**changes), progress_timeout_s)
    await host.start("127.0.0.1")
    try:
        yield host
    finally:
        await host.stop()


@asynccontextmanager
async def linked(
    host: EngineHost, recorder: Recorder, **changes: object
) -> AsyncIterator[EngineLink]:
    endpoint = Endpoint("replica-1", "127.0.0.1", host.port)
    link = EngineLink(endpoint, link_settings(**changes), recorder)
    link.open()
    try:
        yield link
    finally:
        await link.close()
