"""How long the router takes to place a request, by policy and by replicas that it knows.

Each fleet is half full of requests of all tiers, with load reports from other gateways, and prompts
of which some begin alike. A call is ``Router.admit`` of a request that comes and then
``Router.placements``, which places none, one, or several that had to wait; a decision is a call's
time over the requests that it placed, or all of it where it placed none. A request's end
(``on_finished``) is counted apart. Least requests in the same run is the baseline.
"""

import gc
import random
import statistics
import time

from benchmarks.measure import arguments, report
from cluster.config import POLICIES, TIERS, PolicyName
from cluster.steptime import step_model
from deployments.router import (
    LogNormal,
    QueueLimits,
    RemoteLoad,
    Request,
    Router,
    Slo,
    TierPolicy,
    Traits,
)

MODEL = "gpt-oss-120b"
PREFIX_BLOCKS = 16
SLOS = {"low": Slo(1.0, 0.015), "medium": Slo(2.0, 0.025), "high": Slo(3.0, 0.080)}
MEANS = {"low": 400.0, "medium": 1500.0, "high": 6000.0}


def make_router(policy: PolicyName, replicas: int) -> Router:
    tiers = {
        tier: TierPolicy(
            QueueLimits(1000, 60.0, 0), LogNormal.from_mean(MEANS[tier], 1.0), SLOS[tier]
        )
        for tier in TIERS
    }
    router = Router((MODEL,), tiers, policy)
    steps = step_model("H200", 2)
    assert steps is not None
    every = frozenset(TIERS)
    for index in range(replicas):
        router.on_replica_joined(
            Traits(f"r{index:04d}", MODEL, "main", every, every, 256, 131_072, 5_000_000, steps)
        )
    return router


class Load:
    """Requests that come at 4 a second and replica; virtual time goes on with them."""

    def __init__(self, router: Router, replicas: int) -> None:
        self.router = router
        self.replicas = replicas
        self.rng = random.Random(0)
        self.now = 0.0
        self.number = 0
        self.running: list[str] = []
        self.reported = 0

    def request(self) -> Request:
        self.number += 1
        rng = self.rng
        tier = rng.choices(TIERS, (50, 35, 15))[0]
        family = rng.randrange(40)
        blocks = tuple(hash((family, depth)) for depth in range(PREFIX_BLOCKS))
        return Request(str(self.number), MODEL, tier, 1200, 16_384, blocks=blocks)

    def report_one(self) -> None:
        """A frame's load from the next replica."""
        self.reported = (self.reported + 1) % self.replicas
        replica = self.router.fleet.get(f"r{self.reported:04d}")
        assert replica is not None
        low, medium, high = replica.own
        load = RemoteLoad(
            2 * len(replica.flights), 0, 0.1, 0.010, False,
            (2 * low, 2 * medium, 2 * high), (low, medium, high),
        )  # fmt: skip
        self.router.on_load(replica.traits.replica_id, load, self.now)

    def one(self) -> tuple[float, int, float]:
        """Seconds of a call, how many it placed, and seconds of the end of an older request."""
        self.now += 0.25 / self.replicas
        self.report_one()
        request = self.request()
        started = time.perf_counter()
        self.router.admit(request, self.now)
        placed = self.router.placements(self.now)
        decided = time.perf_counter()
        self.running += [each.flight.request.request_id for each in placed]
        ended = 0.0
        if len(self.running) > 40 * self.replicas:
            name = self.running.pop(self.rng.randrange(len(self.running)))
            before = time.perf_counter()
            flight = self.router.on_finished(name, self.now, complete=False)
            ended = time.perf_counter() - before
            assert flight is not None
        return decided - started, len(placed), ended


def measure(policy: PolicyName, replicas: int, samples: int) -> tuple[float, float, float, float]:
    """µs: median and 99th percentile of a decision, 99th of a call, median of an end."""
    load = Load(make_router(policy, replicas), replicas)
    for _ in range(45 * replicas):
        load.one()
    gc.collect()
    calls, decisions, ends = [], [], []
    for _ in range(samples):
        took_s, placed, ended_s = load.one()
        calls.append(1e6 * took_s)
        decisions += [1e6 * took_s / max(1, placed)] * max(1, placed)
        ends.append(1e6 * ended_s)
    cuts = statistics.quantiles(decisions, n=100)
    return cuts[49], cuts[98], statistics.quantiles(calls, n=100)[98], statistics.median(ends)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    sizes, samples = ((8, 128), 2000) if options.quick else ((8, 32, 128, 512), 10_000)
    figures, rows = {}, []
    for replicas in sizes:
        base = measure("least-requests", replicas, samples)
        for policy in POLICIES:
            p50, p99, call, end = measure(policy, replicas, samples)
            figures[f"{policy}/{replicas}/p50 us"] = p50
            figures[f"{policy}/{replicas}/p99 us"] = p99
            figures[f"{policy}/{replicas}/p99 us of a call"] = call
            rows.append(
                [
                    policy,
                    str(replicas),
                    f"{p50:.0f}  ×{p50 / base[0]:.2f}",
                    f"{p99:.0f}",
                    f"{call:.0f}",
                    f"{end:.0f}",
                ]
            )
    columns = ["policy", "replicas", "decision p50", "p99", "call p99", "end p50"]
    report("µs a request in the router", columns, rows, figures, options.json)


if __name__ == "__main__":
    main()
