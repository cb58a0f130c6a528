"""Can a tenant tell by time which prompts another tenant has sent? With cache salts, and without.

A victim sends prompts. An attacker, another tenant, then asks for one token of a prompt that the
victim has sent and of one like it that nobody has, in random order, and looks at the time until the
token comes. What it learns is the area under the ROC curve: the chance that the unsent prompt takes
longer than the sent one. 1 is certainty, 0.5 a coin.

Requests go the production way: fleet client, router, token channel over sockets, and two replicas
with the engine model (scheduler, prefix cache, step times measured on an H200 with gpt-oss-120b),
all in one process, while a third tenant keeps the replicas at work. The noise is that of this
machine and of that work.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import arguments, report
from cluster.config import TIERS, OutputTokens, SimulatedEngineConfig
from cluster.errors import TriremeError
from cluster.pool_steps import step_times
from cluster.tenants.caller import Caller
from cluster.tenants.secret import DoorSecret
from deployments.engine.channel.client import Endpoint, LinkSettings
from deployments.engine.channel.frames import Output, Sampling
from deployments.engine.channel.server import ServerSettings
from deployments.engine.host import EngineHost
from deployments.engine.simulated import SimulatedEngine
from deployments.gateway.context import RequestContext
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.links import Member
from deployments.gateway.streams import Stream
from deployments.router import LogNormal, QueueLimits, Router, Slo, TierPolicy

MODEL, POOL = "gpt-oss-120b", "main"
PROMPT_TOKENS = 4096
SPEED = 4.0
"""The model's times are divided by it, this machine's are not: the attacker has it harder, by this
factor, than against the GPU."""
BUSY_GAP_S = 0.05
"""Mean time between the third tenant's requests."""
VOCABULARY = 199_000
WITHOUT, WITH = 80, 300
"""Pairs of probes with ``--quick``. Of a coin's area, 300 pairs leave ± 0.046 (95 %)."""
FULL = 5
"""So many times as many otherwise."""
RESAMPLES = 2000
GOALS = {"without salt": 0.95, "with salt": 0.55}


class Probe:
    """A front-end that waits for the first token of its one request."""

    model = MODEL

    def __init__(self) -> None:
        self.first: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()

    def deliver(self, outputs: list[tuple[Stream, Output]]) -> None:
        for _, output in outputs:
            if output.tokens and not self.first.done():
                self.first.set_result(asyncio.get_running_loop().time())
            if output.finish is not None:
                self.ended.set()

    def fail(self, stream: Stream, error: TriremeError) -> None:
        self.ended.set()
        if not self.first.done():
            self.first.set_exception(error)


@dataclass(frozen=True)
class Fleet:
    """What tenants can do. Without a secret nobody's requests are salted."""

    client: FleetClient
    secret: DoorSecret | None

    async def ask(self, tenant: str, prompt: list[int], tokens: int = 1) -> float:
        """Seconds until the first token of ``tokens``."""
        began = asyncio.get_running_loop().time()
        name = secrets.token_hex(8)
        context = RequestContext(name, MODEL, "low", None, began)
        context.caller = Caller(tenant, "key", cache_group=f"tenant:{tenant}")
        if self.secret is not None:
            context.cache_salt = self.secret.cache_salt(context.caller.cache_group)
        probe = Probe()
        self.client.submit(name, prompt, Sampling(tokens), b"", context, probe)
        arrived = await probe.first
        await probe.ended.wait()
        return arrived - began


@contextlib.asynccontextmanager
async def fleet(salted: bool) -> AsyncIterator[Fleet]:
    """Two replicas and a gateway's fleet client."""
    config = SimulatedEngineConfig(
        gpu="H200",
        speed_factor=SPEED,
        output_tokens_mean=OutputTokens(low=50, medium=50, high=50),
        kv_tokens=8_000_000,
    )
    channel = secrets.token_hex(32)
    metrics = FleetMetrics((MODEL,), ((MODEL, POOL),))
    slo, queue = Slo(1.0, 0.015), QueueLimits(1000, 60.0, 0)
    tiers = {tier: TierPolicy(queue, LogNormal.from_mean(50.0, 1.0), slo) for tier in TIERS}
    links = LinkSettings(channel, "gateway", 1.0, 10.0, 5.0, 1 << 24)
    client = FleetClient(Router((MODEL,), tiers), links, metrics)
    client.start()
    steps = step_times(config, 1)
    members = []
    async with contextlib.AsyncExitStack() as stack:
        for name in ("one", "two"):
            engine = SimulatedEngine(config, 64, 8192, 131_072)
            server = ServerSettings(channel, 1.0, 10.0, 1 << 24, 1 << 24, 1000)
            host = EngineHost(engine, name, server, 60.0)
            await host.start("127.0.0.1")
            stack.push_async_callback(host.stop)
            endpoint = Endpoint(name, "127.0.0.1", host.port)
            members.append(Member(endpoint, MODEL, POOL, frozenset(TIERS), frozenset(), steps))
        stack.push_async_callback(client.stop)
        client.update_members(members)
        async with asyncio.timeout(10):
            while len(list(client.router.fleet)) < len(members):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield Fleet(client, DoorSecret(secrets.token_hex(32)) if salted else None)


def prompt_of(rng: random.Random, tokens: int = PROMPT_TOKENS) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(tokens)]


async def keep_busy(them: Fleet, rng: random.Random) -> None:
    """The third tenant."""
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(
                them.ask("third", prompt_of(rng, rng.randint(100, 1500)), rng.randint(5, 60))
            )
            await asyncio.sleep(rng.expovariate(1.0 / BUSY_GAP_S))


async def probe(salted: bool, pairs: int, seed: int) -> tuple[list[float], list[float]]:
    """Times of prompts that the victim has sent, and of prompts that nobody has; seconds."""
    rng = random.Random(seed)
    sent: list[float] = []
    unsent: list[float] = []
    async with fleet(salted) as them:
        busy = asyncio.create_task(keep_busy(them, random.Random(seed + 1)))
        try:
            for _ in range(pairs):
                secret, other = prompt_of(rng), prompt_of(rng)
                await them.ask("victim", secret)
                probes = [(secret, sent), (other, unsent)]
                rng.shuffle(probes)
                for prompt, times in probes:
                    times.append(await them.ask("attacker", prompt))
        finally:
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
    return sent, unsent


def area(sent: NDArray[np.float64], unsent: NDArray[np.float64]) -> float:
    """Under the ROC curve: how often an unsent prompt took longer, ties counted half."""
    ordered = np.sort(sent)
    below = np.searchsorted(ordered, unsent, "left") + np.searchsorted(ordered, unsent, "right")
    return float(below.mean() / 2.0 / len(sent))


def interval(sent: list[float], unsent: list[float], seed: int) -> tuple[float, float, float]:
    """The area, and the ends of its 95 % interval (percentiles of resampled pairs)."""
    one, other = np.array(sent), np.array(unsent)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(one), (RESAMPLES, len(one)))
    areas = [area(one[pick], other[pick]) for pick in picks]
    low, high = np.quantile(areas, (0.025, 0.975))
    return area(one, other), float(low), float(high)


def main() -> None:
    options = arguments(__doc__ or "")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for name, salted, pairs in (("without salt", False, WITHOUT), ("with salt", True, WITH)):
        pairs *= 1 if chosen.quick else FULL
        sent, unsent = asyncio.run(probe(salted, pairs, chosen.seed))
        found, low, high = interval(sent, unsent, chosen.seed)
        known, unknown = (1e3 * float(np.median(each)) for each in (sent, unsent))
        goal = f"{'≤' if salted else '≥'} {GOALS[name]}"
        rows.append(
            [
                *(name, str(pairs), f"{known:.1f}", f"{unknown:.1f}"),
                *(f"{found:.3f}", f"{low:.3f} to {high:.3f}", goal),
            ]
        )
        key = name.replace(" ", "_")
        figures |= {f"auc_{key}": found, f"auc_{key}_low": low, f"auc_{key}_high": high}
    columns = ["", "pairs", "sent p50, ms", "unsent p50, ms", "AUC", "95 %", "goal"]
    report("Telling sent prompts from unsent ones by time", columns, rows, figures, chosen.json)


if __name__ == "__main__":
    main()
