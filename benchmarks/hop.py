"""What the hop from gateway to engine costs: CPU per streamed token, and time to the first.

Three ways to put the same vLLM front-end and the same simulated engine together on Ray Serve, each
under the same streams over HTTP:

* trireme: HAProxy → gateway → token channel → engine replica, as ``trireme up`` deploys it;
* in-process: HAProxy → the front-end with the engine inside its own process (no hop at all);
* handles: Serve's default proxy → front-end → engine through a streaming deployment handle.

The first two run in one cluster; the third in one with Serve's default settings.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.measure import arguments, cpu_s, report
from cluster.config import (
    GatewayConfig,
    ModelConfig,
    OutputTokens,
    PoolConfig,
    SimulatedEngineConfig,
    TriremeConfig,
)
from cluster.hardware import detect
from cluster.interpreter import command, with_rooms
from cluster.local_ray import (
    LocalRay,
    clean_environment,
    connect,
    free_ports,
    local_environment,
    serve_environment,
)
from cluster.processes import MARKER, end_all, members

MODEL = "gpt-oss-tiny"
TOKENS = 300
STEP_S = 0.020
WAYS = ("trireme", "in-process", "handles")


def settings(streams: int, port: int) -> TriremeConfig:
    """One gateway, one replica; every reply has exactly ``TOKENS`` tokens, one a step."""
    tokens = OutputTokens(low=TOKENS, medium=TOKENS, high=TOKENS)
    engine = SimulatedEngineConfig(
        base_step_s=STEP_S,
        step_s_per_seq=0.0,
        prefill_s_per_token=0.0,
        output_tokens_mean=tokens,
        output_sigma=0.0,
    )
    pool = PoolConfig(
        engine="simulated", num_cpus=0.1, max_num_seqs=max(streams, 16), simulated=engine
    )
    return TriremeConfig(
        name="hop",
        models=[ModelConfig(name=MODEL, source="tiny", max_model_len=8192, pools=[pool])],
        gateway=GatewayConfig(port=port, num_cpus=0.1),
    )


# ------------------------------------------------------------------------ the two other ways


class LocalCore:
    """vLLM's engine core replaced by a simulated engine in the same process."""

    def __init__(self, config: TriremeConfig) -> None:
        from types import SimpleNamespace

        from deployments.engine.deployment import EngineSettings, make_engine

        model = config.models[0]
        self.engine_ranks_managed = [0]
        self.resources = SimpleNamespace(engine_dead=False)
        self._engine = make_engine(
            EngineSettings(model, model.pools[0], config.channel, config.telemetry, "")
        )

    async def add_request_async(self, request: Any) -> None:
        await self._engine.submit(request.request_id, _submission(request))

    async def get_output_async(self) -> Any:
        from deployments.compat import vllm as compat

        step = await self._engine.next_step()
        outputs = []
        for output in step.outputs:
            packed = self._engine.pack(output, 0)
            outputs.append(_core_output(output.request_id, packed.tokens, packed.finish))
        return compat.EngineCoreOutputs(outputs=outputs)

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        await self._engine.abort(request_ids)

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self, timeout: float | None = None) -> None: ...


class HandleCore:
    """vLLM's engine core replaced by calls through a Serve deployment handle."""

    def __init__(self, handle: Any) -> None:
        from types import SimpleNamespace

        self.engine_ranks_managed = [0]
        self.resources = SimpleNamespace(engine_dead=False)
        self._handle = handle.options(stream=True)
        self._outputs: asyncio.Queue[Any] = asyncio.Queue()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def add_request_async(self, request: Any) -> None:
        follow = self._follow(request.request_id, _submission(request))
        self._tasks[request.request_id] = asyncio.create_task(follow)

    async def _follow(self, request_id: str, submit: Any) -> None:
        from deployments.compat import vllm as compat

        async for tokens, finish in self._handle.generate.remote(request_id, submit):
            output = _core_output(request_id, tokens, finish)
            self._outputs.put_nowait(compat.EngineCoreOutputs(outputs=[output]))

    async def get_output_async(self) -> Any:
        return await self._outputs.get()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self._tasks.pop(request_id).cancel()

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self, timeout: float | None = None) -> None: ...


class HandleEngine:
    """The simulated engine as an ordinary Serve deployment with a streaming method."""

    def __init__(self, config: TriremeConfig) -> None:
        self._core = LocalCore(config)._engine
        self._streams: dict[str, asyncio.Queue[tuple[list[int], int | None]]] = {}
        self._pump: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        while True:
            step = await self._core.next_step()
            for output in step.outputs:
                packed = self._core.pack(output, 0)
                self._streams[output.request_id].put_nowait((packed.tokens, packed.finish))

    async def generate(
        self, request_id: str, submit: Any
    ) -> AsyncIterator[tuple[list[int], int | None]]:
        self._pump = self._pump or asyncio.create_task(self._run())
        queue = self._streams[request_id] = asyncio.Queue()
        await self._core.submit(request_id, submit)
        finish = None
        while finish is None:
            tokens, finish = await queue.get()
            yield tokens, finish
        del self._streams[request_id]


def _submission(request: Any) -> Any:
    from deployments.engine.channel.frames import Sampling, Submit

    params = request.sampling_params
    sampling = Sampling(params.max_tokens, params.min_tokens, params.seed, params.ignore_eos)
    return Submit(0, request.prompt_token_ids, sampling, 0, "low")


def _core_output(request_id: str, tokens: list[int], finish: int | None) -> Any:
    from deployments.compat import vllm as compat

    reason = None if finish is None else compat.FinishReason(finish)
    return compat.EngineCoreOutput(request_id, tokens, finish_reason=reason)


async def bare_front_end(config: TriremeConfig, core: Any) -> Any:
    """vLLM's application over ``core``: no door, no router, no channel."""
    from deployments.compat import vllm as compat
    from deployments.engine.arguments import PARSERS, front_end_args
    from deployments.sources import local_source

    model = config.models[0]
    args = front_end_args(model, config.gateway)
    namespace = compat.parse_args(local_source(model), args, *PARSERS)
    client = await asyncio.to_thread(compat.make_front_end, namespace, core)
    return await compat.front_end_app(namespace, client)


def bare_application(config: TriremeConfig, *, handles: bool) -> Any:
    """A Serve application of the bare front-end, with the engine inside or behind a handle."""
    from ray import serve

    actor = {"num_cpus": 0.1, "runtime_env": {"env_vars": {"VLLM_LOGGING_LEVEL": "ERROR"}}}

    @serve.ingress()
    class Bare:
        async def __init__(self, engine: Any) -> None:  # type: ignore[misc]
            core = HandleCore(engine) if handles else LocalCore(config)
            self._app = await bare_front_end(config, core)

        async def __serve_build_asgi_app__(self) -> Any:
            return self._app

    options: dict[str, Any] = {"max_ongoing_requests": 10_000, "ray_actor_options": actor}
    engine = None
    if handles:
        engine = serve.deployment(HandleEngine).options(name="engine", **options).bind(config)
    return serve.deployment(Bare).options(name="bare", **options).bind(engine)


# ------------------------------------------------------------------------ one cluster


def run_cluster(default: bool, port: int, streams: int, run_dir: Path) -> None:
    """Bring up a cluster with the applications of one kind, say so, and stay until told to end."""
    from ray import serve

    from deployments.application import build_application

    config = settings(streams, port)
    hardware = detect(os.environ)
    ray = LocalRay(config, hardware, run_dir / "ray")
    connect(ray.address, "hop", here=True)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    if default:
        serve.run(bare_application(config, handles=True), name="handles", route_prefix="/handles")
    else:
        serve.run(
            bare_application(config, handles=False), name="inprocess", route_prefix="/in-process"
        )
        serve.run(
            build_application(config, "hop", "2026-01-01", gpus=False),
            name="trireme",
            route_prefix="/",
        )
    print("ready", flush=True)
    sys.stdin.read()
    ray.stop()


# ------------------------------------------------------------------------ load and figures


async def stream_once(client: httpx.AsyncClient, prefix: str) -> tuple[float, int]:
    """One streamed chat: seconds to its first content chunk, and its chunks."""
    body = {
        "model": MODEL,
        "stream": True,
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": "How long is a token's way?"}],
    }
    started, first, chunks = time.perf_counter(), 0.0, 0
    async with client.stream("POST", f"{prefix}/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{prefix}: {await response.aread()!r}")
        async for data in response.aiter_raw():
            if not first:
                first = time.perf_counter() - started
            chunks += data.count(b"data: ")
    return first, chunks


async def load(url: str, prefix: str, streams: int, rounds: int) -> tuple[list[float], int]:
    limits = httpx.Limits(max_connections=streams)
    timeout = httpx.Timeout(120)
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=timeout, trust_env=False
    ) as client:
        firsts, chunks = [], 0
        for _ in range(rounds):
            for first, count in await asyncio.gather(
                *(stream_once(client, prefix) for _ in range(streams))
            ):
                firsts.append(first)
                chunks += count
    return firsts, chunks


def by_role(pids: list[int]) -> dict[str, list[int]]:
    """The cluster's processes by what they do for a stream."""
    roles: dict[str, list[int]] = defaultdict(list)
    for pid in pids:
        try:
            line = " ".join(psutil.Process(pid).cmdline())
        except psutil.NoSuchProcess:
            continue
        if ("haproxy" in line and ".cfg" in line) or "ProxyActor" in line:
            roles["proxy"].append(pid)
        elif "ServeReplica" in line:
            roles["engine" if "engine" in line.rpartition(":")[2] else "front-end"].append(pid)
    return roles


def measure(
    way: str, url: str, pids: list[int], streams: int, rounds: int
) -> tuple[dict[str, float], float]:
    """CPU µs a token by role, and the median time to first token of single streams (seconds)."""
    prefix = {"trireme": "", "in-process": "/in-process", "handles": "/handles"}[way]
    app = {"trireme": "trireme", "in-process": "inprocess", "handles": "handles"}[way]
    asyncio.run(load(url, prefix, 4, 1))  # warm
    firsts, _ = asyncio.run(load(url, prefix, 1, 5))
    roles = {
        role: [p for p in each if role == "proxy" or f":{app}:" in _line(p)]
        for role, each in by_role(pids).items()
    }
    before = {role: cpu_s(each) for role, each in roles.items()}
    idle_from = time.monotonic()
    time.sleep(2.0)
    idle_s = time.monotonic() - idle_from
    idle = {role: (cpu_s(each) - before[role]) / idle_s for role, each in roles.items()}
    before = {role: cpu_s(each) for role, each in roles.items()}
    started = time.monotonic()
    _, chunks = asyncio.run(load(url, prefix, streams, rounds))
    took_s = time.monotonic() - started
    tokens = streams * rounds * TOKENS
    assert chunks > 0.9 * tokens, f"{way}: {chunks} chunks for {tokens} tokens"
    costs = {
        role: 1e6 * max(0.0, cpu_s(each) - before[role] - idle[role] * took_s) / tokens
        for role, each in roles.items()
    }
    return costs, statistics.median(firsts)


def _line(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


def with_cluster(
    default: bool, ways: tuple[str, ...], streams: int, rounds: int
) -> dict[str, tuple[dict[str, float], float]]:
    """Start the cluster in a child process, measure ``ways`` in it, and end all of it."""
    run_dir = Path(tempfile.mkdtemp(prefix="hop-"))
    cluster_id = run_dir.name
    (port,) = free_ports(1)
    config = settings(streams, port)
    environ = with_rooms(clean_environment(os.environ) | local_environment(run_dir))
    environ |= {} if default else serve_environment(config)
    environ |= {MARKER: cluster_id, "RAY_USAGE_STATS_ENABLED": "0"}
    log = (run_dir / "log").open("w")
    child = subprocess.Popen(
        command("benchmarks.hop", "--cluster", json.dumps([default, port, streams, str(run_dir)])),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environ,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == b"ready":
                break
        else:
            raise SystemExit((run_dir / "log").read_text()[-2000:])
        pids = [process.pid for process in members(cluster_id, run_dir)]
        url = f"http://127.0.0.1:{port}"
        return {way: measure(way, url, pids, streams, rounds) for way in ways}
    finally:
        child.kill()
        end_all(lambda: members(cluster_id, run_dir), 2.0)
        shutil.rmtree(run_dir, ignore_errors=True)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--cluster", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cluster:
        default, port, streams, run_dir = json.loads(options.cluster)
        run_cluster(default, port, streams, Path(run_dir))
        return
    rounds = 1 if options.quick else 4
    results = with_cluster(False, WAYS[:2], options.streams, rounds)
    results |= with_cluster(True, WAYS[2:], options.streams, rounds)
    base_costs, base_first = results["in-process"]
    base = sum(base_costs.values())
    figures, rows = {}, []
    for way, (costs, first) in results.items():
        total = sum(costs.values())
        figures[f"{way}/us per token"] = total
        figures[f"{way}/ttft p50 ms"] = 1000 * first
        parts = [f"{costs.get(role, 0.0):.1f}" for role in ("proxy", "front-end", "engine")]
        rows.append(
            [
                way,
                *parts,
                f"{total:.1f}  ×{total / base:.2f}",
                f"{total - base:+.1f}",
                f"{1000 * first:.1f}",
                f"{1000 * (first - base_first):+.1f}",
            ]
        )
    title = f"CPU µs a token at {options.streams} streams; time to first token at one, ms"
    columns = ["way", "proxy", "front-end", "engine", "sum", "added", "TTFT p50", "added"]
    report(title, columns, rows, figures, options.json)


if __name__ == "__main__":
    main()
