"""Gateways and replicas in one process, over real sockets; every token of every client is checked.

The gateways are the production ``FleetClient`` and ``Router``, the replicas the production host and
channel. Their engines, and what is asked, come from a ``Plant``: here that of simulated engines,
whose tokens are a function of prompt, seed and position; ``real.py`` has one of vLLM's.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from cluster.config import TIERS, FailoverConfig, OutputTokens, SimulatedEngineConfig, Tier
from cluster.steptime import StepModel
from deployments.engine.channel.client import Endpoint, LinkSettings
from deployments.engine.channel.frames import Sampling
from deployments.engine.channel.server import ServerSettings
from deployments.engine.engine import Engine
from deployments.engine.host import EngineHost
from deployments.gateway.context import RequestContext
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.links import Member
from deployments.router import LogNormal, QueueLimits, Router, Slo, TierPolicy
from deployments.router.recovery import RecoveryLimits
from tests.chaos.checker import Checker, Watched, expected_reply
from tests.chaos.faulty import FaultyEngine, poison
from tests.chaos.proxy import Proxy

MODEL, POOL, SECRET = "gpt-oss-120b", "main", "a secret of this test"
HEARTBEAT_S, DEAD_AFTER_S = 0.25, 1.5
STEPS = StepModel(base_s=0.008, seq_s=0.0001, prefill_token_s=0.00003)
ENGINE = SimulatedEngineConfig.model_validate(
    {
        "step_ms": {"base": 8, "request": 0.1, "prompt_1k": 30},
        "output_tokens_mean": OutputTokens(low=50, medium=100, high=200),
        "output_sigma": 0.6,
    }
)
FAILOVER = FailoverConfig(eject_s=0.5, drain_finish_s=0.5, isolation_s=5.0)
"""Isolation by the time that trials take here: on a machine with nothing to spare, a second each.
"""
MEANS: dict[Tier, float] = {"low": 50.0, "medium": 100.0, "high": 200.0}

LEAVERS = 0.05
"""Share of clients that leave in the middle."""

LONGEST_STREAM_S = 60.0


def make_router(failover: FailoverConfig = FAILOVER) -> Router:
    slo, limits = Slo(2.0, 0.1), QueueLimits(10_000, 60.0, 0)
    tiers = {tier: TierPolicy(limits, LogNormal.from_mean(MEANS[tier], 0.6), slo) for tier in TIERS}
    recovery = RecoveryLimits(
        failover.budget_share, failover.budget_floor, failover.max_pause_s, failover.isolation_s
    )
    return Router((MODEL,), tiers, recovery=recovery)


class BreakableEngine(Engine, Protocol):
    """An engine that faults can be put into. ``poisoned``: a request has killed it."""

    poisoned: bool

    def hang(self) -> None: ...
    def resume(self) -> None: ...
    def slow_down(self, factor: float) -> None: ...


@dataclass(frozen=True)
class Asked:
    """A request, and its answer without faults. ``encoded`` is vLLM's form of it, for vLLM."""

    tier: Tier
    prompt: list[int]
    sampling: Sampling
    tokens: list[int]
    finish: int
    encoded: bytes = b""


class Plant(Protocol):
    """Where engines come from, and requests whose answers are known."""

    failover: FailoverConfig

    def engine(self) -> BreakableEngine: ...
    def draw(self, rng: random.Random) -> Asked: ...
    def deadly(self, rng: random.Random, name: str) -> Asked: ...
    async def kill(self, node: "Node") -> None: ...


class SimulatedPlant:
    """Of simulated engines."""

    engine_class: type[FaultyEngine] = FaultyEngine
    failover = FAILOVER

    def engine(self) -> FaultyEngine:
        return self.engine_class(ENGINE, 16, 2048, 8192)

    def draw(self, rng: random.Random) -> Asked:
        tier: Tier = rng.choice(TIERS)
        length = rng.choice([5, 20, 100, 600])
        prompt = [rng.randrange(1000, 100_000) for _ in range(length)]
        return self.asked(rng, tier, prompt, rng.choice([10_000, 10_000, 10_000, 60, 1]))

    def deadly(self, rng: random.Random, name: str) -> Asked:
        return self.asked(rng, "high", poison(name, rng.choice([0, 0, 1, 7, 30])))

    async def kill(self, node: "Node") -> None:
        await node.crash()

    @staticmethod
    def asked(rng: random.Random, tier: Tier, prompt: list[int], max_tokens: int = 10_000) -> Asked:
        sampling = Sampling(max_tokens, seed=rng.randrange(1 << 31))
        return Asked(tier, prompt, sampling, *expected_reply(prompt, tier, sampling, ENGINE))


@dataclass(eq=False)
class Node:
    """A replica with the network before it."""

    name: str
    engine: BreakableEngine
    host: EngineHost
    proxy: Proxy

    async def crash(self) -> None:
        """The process is gone, without a word."""
        await self.proxy.stop()
        self.host.server.stop_listening()
        for connection in list(self.host.server.connections):
            connection.fail(ConnectionError("crashed"))
        await self.host.stop()

    async def stop(self) -> None:
        await self.host.stop()
        await self.proxy.stop()


@dataclass(eq=False)
class Gateway:
    client: FleetClient
    checker: Checker


class World:
    """``nodes`` live now; clients ask until ``stop_clients``."""

    def __init__(self, gateways: int, seed: int, plant: Plant | None = None) -> None:
        self.plant = plant or SimulatedPlant()
        self.rng = random.Random(f"clients {seed}")
        self.nodes: dict[str, Node] = {}
        self.gateways = [self._gateway(number) for number in range(gateways)]
        self._made = 0
        self._asked = 0
        self._clients: list[asyncio.Task[None]] = []
        self._asking = True

    def _gateway(self, number: int) -> Gateway:
        failover = self.plant.failover
        metrics = FleetMetrics((MODEL,), ((MODEL, POOL),))
        settings = LinkSettings(
            SECRET, f"gateway-{number}", HEARTBEAT_S, DEAD_AFTER_S, 1.0, 1 << 20
        )
        client = FleetClient(make_router(failover), settings, metrics, failover)
        client.start()
        return Gateway(client, Checker(MODEL))

    # -------------------------------------------------------------- replicas

    async def add_node(self) -> Node:
        """A fresh replica, listed and connected."""
        self._made += 1
        name = f"replica-{self._made}"
        engine = self.plant.engine()
        settings = ServerSettings(SECRET, HEARTBEAT_S, DEAD_AFTER_S, 1 << 20, 1 << 20, 1000)
        host = EngineHost(engine, name, settings, 60.0)
        await host.start("127.0.0.1")
        proxy = Proxy(host.port)
        await proxy.start()
        node = self.nodes[name] = Node(name, engine, host, proxy)
        self.list_nodes()
        await self.until(lambda: all(g.client.router.fleet.get(name) for g in self.gateways))
        return node

    def list_nodes(self) -> None:
        """What Ray Serve would tell the gateways."""
        members = [
            Member(
                Endpoint(name, "127.0.0.1", node.proxy.port),
                MODEL,
                POOL,
                frozenset(TIERS),
                frozenset(),
                STEPS,
            )
            for name, node in self.nodes.items()
        ]
        for gateway in self.gateways:
            gateway.client.update_members(members)

    async def replace(self, node: Node) -> None:
        """Another takes the place of one that is dead."""
        del self.nodes[node.name]
        await node.stop()
        self.list_nodes()
        await self.add_node()

    def recovered(self) -> bool:
        """Every replica serves, and every request that a fault had hit has a new token."""
        for gateway in self.gateways:
            router = gateway.client.router
            if router.recovery.held or router.recovery.going:
                return False
            if {replica.replica_id for replica in router.fleet} != self.nodes.keys():
                return False
            if any(replica.shunned or replica.load.draining for replica in router.fleet):
                return False
            if any(not gateway.client.is_up(name) for name in self.nodes):
                return False
        return True

    async def until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)

    # -------------------------------------------------------------- clients

    def start_clients(self, per_gateway: int) -> None:
        for gateway in self.gateways:
            for _ in range(per_gateway):
                self._clients.append(asyncio.create_task(self._keep_asking(gateway)))

    async def _keep_asking(self, gateway: Gateway) -> None:
        while self._asking:
            asked = self.plant.draw(self.rng)
            await self.stream(gateway, asked, leaves=self.rng.random() < LEAVERS)

    async def ask(
        self,
        gateway: Gateway,
        tier: Tier,
        prompt: list[int],
        max_tokens: int = 10_000,
        *,
        deadly: bool = False,
        leaves: bool = False,
    ) -> None:
        """A request of a simulated engine: see ``stream``."""
        asked = SimulatedPlant.asked(self.rng, tier, prompt, max_tokens)
        await self.stream(gateway, asked, deadly=deadly, leaves=leaves)

    async def stream(
        self, gateway: Gateway, asked: Asked, *, deadly: bool = False, leaves: bool = False
    ) -> None:
        """One stream, to its end or until its client leaves."""
        self._asked += 1
        request_id = f"request-{self._asked}"
        now = asyncio.get_running_loop().time()
        context = RequestContext(request_id, MODEL, asked.tier, None, now)
        each = Watched(context, asked.tokens, asked.finish, deadly, asyncio.Event())
        gateway.checker.watched[request_id] = each
        gateway.client.submit(
            request_id, asked.prompt, asked.sampling, asked.encoded, context, gateway.checker
        )
        limit_s = self.rng.uniform(0.0, 1.0) if leaves else LONGEST_STREAM_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await each.done.wait()
        if each.done.is_set():  # perhaps in the very turn in which its client gives up
            return
        if not leaves:
            gateway.checker.violations.append(f"{request_id} has not ended in {limit_s:.0f} s")
        gateway.checker.leave(request_id)
        gateway.client.abort([request_id])

    def ask_later(self, gateway: Gateway, tier: Tier, prompt: list[int]) -> None:
        """A stream whose end ``stop_clients`` waits for."""
        self._clients.append(asyncio.create_task(self.ask(gateway, tier, prompt)))

    async def stop_clients(self) -> None:
        """Everyone gets the end of what they asked for."""
        self._asking = False
        await asyncio.gather(*self._clients)

    # -------------------------------------------------------------- books

    def set_cause(self, cause: str) -> None:
        for gateway in self.gateways:
            gateway.checker.cause = cause

    def violations(self) -> list[str]:
        return [each for gateway in self.gateways for each in gateway.checker.violations]

    async def check_books(self) -> list[str]:
        """What is wrong with the books of gateways and replicas now that nothing runs."""
        wrong: list[str] = []
        try:
            await self.until(lambda: not any(n.host.pending for n in self.nodes.values()), 5.0)
        except TimeoutError:
            wrong.append("a replica still has requests")
        for gateway in self.gateways:
            client, checker = gateway.client, gateway.checker
            router = client.router
            flights = sum(len(replica.flights) for replica in router.fleet)
            counts = client.streams, router.waiting, flights, router.recovery.going
            if any(counts):
                wrong.append(f"streams, waiting, flights, going: {counts}")
            told = sum(
                sample.value
                for metric in client.metrics.metrics.registry.collect()
                for sample in metric.samples
                if sample.name == "trireme_output_tokens_total"
            )
            if told != checker.tokens:
                wrong.append(f"{told:.0f} tokens in the metrics, {checker.tokens} delivered")
        return wrong

    async def close(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for gateway in self.gateways:
            await gateway.client.stop()
        for node in self.nodes.values():
            await node.stop()


@contextlib.asynccontextmanager
async def world(
    nodes: int = 3, gateways: int = 2, seed: int = 0, plant: Plant | None = None
) -> AsyncIterator[World]:
    """A cluster with so many replicas, all connected."""
    made = World(gateways, seed, plant)
    try:
        for _ in range(nodes):
            await made.add_node()
        yield made
    finally:
        await made.close()
