"""The token channel over real sockets: tokens, aborts, back-pressure, silence, strangers."""

import asyncio
import contextlib
import socket

import pytest

from deployments.engine.channel.frames import (
    HEADER,
    PROTOCOL_VERSION,
    STOP,
    Hello,
    Ping,
    Poison,
    Sampling,
    Submit,
    decode_from_engine,
    encode,
)
from deployments.engine.channel.poisons import Poisons
from deployments.engine.simulated import reply
from tests.deployments.engine.channel_world import (
    SECRET,
    Recorder,
    linked,
    quick_engine,
    running_host,
    submission,
)


async def test_streams_arrive_token_for_token_whatever_their_number() -> None:
    engine = quick_engine()
    recorder = Recorder()
    async with running_host(engine) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        for stream in range(1, 41):
            link.submit(submission(stream))
        await recorder.until(lambda: len(recorder.finished) == 40)
        for stream in range(1, 41):
            expected = reply([1, 2, 3, stream], "low", 0, engine.config)
            assert recorder.tokens[stream] == expected
            assert recorder.finished[stream] == STOP
        assert host.pending == 0
        assert recorder.steps[-1].load.running == 0


async def test_one_frame_a_step_carries_all_streams_of_a_gateway() -> None:
    recorder = Recorder()
    engine = quick_engine(step_ms={"base": 10})
    async with running_host(engine) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        for stream in range(1, 9):
            link.submit(submission(stream))
        await recorder.until(lambda: len(recorder.finished) == 8)
    full = [step for step in recorder.steps if len(step.outputs) == 8]
    assert len(full) >= 15  # the shortest reply has more tokens than that


async def test_two_gateways_get_their_own_tokens_and_each_others_load() -> None:
    first, second = Recorder(), Recorder()
    engine = quick_engine(step_ms={"base": 5})
    async with (
        running_host(engine) as host,
        linked(host, first) as one,
        linked(host, second, gateway_id="gateway-2"),
    ):
        await first.until(lambda: first.welcomes)
        await second.until(lambda: second.welcomes)
        one.submit(submission(1, max_tokens=60))
        await first.until(lambda: first.finished)
        await second.until(lambda: any(step.load.running for step in second.steps))
    assert first.tokens.keys() == {1}
    assert second.tokens == {}


async def test_a_report_counts_requests_by_tier_and_which_of_them_are_the_gateways_own() -> None:
    first, second = Recorder(), Recorder()
    engine = quick_engine(max_num_seqs=2, step_ms={"base": 5})
    async with (
        running_host(engine) as host,
        linked(host, first) as one,
        linked(host, second, gateway_id="gateway-2") as two,
    ):
        await first.until(lambda: first.welcomes)
        await second.until(lambda: second.welcomes)
        for stream, tier in enumerate(("low", "high", "high"), start=1):
            one.submit(submission(stream, tier))
        two.submit(submission(1, "medium"))
        seen = [(first, (1, 0, 2)), (second, (0, 1, 0))]  # running or waiting: two run at a time
        for recorder, own in seen:
            await recorder.until(
                lambda recorder=recorder, own=own: any(
                    (step.load.by_tier, step.yours) == ((1, 1, 2), own) for step in recorder.steps
                )
            )
        one.abort([2])
        await second.until(lambda: second.steps[-1].load.by_tier[2] <= 1)
        await first.until(lambda: len(first.finished) == 2)
        await second.until(lambda: second.finished)
        for recorder, _ in seen:
            await recorder.until(
                lambda recorder=recorder: recorder.steps[-1].load.by_tier == (0, 0, 0)
            )
            # (The answer to a heartbeat may have the load of a step ago.)
            assert all(
                own <= every
                for step in recorder.steps
                if step.outputs
                for own, every in zip(step.yours, step.load.by_tier, strict=True)
            )
        assert all(connection.by_tier == [0, 0, 0] for connection in host.server.connections)


async def test_refused_streams_are_not_counted() -> None:
    recorder = Recorder()
    async with (
        running_host(quick_engine(step_ms={"base": 20}), max_streams=1) as host,
        linked(host, recorder) as link,
    ):
        await recorder.until(lambda: recorder.welcomes)
        link.submit(submission(1, "no such tier"))
        link.submit(submission(2, "high"))
        link.submit(submission(3, "low"))
        await recorder.until(lambda: len(recorder.refused) == 2)
        assert [(each.stream, each.retryable) for each in recorder.refused] == [
            (1, False),
            (3, True),
        ]
        await recorder.until(lambda: any(step.yours == (0, 0, 1) for step in recorder.steps))
        assert max(step.load.by_tier for step in recorder.steps) == (0, 0, 1)
        assert len(host.server.connections) == 1


async def test_an_aborted_stream_frees_its_place_in_the_engine() -> None:
    recorder = Recorder()
    engine = quick_engine()
    async with running_host(engine) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        link.submit(submission(1, max_tokens=8000))
        await recorder.until(lambda: recorder.tokens.get(1))
        link.abort([1])
        link.submit(submission(2))
        await recorder.until(lambda: 2 in recorder.finished)
        assert host.pending == 0
        assert engine._running == {}
        assert 1 not in recorder.finished


async def test_streams_of_a_gateway_that_leaves_are_aborted() -> None:
    recorder = Recorder()
    engine = quick_engine()
    async with running_host(engine) as host:
        async with linked(host, recorder) as link:
            await recorder.until(lambda: recorder.welcomes)
            link.submit(submission(1, tier="high", max_tokens=8000))
            await recorder.until(lambda: recorder.tokens.get(1))
        async with asyncio.timeout(2):
            while host.pending or engine._running:
                await asyncio.sleep(0.01)


async def test_a_gateway_that_never_reads_stops_nobody_and_is_cut_off_in_the_end() -> None:
    """A peer that says hello, submits, and never reads: its tokens merge, then it is dropped."""
    healthy = Recorder()
    engine = quick_engine(max_num_seqs=64)
    async with (
        running_host(engine, max_buffered_bytes=1 << 14, dead_after_s=60.0) as host,
        linked(host, healthy) as link,
    ):
        await healthy.until(lambda: healthy.welcomes)
        deaf = socket.create_connection(("127.0.0.1", host.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(encode(Hello(1, SECRET, "deaf")))
        async with asyncio.timeout(30):
            while len(host.server.connections) < 2:
                await asyncio.sleep(0.01)
            (connection,) = (c for c in host.server.connections if c.gateway_id == "deaf")
            assert connection.transport is not None
            kernel = connection.transport.get_extra_info("socket")
            kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for stream in range(1, 41):
                endless = Sampling(10**9, ignore_eos=True)
                deaf.sendall(encode(Submit(stream, [stream], endless, 0, "low")))
            while len(host.server.connections) == 2:
                await asyncio.sleep(0.01)
        deaf.close()
        link.submit(submission(1, max_tokens=10))
        await healthy.until(lambda: healthy.finished)
        assert len(healthy.tokens[1]) == 10
        assert host.pending == 0


async def test_held_back_tokens_arrive_merged_and_complete_when_the_gateway_reads_again() -> None:
    engine = quick_engine()
    recorder = Recorder()
    async with running_host(engine) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        (connection,) = host.server.connections
        connection.pause_writing()
        link.submit(submission(1))
        async with asyncio.timeout(10):
            while host.pending == 0 or host.pending:
                await asyncio.sleep(0.01)
                if connection._held and connection._held[1][-1].finish is not None:
                    break
        connection.resume_writing()
        await recorder.until(lambda: recorder.finished)
        assert recorder.tokens[1] == reply([1, 2, 3, 1], "low", 0, engine.config)
        merged = [step for step in recorder.steps if step.outputs]
        assert len(merged) == 1


async def test_a_silent_replica_is_noticed_and_the_link_comes_back() -> None:
    recorder = Recorder()
    async with running_host(quick_engine()) as host, linked(host, recorder, dead_after_s=0.4):
        await recorder.until(lambda: recorder.welcomes)
        (connection,) = host.server.connections
        connection.send = lambda frame: None  # type: ignore[method-assign]
        await recorder.until(lambda: recorder.downs)
        assert isinstance(recorder.downs[0], TimeoutError)
        await recorder.until(lambda: len(recorder.welcomes) == 2)


async def test_a_silent_gateway_is_dropped() -> None:
    async with running_host(quick_engine(), dead_after_s=0.3) as host:
        mute = socket.create_connection(("127.0.0.1", host.port))
        mute.sendall(encode(Hello(1, SECRET, "mute")))
        async with asyncio.timeout(5):
            while not host.server.connections:
                await asyncio.sleep(0.01)
            while host.server.connections:
                await asyncio.sleep(0.01)
        mute.close()


@pytest.mark.parametrize(
    "greeting",
    [
        encode(Hello(1, "not the secret", "stranger")),
        encode(Hello(99, SECRET, "from the future")),
        encode(submission(1)),
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        HEADER.pack(3) + b"\xff\xff\xff",
        HEADER.pack(1 << 30),
    ],
    ids=["secret", "protocol", "no-hello", "http", "garbage", "huge"],
)
async def test_strangers_are_cut_off_without_a_word(greeting: bytes) -> None:
    async with running_host(quick_engine()) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(greeting)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert not host.server.connections
        writer.close()


async def test_a_peer_that_never_says_hello_is_cut_off() -> None:
    async with running_host(quick_engine(), dead_after_s=0.2) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_another_replica_on_a_reused_port_is_not_taken_for_the_old_one() -> None:
    recorder = Recorder()
    async with running_host(quick_engine()) as host:
        host.replica_id = "replica-2"
        async with linked(host, recorder) as link:
            await asyncio.sleep(0.5)
            assert not link.is_up
            assert recorder.welcomes == []


async def test_more_streams_than_allowed_are_refused_as_retryable() -> None:
    recorder = Recorder()
    async with (
        running_host(quick_engine(), max_streams=2) as host,
        linked(host, recorder) as link,
    ):
        await recorder.until(lambda: recorder.welcomes)
        for stream in (1, 2, 3):
            link.submit(submission(stream, max_tokens=500))
        await recorder.until(lambda: recorder.refused)
        assert (recorder.refused[0].stream, recorder.refused[0].retryable) == (3, True)


async def test_a_draining_replica_says_so_finishes_what_runs_and_takes_nothing_new() -> None:
    recorder = Recorder()
    async with running_host(quick_engine()) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        link.submit(submission(1))
        await recorder.until(lambda: recorder.tokens.get(1))
        drained = asyncio.create_task(host.drain(10.0))
        await recorder.until(lambda: recorder.steps[-1].load.draining)
        link.submit(submission(2))
        await recorder.until(lambda: recorder.refused)
        await drained
        await recorder.until(lambda: 1 in recorder.finished)
        assert recorder.refused[0].retryable


async def test_what_one_gateway_warns_of_the_others_hear_now_or_when_they_come() -> None:
    source, other, late = Recorder(), Recorder(), Recorder()
    async with (
        running_host(quick_engine()) as host,
        linked(host, source) as link,
        linked(host, other, gateway_id="gateway-2"),
    ):
        await source.until(lambda: source.welcomes)
        await other.until(lambda: other.welcomes)
        for left_s in (60.0, 50.0):
            link.warn(Poison("print", "model", "high", "r1", left_s))
        link.warn(Poison("over", "model", "high", "r2", 0.0))
        link.warn(Poison("more", "model", "high", "r3", 60.0))
        await other.until(lambda: len(other.poisons) == 2)
        async with linked(host, late, gateway_id="gateway-3"):
            await late.until(lambda: len(late.poisons) == 2)
    # Once, whoever tells it again; not what is over; and not to the one that knows it.
    assert [each.fingerprint for each in other.poisons] == ["print", "more"]
    assert source.poisons == []
    told, _ = late.poisons
    assert (told.fingerprint, told.request_id) == ("print", "r1")
    assert 0.0 < told.left_s <= 60.0


async def test_a_gateway_that_does_not_know_of_poisons_hears_of_none() -> None:
    source = Recorder()
    async with running_host(quick_engine()) as host, linked(host, source) as link:
        await source.until(lambda: source.welcomes)
        link.warn(Poison("print", "model", "high", "r1", 60.0))
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(encode(Hello(PROTOCOL_VERSION, SECRET, "an older gateway")))
        link.warn(Poison("more", "model", "high", "r2", 60.0))
        for _ in range(4):  # the welcome, and heartbeats
            (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
            assert not isinstance(decode_from_engine(await reader.readexactly(size)), Poison)
            writer.write(encode(Ping()))
        writer.close()


def test_a_replica_remembers_so_many_poisons_and_no_longer_than_they_stand() -> None:
    known = Poisons(most=3)
    for number in range(5):
        assert known.add(Poison(str(number), "m", "low", "", 10.0 + number), 0.0)
    assert not known.add(Poison("4", "m", "low", "", 2.0), 5.0), "it stands for longer already"
    assert [each.fingerprint for each in known.standing(0.0)] == ["2", "3", "4"]
    assert [(each.fingerprint, each.left_s) for each in known.standing(12.5)] == [
        ("3", 0.5),
        ("4", 1.5),
    ]
    assert not known.add(Poison("4", "m", "low", "", 10.0), 12.5), "no news, but it stands longer"
    assert [(each.fingerprint, each.left_s) for each in known.standing(20.0)] == [("4", 2.5)]
    assert known.add(Poison("2", "m", "low", "", 10.0), 20.0), "it is over, so this is news"
