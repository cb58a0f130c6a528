"""An engine behind its host: health, death, and a stuck engine."""

import asyncio

import pytest

from deployments.engine.channel.client import EngineGone, ReplicaStopped
from deployments.engine.channel.frames import Output, Submit
from deployments.engine.engine import CoreOutput, EngineDead, EngineInfo, EngineStep
from deployments.router.recovery import ACQUITTED_TOKENS
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


async def test_gateways_are_told_whether_an_engine_died_or_was_stopped() -> None:
    for stop, kind in ((False, EngineGone), (True, ReplicaStopped)):
        recorder = Recorder()
        engine = quick_engine()
        async with running_host(engine) as host, linked(host, recorder):
            await recorder.until(lambda r=recorder: r.welcomes)
            if stop:
                await host.stop()
            else:
                engine.stop()
                # An idle engine is waiting for work; this is what it finds.
            await recorder.until(lambda r=recorder: r.downs, timeout_s=2.0)
            assert type(recorder.downs[0]) is kind


async def test_a_process_that_is_gone_is_told_from_a_connection_that_broke() -> None:
    recorder = Recorder()
    async with running_host(quick_engine()) as host, linked(host, recorder):
        await recorder.until(lambda: recorder.welcomes)
        for connection in list(host.server.connections):
            connection.fail(ConnectionError("cut by the test"))
        await recorder.until(lambda: recorder.downs)
        assert not isinstance(recorder.downs[0], EngineGone)
        await recorder.until(lambda: len(recorder.welcomes) == 2)
        host.server.stop_listening()
        for connection in list(host.server.connections):
            connection.fail(ConnectionError("crashed"))
        await recorder.until(lambda: len(recorder.downs) == 2)
        assert isinstance(recorder.downs[1], EngineGone)


class CrashingEngine(StuckEngine):
    """Its process has crashed and still frees what it held, which ends no step."""

    def check(self) -> None:
        raise EngineDead("exit codes: [-11]")


async def test_gateways_need_not_wait_until_a_crashed_process_has_freed_all() -> None:
    recorder = Recorder()
    async with running_host(CrashingEngine()) as host, linked(host, recorder):
        await recorder.until(lambda: recorder.downs, timeout_s=5.0)
        assert isinstance(recorder.downs[0], EngineGone)
        assert isinstance(host.died, EngineDead)


class BrokenEngine(StuckEngine):
    """Its steps fail with something that nobody expected."""

    async def next_step(self) -> EngineStep:
        await asyncio.sleep(0.05)
        raise ValueError("not an EngineDead")


async def test_an_engine_that_fails_in_an_unknown_way_is_dead_too() -> None:
    recorder = Recorder()
    async with running_host(BrokenEngine()) as host, linked(host, recorder):
        await recorder.until(lambda: recorder.downs, timeout_s=2.0)
        assert isinstance(host.died, ValueError)
        with pytest.raises(EngineDead):
            host.check()


@pytest.mark.parametrize(("other", "named"), [(False, 1), (True, 0)])
async def test_the_one_on_trial_is_named_only_if_no_other_suspect_was_there(
    other: bool, named: int
) -> None:
    recorder = Recorder()
    engine = quick_engine(step_ms={"base": 20})
    async with running_host(engine) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        tried = submission(1, tier="high", max_tokens=500)
        tried.on_trial = tried.suspect = True
        company = submission(2, tier="high", max_tokens=500)
        company.suspect = other
        link.submit(tried)
        link.submit(company)
        await recorder.until(lambda: recorder.tokens.keys() >= {1, 2})
        engine.stop()
        await recorder.until(lambda: recorder.downs, timeout_s=2.0)
        (error,) = recorder.downs
        assert isinstance(error, EngineGone)
        assert error.trial == named


async def test_one_stream_at_a_time_is_on_trial_until_it_has_written_enough() -> None:
    recorder = Recorder()
    async with (
        running_host(quick_engine(step_ms={"base": 20})) as host,
        linked(host, recorder) as link,
    ):
        await recorder.until(lambda: recorder.welcomes)
        for stream in (1, 2):
            suspect = submission(stream, tier="high", max_tokens=500)
            suspect.on_trial = True
            link.submit(suspect)
        link.submit(submission(3))
        await recorder.until(lambda: recorder.refused)
        (refused,) = recorder.refused
        assert (refused.stream, refused.retryable) == (2, True)
        await recorder.until(lambda: len(recorder.tokens.get(1, ())) >= ACQUITTED_TOKENS)
        assert recorder.tokens[3]
        suspect = submission(4)
        suspect.on_trial = True
        link.submit(suspect)
        await recorder.until(lambda: recorder.tokens.get(4))
        # The end of a trial frees the place as well.
        link.abort([4])
        suspect = submission(5)
        suspect.on_trial = True
        link.submit(suspect)
        await recorder.until(lambda: recorder.tokens.get(5))
        assert len(recorder.refused) == 1
