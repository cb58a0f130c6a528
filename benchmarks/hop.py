"""What the hop from gateway to engine costs: CPU per streamed token, and time to the first.

Three ways to put the same vLLM front-end and the same simulated engine together on Ray Serve, each
under the same streams over HTTP:

* trireme: HAProxy → gateway → token channel → engine replica, as ``trireme up`` deploys it;
* in-process: HAProxy → the front-end with the engine inside its own process (no hop, and none of
  the gateway's own work);
* handles: Serve's default proxy → front-end → engine through a streaming deployment handle.

The first two are served by one process and measured in turn, many times over: the front-end alone
varies by more than the hop costs, so what counts is the difference within a pair of turns. Its
median is printed with a 95 % interval that asks nothing of how the noise is distributed. The third
is served by a cluster with Serve's default settings, which ``--quick`` leaves out. CPU is counted
while all streams run and none begins or ends: the cost of a token, not of a request.
"""

import argparse
import asyncio
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
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
    StepMilliseconds,
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
TOKENS = 5000
"""Of each reply: more than a window lasts. The client leaves before its end."""

STEP_S = 0.0225
"""A step of gpt-oss-120b with 64 requests on one H200 (``cluster/steptime.py``: 21 to 25 ms by the
length of their contexts). At a slower pace each wake-up finds cold caches and a sleeping core; at a
quicker one the client and what it measures fight for a small machine's caches."""

HANDLES_STEP_S = 0.050
"""Handles cost more than a core of this at the pace above."""

WARM_UP, FIRSTS = 1, 5
IN_PROCESS = "/in-process"
WAYS = ("trireme", "in-process", "handles")


@dataclass(frozen=True)
class Plan:
    """How long a turn of one way is, and how many turns each way has."""

    rounds: int
    settle_s: float
    window_s: float
    idle_s: float


FULL = Plan(rounds=26, settle_s=1.5, window_s=5.0, idle_s=0.6)
HANDLES = Plan(rounds=1, settle_s=3.0, window_s=15.0, idle_s=2.0)
QUICK = Plan(rounds=1, settle_s=1.0, window_s=2.5, idle_s=0.5)
Turn = tuple[dict[str, float], float]
"""CPU µs a token by role, and the median time to first token of streams that are alone (s)."""


def settings(streams: int, port: int, step_s: float = STEP_S) -> TriremeConfig:
    """One gateway, one replica; every reply has exactly ``TOKENS`` tokens, one a step."""
    tokens = OutputTokens(low=TOKENS, medium=TOKENS, high=TOKENS)
    engine = SimulatedEngineConfig(
        step_ms=StepMilliseconds(base=1000 * step_s),
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

        answers = self._handle.generate.remote(request_id, submit)
        try:
            async for tokens, finish in answers:
                output = _core_output(request_id, tokens, finish)
                self._outputs.put_nowait(compat.EngineCoreOutputs(outputs=[output]))
        finally:
            answers.cancel()

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
                queue = self._streams.get(output.request_id)
                if queue is not None:
                    queue.put_nowait((packed.tokens, packed.finish))

    async def generate(
        self, request_id: str, submit: Any
    ) -> AsyncIterator[tuple[list[int], int | None]]:
        self._pump = self._pump or asyncio.create_task(self._run())
        queue = self._streams[request_id] = asyncio.Queue()
        await self._core.submit(request_id, submit)
        finish = None
        try:
            while finish is None:
                tokens, finish = await queue.get()
                yield tokens, finish
        finally:
            await self._core.abort([request_id])
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


def handles_application(config: TriremeConfig) -> Any:
    """A Serve application of the bare front-end, with the engine behind a handle."""
    from ray import serve

    actor = {"num_cpus": 0.1, "runtime_env": {"env_vars": {"VLLM_LOGGING_LEVEL": "ERROR"}}}

    @serve.ingress()
    class Bare:
        async def __init__(self, engine: Any) -> None:  # type: ignore[misc]
            self._app = await bare_front_end(config, HandleCore(engine))

        async def __serve_build_asgi_app__(self) -> Any:
            return self._app

    options: dict[str, Any] = {"max_ongoing_requests": 10_000, "ray_actor_options": actor}
    engine = serve.deployment(HandleEngine).options(name="engine", **options).bind(config)
    return serve.deployment(Bare).options(name="bare", **options).bind(engine)


def gateway_with_engine_inside(config: TriremeConfig) -> Any:
    """The gateway's class, with the bare front-end over a local engine under ``/in-process``.

    One process for both, so that they differ in nothing else; they are measured in turn.
    """
    from ray import serve

    from deployments.gateway.deployment import GatewayIngress

    @serve.ingress()
    class HopGateway(GatewayIngress):
        async def __serve_build_asgi_app__(self) -> Any:
            gateway = await super().__serve_build_asgi_app__()
            bare = await bare_front_end(config, LocalCore(config))

            async def both(scope: Any, receive: Any, send: Any) -> None:
                path = scope.get("path", "")
                if path.startswith(IN_PROCESS):
                    inner = {**scope, "path": path.removeprefix(IN_PROCESS), "root_path": ""}
                    await bare(inner, receive, send)
                else:
                    await gateway(scope, receive, send)

            return both

    return HopGateway


# ------------------------------------------------------------------------ one cluster


def run_cluster(default: bool, port: int, streams: int, run_dir: Path) -> None:
    """Bring up a cluster with the applications of one kind, say so, and stay until told to end."""
    from ray import serve

    from deployments.application import build_application

    config = settings(streams, port, HANDLES_STEP_S if default else STEP_S)
    hardware = detect(os.environ)
    ray = LocalRay(config, hardware, run_dir / "ray")
    connect(ray.address, "hop", here=True)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    if default:
        serve.run(handles_application(config), name="handles", route_prefix="/")
    else:
        inside = gateway_with_engine_inside(config)
        application = build_application(
            config, "hop", "2026-01-01", gpus=False, gateway_class=inside
        )
        serve.run(application, name="trireme", route_prefix="/")
    print("ready", flush=True)
    sys.stdin.read()
    # The parent ends this process; if that is gone itself, nobody else would end Ray's.
    end_all(
        lambda: [each for each in members(run_dir.name, run_dir) if each.pid != os.getpid()], 2.0
    )


# ------------------------------------------------------------------------ load and figures


class Chunks:
    """Content chunks that all streams have received so far."""

    def __init__(self) -> None:
        self.count = 0


async def stream_once(
    client: httpx.AsyncClient, prefix: str, chunks: Chunks, *, only_first: bool = False
) -> float:
    """One streamed chat: seconds to its first content chunk. Leaves then if ``only_first``."""
    body = {
        "model": MODEL,
        "stream": True,
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": "How long is a token's way?"}],
    }
    started, first = time.perf_counter(), 0.0
    async with client.stream("POST", f"{prefix}/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{prefix}: {await response.aread()!r}")
        async for data in response.aiter_raw():
            first = first or time.perf_counter() - started
            if only_first:
                break
            chunks.count += data.count(b"data: ")
    return first


def http_client(url: str, streams: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=streams)
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False)


async def times_to_first(url: str, prefix: str, samples: int) -> list[float]:
    """Seconds to the first token of streams that are alone."""
    firsts = []
    for _ in range(samples):
        async with http_client(url, 1) as client:
            firsts.append(await stream_once(client, prefix, Chunks(), only_first=True))
        await asyncio.sleep(0.1)  # let the abort reach the engine
    return firsts


async def steady(
    url: str, prefix: str, streams: int, plan: Plan, pids: dict[str, list[int]]
) -> tuple[dict[str, float], int]:
    """CPU seconds by role, and chunks, while ``streams`` run and none begins or ends."""
    chunks = Chunks()
    async with http_client(url, streams) as client:
        running = [asyncio.create_task(stream_once(client, prefix, chunks)) for _ in range(streams)]
        await asyncio.sleep(plan.settle_s)
        if chunks.count < streams:
            raise SystemExit(f"{prefix}: {chunks.count} chunks of {streams} streams so far")
        before, counted = {role: cpu_s(each) for role, each in pids.items()}, chunks.count
        await asyncio.sleep(plan.window_s)
        spent = {role: cpu_s(each) - before[role] for role, each in pids.items()}
        counted = chunks.count - counted
        for task in running:
            if task.done():
                raise SystemExit(f"{prefix}: a stream ended within the window: {task!r}")
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return spent, counted


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


def measure(way: str, url: str, pids: list[int], streams: int, plan: Plan) -> Turn:
    """One turn of ``way``."""
    prefix = IN_PROCESS if way == "in-process" else ""
    firsts = asyncio.run(times_to_first(url, prefix, WARM_UP + FIRSTS))[WARM_UP:]
    roles = by_role(pids)
    if way == "in-process":
        del roles["engine"]
    time.sleep(plan.idle_s / 2)  # what the streams that were left still cost
    before = {role: cpu_s(each) for role, each in roles.items()}
    time.sleep(plan.idle_s)
    idle_per_s = {role: (cpu_s(each) - before[role]) / plan.idle_s for role, each in roles.items()}
    spent, chunks = asyncio.run(steady(url, prefix, streams, plan, roles))
    costs = {
        role: 1e6 * max(0.0, cpu - idle_per_s[role] * plan.window_s) / chunks
        for role, cpu in spent.items()
    }
    return costs, statistics.median(firsts)


def middle(turns: list[Turn]) -> Turn:
    """Medians over the turns."""
    costs = {role: statistics.median(cost[role] for cost, _ in turns) for role in turns[0][0]}
    return costs, statistics.median(first for _, first in turns)


def added(turns: list[Turn], base: list[Turn]) -> tuple[float, float, float]:
    """What a turn costs more than the base's of the same round, µs a token: the median, and its
    95 % interval (see ``interval_ranks``); for a single round, three times the same."""
    each = sorted(
        sum(costs.values()) - sum(its.values())
        for (costs, _), (its, _) in zip(turns, base, strict=True)
    )
    low, high = interval_ranks(len(each))
    return statistics.median(each), each[low], each[high]


def interval_ranks(count: int) -> tuple[int, int]:
    """Which two of ``count`` sorted values hold the median between them with at least 95 %.

    The number of values below the median is binomial with one half, whatever their distribution
    (Conover, *Practical Nonparametric Statistics*, §3.2). Few values: the least and the greatest.
    """
    below, rank = 0.0, 0
    for rank in range(count // 2):
        below += math.comb(count, rank) / 2**count
        if below > 0.025:
            break
    low = max(0, rank - 1)
    return low, count - 1 - low


def with_cluster(
    default: bool, ways: tuple[str, ...], streams: int, plan: Plan
) -> dict[str, list[Turn]]:
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
        measured: dict[str, list[Turn]] = {way: [] for way in ways}
        for turn in range(plan.rounds):  # in turn, so that a noisy minute meets all of them
            for way in ways if turn % 2 else reversed(ways):
                measured[way].append(measure(way, url, pids, streams, plan))
        return measured
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
    turns: dict[str, list[Turn]] = {}
    if not options.quick:  # importing vLLM once more takes longer than a quick run may
        turns |= with_cluster(True, WAYS[2:], options.streams, HANDLES)
    turns |= with_cluster(False, WAYS[:2], options.streams, QUICK if options.quick else FULL)
    results = {way: middle(each) for way, each in turns.items()}
    hop_us, least_us, most_us = added(turns["trireme"], turns["in-process"])
    base_costs, base_first = results["in-process"]
    base = sum(base_costs.values())
    figures = {"hop/us per token": hop_us, "hop/at least, us": least_us, "hop/at most, us": most_us}
    rows = []
    for way in (way for way in WAYS if way in results):
        costs, first = results[way]
        total = sum(costs.values())
        figures[f"{way}/us per token"] = total
        figures[f"{way}/ttft p50 ms"] = 1000 * first
        parts = [f"{costs.get(role, 0.0):.1f}" for role in ("proxy", "front-end", "engine")]
        rows.append(
            [
                way,
                *parts,
                f"{total:.1f}  ×{total / base:.2f}",
                f"{hop_us:+.1f} ({least_us:+.1f} … {most_us:+.1f})"
                if way == "trireme"
                else f"{total - base:+.1f}",
                f"{1000 * first:.1f}",
                f"{1000 * (first - base_first):+.1f}",
            ]
        )
    title = f"CPU µs a token at {options.streams} streams; time to first token at one, ms"
    columns = ["way", "proxy", "front-end", "engine", "sum", "added", "TTFT p50", "added"]
    report(title, columns, rows, figures, options.json)


if __name__ == "__main__":
    main()
