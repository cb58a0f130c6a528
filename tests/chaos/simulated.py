"""Faults in the simulator: production routing and recovery in virtual time, by the thousand.

Each run has four replicas, of which three could carry the load, and one fault at a time. The
cluster's books are checked all along; at the end every stream must have all of its tokens, counted
from the one at which each attempt began. Here tokens are counted and have no values: those are
checked live (``tests.chaos.harness``) and on the real engine (``benchmarks.continuation``).
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from autoscaling.simulator.gateway import Stream
from autoscaling.simulator.scenario import FaultEvent, Scenario
from autoscaling.simulator.work import Outcome
from tests.autoscaling.checked_world import Checked
from tests.autoscaling.making import scenario

KINDS = ("crash", "hang", "slow", "partition")
REPLICAS, GATEWAYS = 4, 2
COLD_START_S = 3.0
RUN_S = 2000.0
"""Of which a run has some 200 faults."""

CALM_S = 2.0
"""Before the next fault, every replica has served for so long and nobody has waited to go on."""

CHECK_EVERY = 20
"""Events from one look at the books to the next; all streams are followed at each."""

MIX = {
    "low": {"weight": 0.5, "output_tokens_mean": 400, "output_sigma": 0.8},
    "medium": {"weight": 0.3, "output_tokens_mean": 1500, "output_sigma": 0.8},
    "high": {"weight": 0.2, "output_tokens_mean": 6000, "output_sigma": 0.8},
}


@dataclass
class Found:
    """What one run, or many of them, showed. ``stalls_s``: from the loss of a replica to the next
    token, of streams that had written something."""

    faults: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    tokens: int = 0
    violations: list[str] = field(default_factory=list)
    stalls_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, other: "Found") -> None:
        self.faults += other.faults
        self.streams += other.streams
        self.tokens += other.tokens
        self.violations += other.violations
        for kind, stalls_s in other.stalls_s.items():
            self.stalls_s.setdefault(kind, []).extend(stalls_s)


def scenario_of(seed: int, run_s: float) -> Scenario:
    workload = {
        "open_loop": [
            {
                "arrivals": {"rate_per_s": 2.0, "cv": 1.5},
                "mix": MIX,
                "prompts": {"tokens_mean": 600, "sigma": 1.0},
            }
        ]
    }
    pool = {"replicas": REPLICAS, "gpu": "H200", "max_num_seqs": 32, "kv_tokens": 400_000}
    return scenario(
        workload,
        duration_s=run_s,
        drain_s=1800.0,  # the longest replies take 20 minutes
        fleet={"pools": [pool], "cold_start_s": COLD_START_S},
        gateways={"number": GATEWAYS},
        # The first; from here on each comes when the one before is over.
        faults=[{"at_s": 5.0, "kind": "hang", "replica": seed % REPLICAS, "for_s": 2.0}],
    )


class Faulty(Checked):
    """One fault after the other, drawn from the seed, for as long as clients come."""

    def __init__(self, seed: int, run_s: float) -> None:
        super().__init__(scenario_of(seed, run_s), "effort", seed)
        self.kinds: Counter[str] = Counter(fault.kind for fault in self.scenario.faults)
        self.stalls_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self._rng = random.Random(seed)
        self._events = 0
        self._over_s = 5.0
        self._calm_since_s: float | None = None
        self._lost: dict[int, tuple[float, str]] = {}
        self._last = self.scenario.faults[0].kind

    def look(self) -> None:
        """After every event."""
        self._events += 1
        if self._events % CHECK_EVERY == 0:
            self.check()
            self._go_on_breaking()
        for gateway in self.gateways:
            for stream in gateway.streams.values():
                if stream.request.written:
                    self._follow(stream)

    def _follow(self, stream: Stream) -> None:
        number, now = stream.outcome.number, self.agenda.now
        if not stream.begun:
            self._lost.setdefault(number, (now, self._last))
        elif number in self._lost:
            lost_s, kind = self._lost.pop(number)
            self.stalls_s[kind].append(now - lost_s)

    def _go_on_breaking(self) -> None:
        now = self.agenda.now
        if now < self._over_s or now >= self.scenario.duration_s or not self._calm():
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now
        elif now - self._calm_since_s >= CALM_S:
            self._calm_since_s = None
            fault = self._drawn()
            self.kinds[fault.kind] += 1
            self._last = fault.kind
            assert fault.for_s is not None
            self._over_s = now + fault.for_s
            self.agenda.at(now, self._break, fault)

    def _calm(self) -> bool:
        return all(
            len(list(gateway.router.fleet)) == REPLICAS
            and not any(replica.shunned for replica in gateway.router.fleet)
            and not gateway.router.recovery.held
            for gateway in self.gateways
        )

    def _drawn(self) -> FaultEvent:
        rng, kind = self._rng, self._rng.choice(KINDS)
        told: dict[str, Any] = {
            "at_s": self.agenda.now,
            "kind": kind,
            "replica": rng.randrange(REPLICAS),
            "for_s": rng.uniform(0.3, 4.0),
        }
        if kind == "slow":
            told |= {"factor": rng.uniform(3.0, 10.0), "for_s": rng.uniform(1.0, 8.0)}
        if kind == "partition":
            # Long enough for the link to be given up.
            told |= {"gateway": rng.choice([None, *range(GATEWAYS)]), "for_s": rng.uniform(5.5, 9)}
        return FaultEvent.model_validate(told)


def judged(outcome: Outcome) -> str:
    """What is wrong with a stream that has ended; nothing if all of it came."""
    asked = min(outcome.arrival.output_tokens, outcome.arrival.max_tokens)
    if outcome.status != "finished":
        return f"{outcome.status} after {outcome.tokens} of {asked} tokens"
    if outcome.tokens != asked:
        return f"{outcome.tokens} tokens came of {asked}"
    return ""


def run_one(seed: int, run_s: float = RUN_S) -> Found:
    world = Faulty(seed, run_s)
    found = Found()
    try:
        world.run(world.look)
        world.check_end()
    except AssertionError as error:
        found.violations.append(f"seed {seed}, at {world.agenda.now:.3f} s: the books: {error}")
    for outcome in world.outcomes:
        wrong = judged(outcome)
        if wrong:
            found.violations.append(f"seed {seed}, stream {outcome.number}: {wrong}")
    found.faults = world.kinds
    found.streams = len(world.outcomes)
    found.tokens = sum(outcome.tokens for outcome in world.outcomes)
    found.stalls_s = world.stalls_s
    return found


def run(
    faults: int, seed: int, processes: int = 2, on_run: Callable[[Found], None] | None = None
) -> Found:
    """Runs with seeds from ``seed`` on, until there were at least so many faults."""
    total = Found()
    seeds = itertools.count(seed)
    with ProcessPoolExecutor(processes) as pool:
        running = {pool.submit(run_one, next(seeds)) for _ in range(processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                total.add(each.result())
                if on_run is not None:
                    on_run(total)
                if total.faults.total() < faults:
                    running.add(pool.submit(run_one, next(seeds)))
    return total
