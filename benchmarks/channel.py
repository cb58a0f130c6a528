"""CPU per token of ways to carry tokens from an engine to a gateway.

Every candidate carries the same ``Step`` frames, paced like an engine, between two processes over
loopback TCP; both ends' CPU time counts. Candidates: the product's own framing on asyncio, a gRPC
bidirectional stream, ZeroMQ as vLLM uses it, and the product's framing with a frame for each token.
(Ray's own transport, Serve's handles, is measured whole in ``benchmarks/hop.py``.)
"""

import asyncio
import contextlib
import multiprocessing as mp
import os
import time
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.measure import arguments, cpu_s, report
from deployments.engine.channel.frames import (
    Load,
    Output,
    Step,
    decode_from_engine,
    encode,
    encoder,
)
from deployments.engine.channel.framing import FramedProtocol

STEP_S = 0.010
"""Pace of the engine: a decode step of gpt-oss-120b takes 3 to 40 ms."""


def step_of(streams: int, number: int) -> Step:
    load = Load(streams, 0, 0.5, 100_000, STEP_S, number)
    return Step(load, [Output(stream, [number % 200_000]) for stream in range(streams)])


async def paced(steps: int, send: Callable[[int], Any]) -> None:
    """Call ``send`` once a step, at the engine's pace."""
    due = time.monotonic()
    for number in range(steps):
        result = send(number)
        if result is not None:
            await result
        due += STEP_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))


class Counter:
    """The receiving end's work: look at every token."""

    def __init__(self, expected: int) -> None:
        self.left = expected
        self.done = asyncio.Event()

    def take(self, payload: bytes) -> None:
        step = decode_from_engine(payload)
        assert isinstance(step, Step)
        for output in step.outputs:
            self.left -= len(output.tokens)
        if self.left <= 0:
            self.done.set()


# ------------------------------------------------------------------------ asyncio


class _Sender(FramedProtocol):
    ready: asyncio.Future["_Sender"]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.ready.set_result(self)

    def on_frame(self, payload: bytes) -> None: ...

    def on_closed(self, error: Exception | None) -> None: ...


class _Receiver(FramedProtocol):
    counter: Counter

    def on_frame(self, payload: bytes) -> None:
        self.counter.take(payload)

    def on_closed(self, error: Exception | None) -> None: ...


async def asyncio_engine(pipe: Connection, streams: int, steps: int, *, single: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[_Sender] = loop.create_future()

    def accept() -> _Sender:
        sender = _Sender(1 << 24)
        sender.ready = ready
        return sender

    server = await loop.create_server(accept, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    sender = await ready

    def send(number: int) -> None:
        step = step_of(streams, number)
        if single:
            for output in step.outputs:
                sender.send(encode(Step(step.load, [output])))
        else:
            sender.send(encode(step))

    await paced(steps, send)
    await asyncio.to_thread(pipe.recv)


async def asyncio_gateway(port: int, counter: Counter) -> None:
    def make() -> _Receiver:
        receiver = _Receiver(1 << 24)
        receiver.counter = counter
        return receiver

    await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    await counter.done.wait()


# ------------------------------------------------------------------------ gRPC


async def grpc_engine(pipe: Connection, streams: int, steps: int) -> None:
    import grpc

    async def follow(_: AsyncIterator[bytes], context: Any) -> None:
        await paced(steps, lambda n: context.write(encoder.encode(step_of(streams, n))))

    handler = grpc.method_handlers_generic_handler(
        "trireme.Channel", {"Follow": grpc.stream_stream_rpc_method_handler(follow)}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pipe.send(port)
    await asyncio.to_thread(pipe.recv)
    await server.stop(0)


async def grpc_gateway(port: int, counter: Counter) -> None:
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream("/trireme.Channel/Follow")()
        async for payload in call:
            counter.take(payload)
    await counter.done.wait()


# ------------------------------------------------------------------------ ZeroMQ


async def zmq_engine(pipe: Connection, streams: int, steps: int) -> None:
    import zmq
    import zmq.asyncio

    socket = zmq.asyncio.Context().socket(zmq.ROUTER)
    pipe.send(socket.bind_to_random_port("tcp://127.0.0.1"))
    peer, _ = await socket.recv_multipart()
    await paced(
        steps,
        lambda n: socket.send_multipart((peer, encoder.encode(step_of(streams, n))), copy=False),
    )
    await asyncio.to_thread(pipe.recv)
    socket.close(0)


async def zmq_gateway(port: int, counter: Counter) -> None:
    import zmq
    import zmq.asyncio

    socket = zmq.asyncio.Context().socket(zmq.DEALER)
    socket.connect(f"tcp://127.0.0.1:{port}")
    await socket.send(b"hello")
    while not counter.done.is_set():
        (payload,) = await socket.recv_multipart()
        counter.take(payload)
    socket.close(0)


# ------------------------------------------------------------------------ running them

CANDIDATES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "asyncio, frame a step": (asyncio_engine, asyncio_gateway, {"single": False}),
    "gRPC stream, frame a step": (grpc_engine, grpc_gateway, {}),
    "ZeroMQ, frame a step": (zmq_engine, zmq_gateway, {}),
    "asyncio, frame a token": (asyncio_engine, asyncio_gateway, {"single": True}),
}


def _loop_runner() -> Any:
    # Ray Serve's processes run uvloop; so do these.
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run
    return asyncio.run


def _engine_main(name: str, pipe: Connection, streams: int, steps: int) -> None:
    engine, _, options = CANDIDATES[name]
    _loop_runner()(engine(pipe, streams, steps, **options))


def _gateway_main(name: str, pipe: Connection, port: int, tokens: int) -> None:
    async def run() -> None:
        counter = Counter(tokens)
        before = time.process_time()
        await CANDIDATES[name][1](port, counter)
        pipe.send(time.process_time() - before)

    _loop_runner()(run())
    pipe.recv()


def measure(name: str, streams: int, steps: int) -> float:
    """CPU µs a token, both ends."""
    context = mp.get_context("spawn")
    engine_pipe, engine_end = context.Pipe()
    gateway_pipe, gateway_end = context.Pipe()
    engine = context.Process(target=_engine_main, args=(name, engine_end, streams, steps))
    engine.start()
    port = engine_pipe.recv()
    assert engine.pid is not None
    engine_before = cpu_s([engine.pid])
    gateway = context.Process(target=_gateway_main, args=(name, gateway_end, port, streams * steps))
    gateway.start()
    if not gateway_pipe.poll(steps * STEP_S * 4 + 20):
        engine.kill(), gateway.kill()
        raise SystemExit(f"{name}: not all tokens arrived")
    gateway_cpu_s = gateway_pipe.recv()
    engine_cpu_s = cpu_s([engine.pid]) - engine_before
    engine_pipe.send(None)
    gateway_pipe.send(None)
    for process in (engine, gateway):
        process.join(10)
        if process.is_alive():
            process.kill()
    return 1e6 * (gateway_cpu_s + engine_cpu_s) / (streams * steps)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    seconds = 2.0 if options.quick else 8.0
    counts = (1, 16, 256)
    figures: dict[str, float] = {}
    rows = []
    baselines: dict[int, float] = {}
    for name in CANDIDATES:
        cells = [name]
        for streams in counts:
            us = measure(name, streams, int(seconds / STEP_S))
            baseline = baselines.setdefault(streams, us)
            cells.append(f"{us:8.2f}  ×{us / baseline:.1f}")
            figures[f"{name}/{streams} streams/us per token"] = us
        rows.append(cells)
    title = (
        f"CPU µs a token, engine and gateway end together ({os.cpu_count()} cores, a step each "
        f"{1000 * STEP_S:.0f} ms); ×: against the first row"
    )
    columns = ["transport", *(f"{count} streams" for count in counts)]
    report(title, columns, rows, figures, options.json)


if __name__ == "__main__":
    main()
