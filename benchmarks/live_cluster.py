"""Plays arrivals in real time against simulated replicas under real Ray, for `benchmarks.live`.

The application is the one that ``trireme up`` deploys, but for the gateway's class: ``Player``
finds the replicas as a gateway does and has its fleet client, router and token channel, with the
clients inside instead of HTTP and vLLM's front-end. A child process holds the cluster; all of it is
ended when everything is played, or when its time is up.
"""

import asyncio
import contextlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
from ray import serve

from autoscaling.simulator.gateway import MODEL, make_router
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.work import Arrival, Outcome
from cluster.config import (
    TIERS,
    GatewayConfig,
    ModelConfig,
    OutputTokens,
    PolicyName,
    PoolConfig,
    SimulatedEngineConfig,
    TriremeConfig,
)
from cluster.errors import Overloaded, TriremeError
from cluster.facts import KV_BLOCK_TOKENS
from cluster.hardware import detect
from cluster.interpreter import command, with_rooms
from cluster.local_ray import (
    LocalRay,
    clean_environment,
    connect,
    local_environment,
    serve_environment,
)
from cluster.pool_steps import step_times
from cluster.processes import MARKER, end_all, members
from deployments.application import build_application
from deployments.compat.serve import ListedReplica, ReplicaFeed
from deployments.engine.channel.client import Endpoint, LinkSettings
from deployments.engine.channel.frames import ERROR, Output, Sampling
from deployments.engine.simulated import reply
from deployments.gateway.context import RequestContext
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.links import Member
from deployments.gateway.settings import GatewaySettings
from deployments.gateway.streams import Stream
from deployments.names import engine_deployment

NAME, SECRET = "live", "live"

START_S, IDLE_S = 180.0, 20.0
"""Longest times for the cluster to start, and for its replicas to become idle."""

POLL_S = 0.05

MODULE = "benchmarks.live_cluster"


def settings_of(scenario: Scenario) -> TriremeConfig:
    """The live cluster that ``scenario`` describes; its replies are drawn from the same law.

    It has one pool and one open-loop workload, whose tiers have one σ.
    """
    (pool,), (asked,) = scenario.fleet.pools, scenario.workload.open_loop
    (sigma,) = {asked.mix.of(tier).output_sigma for tier in TIERS}
    means = {tier: asked.mix.of(tier).output_tokens_mean for tier in TIERS}
    engine = SimulatedEngineConfig(
        gpu=pool.gpu,
        kv_tokens=pool.kv_tokens_of_a_replica(),
        output_tokens_mean=OutputTokens(**means),
        output_sigma=sigma,
    )
    live = PoolConfig(
        name=pool.name,
        engine="simulated",
        replicas=pool.replicas,
        tensor_parallel_size=pool.tensor_parallel_size,
        max_num_seqs=pool.max_num_seqs,
        max_num_batched_tokens=pool.max_num_batched_tokens,
        tiers=pool.tiers,
        lends_to=pool.lends_to,
        num_cpus=0.01,
        simulated=engine,
    )
    return TriremeConfig(
        name=NAME,
        models=[ModelConfig(name=MODEL, pools=[live])],
        gateway=GatewayConfig(num_cpus=0.01, haproxy=False),
    )


def prompt_of(number: int, tokens: int, salt: int) -> list[int]:
    """The prompt of request ``number``: no two that fill a block of a prefix cache begin alike.

    Replicas draw a reply from the CRC-32 of its prompt, and that is the same under every ``salt``:
    whatever is followed by its own checksum has one and the same.
    """
    own = [number + 1] * tokens
    if tokens < KV_BLOCK_TOKENS:
        return own
    checksum = crc32(salt.to_bytes(4, "big"))
    return [salt, int.from_bytes(checksum.to_bytes(4, "little"), "big"), *own[2:]]


def reply_tokens(config: TriremeConfig, number: int, arrival: Arrival) -> int:
    """How much a live replica writes for request ``number``."""
    engine = config.models[0].pools[0].simulated
    prompt = prompt_of(number, arrival.prompt_tokens, 0)
    return len(reply(prompt, arrival.tier, number, engine))


# ------------------------------------------------------------------------ inside the cluster


@dataclass(frozen=True)
class Played:
    """What became of the arrivals. ``late_s``: how late each was sent, the machine's doing."""

    outcomes: list[Outcome]
    late_s: list[float]


@dataclass(frozen=True)
class Task:
    """What a cluster is to play: the scenario as JSON, and ``arrivals`` in the order of time."""

    scenario: str
    policies: list[PolicyName]
    arrivals: list[Arrival]


class Clients:
    """The front-end of the fleet client: books what becomes of ``expected`` streams.

    ``over``: from now on streams end because the scenario does.
    """

    model = MODEL

    def __init__(self, start_s: float, expected: int) -> None:
        self.start_s = start_s
        self.all_ended = asyncio.Event()
        self._left = expected
        self.outcomes: list[Outcome] = []
        self.late_s: list[float] = []
        self.over = False

    def deliver(self, outputs: list[tuple[Stream, Output]]) -> None:
        for stream, output in outputs:
            if output.finish is not None and output.finish != ERROR:
                self._book(stream).status = "finished"

    def fail(self, stream: Stream, error: TriremeError) -> None:
        outcome = self._book(stream)
        if not self.over:  # else it was our time that was up
            outcome.status = "refused" if isinstance(error, Overloaded) else "failed"

    def _book(self, stream: Stream) -> Outcome:
        outcome = self.outcomes[int(stream.request.request_id)]
        outcome.tokens, outcome.replica = stream.tokens, stream.context.replica_id or ""
        if stream.tokens:
            outcome.first_token_s = stream.first_token_s - self.start_s
            outcome.ended_s = stream.last_token_s - self.start_s
        self._left -= 1
        if self._left == 0:
            self.all_ended.set()
        return outcome


class Player:
    """Takes the gateway's place in the application: the same fleet client, without HTTP."""

    async def __init__(self, settings: GatewaySettings, engines: Sequence[Any]) -> None:  # type: ignore[misc]
        del engines
        self._settings = settings
        ((_, self._pool),) = settings.config.pools()
        self._members: list[Member] = []
        context = serve.get_replica_context()
        self._id = context.replica_id.unique_id
        feed = ReplicaFeed(
            {engine_deployment(self._pool.name): context.app_name},
            self._on_replicas,
            f"trireme-gateway:{self._id}",
        )
        self._feed = feed
        feed.start()

    def _on_replicas(self, listed: list[ListedReplica]) -> None:
        pool = self._pool
        self._members = [
            Member(
                Endpoint(each.replica_id, each.metadata["host"], each.metadata["port"]),
                MODEL,
                pool.name,
                frozenset(pool.tiers),
                frozenset(pool.lends_to),
                step_times(pool.simulated, pool.tensor_parallel_size),
            )
            for each in listed
            if "port" in each.metadata
        ]

    async def play(
        self, scenario: Scenario, policy: PolicyName, arrivals: list[Arrival], salt: int
    ) -> Played:
        """Send each arrival when it is due, wait for the ends until the scenario's time is up.

        Another ``salt`` makes other prompts with the same replies.
        """
        fleet = await self._fleet(scenario, policy)
        clock = asyncio.get_running_loop().time
        clients = Clients(clock(), len(arrivals))
        for number, arrival in enumerate(arrivals):
            due_s = clients.start_s + arrival.at_s
            await asyncio.sleep(max(0.0, due_s - clock()))
            clients.late_s.append(clock() - due_s)
            clients.outcomes.append(Outcome(arrival, number, 0))
            fleet.submit(
                str(number),
                prompt_of(number, arrival.prompt_tokens, salt),
                # No limit, so that the router has to predict; the reply ends by itself.
                Sampling(arrival.max_tokens, seed=number),
                b"",
                RequestContext(str(number), MODEL, arrival.tier, arrival.tier, due_s),
                clients,
            )
        end_s = clients.start_s + scenario.duration_s + scenario.drain_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(clients.all_ended.wait(), end_s - clock())
        clients.over = True
        await fleet.stop()
        return Played(clients.outcomes, clients.late_s)

    async def _fleet(self, scenario: Scenario, policy: PolicyName) -> FleetClient:
        """A fresh fleet client and router, once all replicas are connected to it and idle."""
        channel = self._settings.config.channel
        settings = LinkSettings(
            SECRET,
            self._id,
            channel.heartbeat_s,
            channel.dead_after_s,
            channel.connect_timeout_s,
            channel.max_frame_bytes,
        )
        metrics = FleetMetrics((MODEL,), ((MODEL, self._pool.name),))
        fleet = FleetClient(make_router(scenario, policy), settings, metrics)
        fleet.start()
        async with asyncio.timeout(IDLE_S):
            while not self._idle(fleet):
                fleet.update_members(self._members)
                await asyncio.sleep(POLL_S)
        return fleet

    def _idle(self, fleet: FleetClient) -> bool:
        loads = [replica.load for replica in fleet.router.fleet]
        busy = any(load.running or load.waiting for load in loads)
        return len(loads) == self._pool.replicas and not busy


def run_cluster(run_dir: Path) -> None:
    """Start the cluster, play the task with every policy in turn, and write what came of it."""
    task = msgspec.msgpack.decode((run_dir / "task").read_bytes(), type=Task)
    scenario = Scenario.model_validate_json(task.scenario)
    config = settings_of(scenario)
    ray = LocalRay(config, detect(os.environ), run_dir / "ray")
    connect(ray.address, NAME, here=True)
    serve.start(proxy_location="Disabled")
    application = build_application(config, SECRET, "2026-01-01", gpus=False, gateway_class=Player)
    player = serve.run(application, name=NAME, route_prefix=None)

    async def play_all() -> None:
        for salt, policy in enumerate(task.policies):
            played = await player.play.remote(scenario, policy, task.arrivals, salt)
            (run_dir / policy).write_bytes(msgspec.msgpack.encode(played))

    asyncio.run(play_all())
    # Ray would take ten seconds to take itself down; the parent ends all processes in two.
    os._exit(0)


# ------------------------------------------------------------------------ around the cluster


def play(
    scenario: Scenario, policies: Sequence[PolicyName], arrivals: Sequence[Arrival]
) -> dict[PolicyName, Played]:
    """What becomes of ``arrivals`` under each policy, live. Raises ``RuntimeError`` if it fails.

    They count from when they reach the gateway. Everything started here has ended on return.
    """
    run_dir = Path(tempfile.mkdtemp(prefix="live-"))
    task = Task(scenario.model_dump_json(), list(policies), list(arrivals))
    (run_dir / "task").write_bytes(msgspec.msgpack.encode(task))
    environ = with_rooms(clean_environment(os.environ) | local_environment(run_dir))
    environ |= serve_environment(settings_of(scenario)) | {MARKER: run_dir.name}
    one_s = scenario.duration_s + scenario.drain_s + 2 * IDLE_S
    log = run_dir / "log"
    with log.open("w") as output:
        child = subprocess.Popen(
            command(MODULE, str(run_dir)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )
    try:
        if child.wait(START_S + math.ceil(one_s) * len(policies)) != 0:
            raise RuntimeError(f"the cluster failed: {log.read_text()[-2000:]}")
        return {policy: _read(run_dir / policy) for policy in policies}
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the cluster did not end: {log.read_text()[-2000:]}") from error
    finally:
        child.kill()
        end_all(lambda: members(run_dir.name, run_dir), 2.0)
        child.wait()
        shutil.rmtree(run_dir, ignore_errors=True)


def _read(path: Path) -> Played:
    played = msgspec.msgpack.decode(path.read_bytes(), type=Played)
    for each in played.outcomes:
        if each.status == "finished" and each.tokens != each.arrival.output_tokens:
            raise RuntimeError(f"{each.tokens} tokens of {each.arrival.output_tokens} have come")
    return played


if __name__ == "__main__":
    # Under its own name, so that the cluster's processes find what they are sent.
    from benchmarks.live_cluster import run_cluster as run_it

    run_it(Path(sys.argv[1]))
