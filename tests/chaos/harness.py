"""Runs a plan of faults against a world under load, and reports what clients saw.

The next fault comes when the last one is over: every replica serves again, and every request that
was hit has a new token. So there is capacity for one loss at a time (N+1), as there is in a cluster
that is sized for it, and each fault meets requests in every state.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from tests.chaos.checker import Stall
from tests.chaos.faulty import FaultyEngine
from tests.chaos.plan import Fault, plan
from tests.chaos.world import Node, Plant, World, world

RECOVERY_S = 30.0
POISON_DEATHS = 2
SLOWEST_S = 1.5
"""A ``slow`` fault lasts for at least so long beyond what the watch needs to see it."""


@dataclass(frozen=True, slots=True)
class Report:
    """``failed_upper_bound`` is Wilson's, at 95 %: of the share of streams that went wrong."""

    seed: int
    faults: int
    by_kind: dict[str, int]
    streams: int
    tokens: int
    continued: int
    quarantined: int
    violations: list[str]
    failed_upper_bound: float
    stall_p50_s: float
    stall_p99_s: float
    stall_max_s: float
    stalls_by_kind: dict[str, dict[str, float]]
    seconds: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def wilson_upper(failures: int, trials: int, z: float = 1.96) -> float:
    """Upper end of Wilson's interval for a share."""
    if trials == 0:
        return 1.0
    share = failures / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (centre + spread) / (1 + z * z / trials)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share ``q`` does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


class Harness:
    """Injects faults into a ``World``."""

    def __init__(self, here: World, seed: int) -> None:
        self._world = here
        self._rng = random.Random(f"poison {seed}")

    async def run(self, fault: Fault) -> None:
        """One fault, from its beginning until all have recovered from it."""
        here = self._world
        here.set_cause(f"{fault.kind} #{fault.number}")
        names = list(here.nodes)
        node = here.nodes[names[fault.node % len(names)]]
        await getattr(self, f"_{fault.kind}")(node, fault)
        await here.until(here.recovered, RECOVERY_S)
        await asyncio.sleep(fault.after_s)

    async def _kill(self, node: Node, fault: Fault) -> None:
        await self._world.plant.kill(node)
        await asyncio.sleep(0.2)
        await self._world.replace(node)

    async def _die(self, node: Node, fault: Fault) -> None:
        assert isinstance(node.engine, FaultyEngine)
        node.engine.die()
        await asyncio.sleep(0.2)
        await self._world.replace(node)

    async def _hang(self, node: Node, fault: Fault) -> None:
        node.engine.hang()
        await asyncio.sleep(fault.for_s)
        node.engine.resume()

    async def _cut(self, node: Node, fault: Fault) -> None:
        node.proxy.cut()

    async def _blackhole(self, node: Node, fault: Fault) -> None:
        node.proxy.to_engine = node.proxy.to_gateway = False
        await asyncio.sleep(fault.for_s)
        node.proxy.mend()

    async def _deaf(self, node: Node, fault: Fault) -> None:
        node.proxy.to_engine = False
        await asyncio.sleep(fault.for_s)
        node.proxy.mend()

    async def _mute(self, node: Node, fault: Fault) -> None:
        node.proxy.to_gateway = False
        await asyncio.sleep(fault.for_s)
        node.proxy.mend()

    async def _delay(self, node: Node, fault: Fault) -> None:
        node.proxy.delay_s = 0.2 * fault.for_s
        await asyncio.sleep(fault.for_s)
        node.proxy.mend()

    async def _slow(self, node: Node, fault: Fault) -> None:
        node.engine.slow_down(fault.factor)
        await asyncio.sleep(fault.for_s + SLOWEST_S)
        node.engine.slow_down(1.0)

    async def _drain(self, node: Node, fault: Fault) -> None:
        here = self._world
        await here.add_node()
        del here.nodes[node.name]
        here.list_nodes()
        await node.host.drain(10.0)
        if node.host.pending:
            here.gateways[0].checker.violations.append(
                f"{node.host.pending} streams cut by a drain"
            )
        await node.stop()

    async def _poison(self, node: Node, fault: Fault) -> None:
        here = self._world
        asked = here.plant.deadly(self._rng, f"{fault.number}")
        gateway = self._rng.choice(here.gateways)
        await here.stream(gateway, asked, deadly=True)
        wrong = gateway.checker.violations
        if not any(each.engine.poisoned for each in here.nodes.values()):
            wrong.append(f"poison #{fault.number} killed nobody")
        before = gateway.checker.quarantined
        # The same request again is refused before it meets an engine.
        await here.stream(gateway, asked, deadly=True)
        if gateway.checker.quarantined != before + 1:
            wrong.append(f"poison #{fault.number} was not refused when it came again")
        dead = [each for each in here.nodes.values() if each.engine.poisoned]
        if len(dead) > POISON_DEATHS:
            wrong.append(f"poison #{fault.number} killed {len(dead)} engines")
        for each in dead:
            await here.replace(each)


async def run(
    faults: int,
    seed: int,
    *,
    kinds: tuple[str, ...] | None = None,
    clients: int = 6,
    nodes: int = 3,
    plant: Plant | None = None,
    on_fault: Callable[[Fault, int], None] = lambda fault, violations: None,
) -> Report:
    """So many faults against ``nodes`` replicas, two gateways and so many ``clients`` of each."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    count: Counter[str] = Counter()
    async with world(nodes, 2, seed, plant) as here:
        here.start_clients(clients)
        harness = Harness(here, seed)
        for fault in plan(seed, faults) if kinds is None else plan(seed, faults, kinds):
            count[fault.kind] += 1
            try:
                await harness.run(fault)
            except TimeoutError:
                here.gateways[0].checker.violations.append(f"no recovery from {fault}")
                break
            on_fault(fault, len(here.violations()))
        here.set_cause("the end")
        await here.stop_clients()
        wrong = here.violations() + await here.check_books()
        checkers = [gateway.checker for gateway in here.gateways]
    stalls = [stall for checker in checkers for stall in checker.stalls]
    streams = sum(checker.finished for checker in checkers)
    seconds = [stall.seconds for stall in stalls]
    return Report(
        seed,
        sum(count.values()),
        dict(count),
        streams,
        sum(checker.tokens for checker in checkers),
        sum(checker.moved for checker in checkers),
        sum(checker.quarantined for checker in checkers),
        wrong,
        wilson_upper(len(wrong), streams),
        quantile(seconds, 0.5),
        quantile(seconds, 0.99),
        max(seconds, default=0.0),
        _by_kind(stalls),
        loop.time() - started_s,
    )


def _by_kind(stalls: Sequence[Stall]) -> dict[str, dict[str, float]]:
    kinds: dict[str, list[float]] = {}
    for stall in stalls:
        kinds.setdefault(stall.cause.partition(" ")[0], []).append(stall.seconds)
    return {
        kind: {
            "continued": len(seconds),
            "p50_s": quantile(seconds, 0.5),
            "p99_s": quantile(seconds, 0.99),
        }
        for kind, seconds in sorted(kinds.items())
    }
