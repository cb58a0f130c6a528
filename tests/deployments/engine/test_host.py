"""An engine behind its host: health, death, and a stuck engine."""

import asyncio

import pytest

from deployments.engine.channel.frames import Output, Submit
from deployments.engine.engine import CoreOutput, EngineDead, EngineInfo, EngineStep
from tests.deployments.engine.channel_world import (
    Recorder,
    linked,
    quick_engine,
    running_host,
    submission,
)


class StuckEngine:
    """Takes requests and never makes a step."""

    async def start(self) -> EngineInfo:
        return EngineInfo(4, 1000, 1000)

    async def submit(self, request_id: str, submit: Submit) -> None: ...

    async def abort(self, request_ids: list[str]) -> None: ...

    async def next_step(self) -> EngineStep:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def pack(self, output: CoreOutput, stream: int) -> Output:
        raise AssertionError("no outputs")

    def check(self) -> None: ...

    def stop(self) -> None: ...


async def test_an_idle_engine_is_healthy_however_long_it_idles() -> None:
    async with running_host(quick_engine(), progress_timeout_s=0.05) as host:
        await asyncio.sleep(0.2)
        host.check()


async def test_an_engine_with_work_and_no_step_is_unhealthy_after_the_timeout() -> None:
    recorder = Recorder()
    async with (
        running_host(StuckEngine(), progress_timeout_s=0.3) as host,
        linked(host, recorder) as link,
    ):
        await recorder.until(lambda: recorder.welcomes)
        await asyncio.sleep(0.5)
        link.submit(submission(1))
        await asyncio.sleep(0.1)
        host.check()  # idle time before the request does not count
        await asyncio.sleep(0.5)
        with pytest.raises(EngineDead, match="no step"):
            host.check()


async def test_when_the_engine_dies_gateways_know_at_once() -> None:
    recorder = Recorder()
    engine = quick_engine()
    async with running_host(engine) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        link.submit(submission(1, tier="high", max_tokens=8000))
        await recorder.until(lambda: recorder.tokens.get(1))
        engine.stop()
        await recorder.until(lambda: recorder.downs, timeout_s=1.0)
        with pytest.raises(EngineDead):
            host.check()
        assert host.pending == 0
